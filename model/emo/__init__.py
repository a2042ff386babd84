"""The model: config, routing, router, attention, experts and losses, for transformers."""
