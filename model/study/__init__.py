"""The study: EMO against its ablations and baselines, as a list of runs and a queue for them."""
