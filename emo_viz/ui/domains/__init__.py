"""The domains page: what domains share, and how the experts are used over them."""
