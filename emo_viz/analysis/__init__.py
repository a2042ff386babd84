"""Pure functions over traces, recordings and tables; no figures, no pages."""
