"""What the config.json of families calls its numbers. Importing this is light."""

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""Experts that a router chooses among."""
PER_TOKEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "moe_top_k",
    "moe_topk",
    "moe_k",
    "top_k_experts",
)
"""How many of them a token uses."""
LENGTHS = ("max_position_embeddings", "max_seq_len", "n_positions")
"""Tokens of the longest text that the model can take."""
LAYERS = ("num_hidden_layers", "num_layers", "n_layers")


def is_count(value: object) -> bool:
    """Whether a value that was read is a whole number from 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
