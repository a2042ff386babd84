"""EmoConfig: the geometry, the routing objective and its constants, as a transformers config.

Field names follow transformers and the released checkpoints (allenai/Emo_1b14b_1T and kin), so that
a released config.json loads as it is; the training-only fields have defaults from the paper.
"""

from typing import Literal, get_args

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import RopeParameters

from model.routing import PoolSizes

Objective = Literal["emo", "standard", "dense"]
BalancingScope = Literal["global", "local"]


@strict
class EmoConfig(PreTrainedConfig):
    """Configuration of an EMO, standard-MoE or dense twin (paper section 4.1, appendix A).

    `num_experts` and `num_experts_per_tok` count the shared experts, which are the last ids.
    `objective` is the one switch between the twins. The fields of `pool_sizes` say how the size of
    a document's pool is drawn in training, `pool_size_eval` is the fixed size used when a caller
    asks for pools outside training. `load_balancing_scope` says whether expert counts are summed
    over all data-parallel ranks (global) or kept per rank (local).

    Raises ValueError for a geometry in which a token cannot find enough experts, and for a
    `pool_free_share` that is no share.
    """

    model_type = "emo"
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {"num_local_experts": "num_experts"}

    vocab_size: int = 100352
    hidden_size: int = 2048
    intermediate_size: int = 1024
    dense_intermediate_size: int | None = None
    num_hidden_layers: int = 16
    num_attention_heads: int = 16
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 4096
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    pad_token_id: int | None = 100277
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = 100257
    tie_word_embeddings: bool = False
    rope_parameters: RopeParameters | dict | None = None
    attention_bias: bool = False
    attention_dropout: float | int = 0.0

    num_experts: int = 128
    num_experts_per_tok: int = 8
    num_shared_experts: int = 1
    num_experts_per_layer: list[int] | None = None
    norm_topk_prob: bool = False
    output_router_logits: bool = False
    router_aux_loss_coef: float = 0.1
    router_z_loss_coef: float = 1e-3

    objective: str = "emo"
    pool_size_min: int = 8
    pool_size_max: int = 128
    pool_size_log_uniform: bool = False
    pool_size_per_layer: bool = True
    pool_free_share: float = 0.0
    pool_size_eval: int = 32
    load_balancing_scope: str = "global"

    def __post_init__(self, **kwargs: object) -> None:
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.rope_parameters is None:
            self.rope_parameters = {"rope_type": "default", "rope_theta": 500_000.0}
        super().__post_init__(**kwargs)
        self._check_routing()

    def _check_routing(self) -> None:
        _check_choice("objective", self.objective, get_args(Objective))
        _check_choice("load_balancing_scope", self.load_balancing_scope, get_args(BalancingScope))
        if self.objective == "dense":
            return
        if self.norm_topk_prob and self.num_shared_experts:
            raise ValueError("norm_topk_prob is undefined with shared experts; set it to false.")
        if not self.num_shared_experts < self.num_experts_per_tok <= self.num_experts:
            raise ValueError(
                f"num_experts_per_tok={self.num_experts_per_tok} must exceed num_shared_experts="
                f"{self.num_shared_experts} and not exceed num_experts={self.num_experts}."
            )
        if self.pool_size_min < self.num_routed_per_tok:
            raise ValueError(
                f"pool_size_min={self.pool_size_min} is smaller than the "
                f"{self.num_routed_per_tok} routed experts that every token needs."
            )
        if not 0 <= self.pool_free_share <= 1:
            raise ValueError(f"pool_free_share={self.pool_free_share} is a share: 0 to 1.")

    @property
    def pool_sizes(self) -> PoolSizes:
        """How the size of a document's pool is drawn in training."""
        return PoolSizes(
            self.pool_size_min,
            self.pool_size_max,
            self.pool_size_log_uniform,
            self.pool_size_per_layer,
            self.pool_free_share,
        )

    @property
    def num_routed_experts(self) -> int:
        """R: experts that the router chooses among."""
        return self.num_experts - self.num_shared_experts

    @property
    def num_routed_per_tok(self) -> int:
        """Routed experts per token: top-k less the shared experts."""
        return self.num_experts_per_tok - self.num_shared_experts

    def experts_in_layer(self, layer: int) -> int:
        """Experts of one layer; differs from `num_experts` only in cut checkpoints."""
        return self.num_experts_per_layer[layer] if self.num_experts_per_layer else self.num_experts


def _check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{field}={value!r} is not one of {', '.join(choices)}.")
