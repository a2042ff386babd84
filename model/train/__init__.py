"""Pretraining: presets, packed batches, the loop, checkpoints with exact resume."""
