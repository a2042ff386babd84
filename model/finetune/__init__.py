"""Training a finished model further on one domain, wholly or in part, and what that gains."""
