"""Plotly builders: pure functions from arrays and tables to figures."""
