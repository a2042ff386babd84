"""Mixture-of-experts language models: the EMO objective, its standard twin, training, subsets.

Nothing in here knows of pictures, pages or traces.
"""
