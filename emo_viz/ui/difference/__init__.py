"""Routing difference: the same tokens by two runs."""
