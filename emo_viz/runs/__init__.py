"""Recipes: one way to make each derived file, whoever asks for it; nothing is drawn or printed."""
