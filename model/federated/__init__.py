"""Modules trained apart: clients that share a parent, no documents, and in the end one model."""
