"""Subset ablation: what is lost with fewer experts."""
