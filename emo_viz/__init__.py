"""EMO Viz: from a model, through its recorded routing, to figures and pages."""
