"""The objectives by name: what each changes in a preset. `--objective` takes these names.

What they compute is in `model.emo.routing` (EMO's pools) and `model.emo.objectives` (the others).
"""

from typing import Any

from model.emo.routing import PoolSizes

OBJECTIVES: dict[str, dict[str, Any]] = {
    "emo": {"objective": "emo"},
    "standard": {"objective": "standard"},
    # One MLP as wide as the experts that fire for a token.
    "dense": {"objective": "dense"},
    # Every document a pool of 32, as an ablation of the paper has it.
    "fixed-pool": {"objective": "emo", "pools": PoolSizes(32, 32, per_layer=False)},
    # The released models' draw: every layer its own size, uniform, hardly ever no pool.
    "per-layer": {"objective": "emo", "pools": PoolSizes(8, 128)},
    # Pools shrink from all experts to the drawn sizes in the first half of training.
    "pool-schedule": {"objective": "emo", "pool_schedule": 0.5},
    # A pool from the document so far: no token chooses for an earlier one.
    "causal": {"objective": "emo", "pool_choice": "causal"},
    # The fewest experts that hold 0.6 of a document's router probability.
    "top-p": {"objective": "emo", "pool_choice": "top_p"},
    # Balance of every four rows (the released code's rows on a GPU), not of the whole step.
    "local-balancing": {"objective": "emo", "balancing_rows": 4},
    "standard-local-balancing": {"objective": "standard", "balancing_rows": 4},
    # No pools, but experts that are liked by the same tokens cost something.
    "overlap": {"objective": "standard", "overlap_coef": 0.3},
    # ModuleFormer: tokens and experts should tell of each other; stands for the balancing loss.
    "mutual-information": {
        "objective": "standard",
        "lost_information_coef": 0.1,
        "balancing_coef": 0.0,
    },
    # DeepSeek-V3: no balancing loss; a bias on the choice goes up by 0.001 a step for experts with
    # less than an even load, down for the others.
    "loss-free": {"objective": "standard", "balancing_coef": 0.0, "bias_rate": 1e-3},
    "emo-loss-free": {"objective": "emo", "balancing_coef": 0.0, "bias_rate": 1e-3},
    # As much memory as 32 experts of the others.
    "standard-32": {"objective": "standard", "num_experts": 32},
    # Softmax over the chosen experts, none shared.
    "mixtral": {"objective": "standard", "num_shared_experts": 0, "norm_topk_prob": True},
    # One expert a token, eight times as wide, which takes no more than 1.25 times its share.
    "switch": {
        "objective": "standard",
        "num_shared_experts": 0,
        "num_experts_per_tok": 1,
        "merged_experts": 8,
        "expert_capacity": 1.25,
    },
    # Two experts a token, four times as wide, in every second layer.
    "gshard": {
        "objective": "standard",
        "num_shared_experts": 0,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "merged_experts": 4,
        "dense_every_second": True,
    },
}
