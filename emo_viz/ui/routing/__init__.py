"""Token routing: one text in both models."""
