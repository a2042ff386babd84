"""Document clusters: which tokens and documents share experts."""
