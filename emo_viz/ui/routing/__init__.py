"""Token routing: one text in one model, or in two."""
