"""Working with a checkpoint: reading, running, cutting it down, choosing what stays."""
