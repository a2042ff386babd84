"""Kernel: what was compiled, and what a GPU measured."""
