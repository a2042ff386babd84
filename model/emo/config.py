"""EmoConfig: the geometry, the routing objective and its constants, as a transformers config.

Field names follow transformers and the released checkpoints (allenai/Emo_1b14b_1T and kin), so that
a released config.json loads as it is; the training-only fields have defaults from the paper.
"""

from typing import Any, Literal, Self, get_args

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import RopeParameters

from model.emo.routing import PoolSizes

Objective = Literal["emo", "standard", "dense"]
BalancingScope = Literal["global", "local"]
PoolChoice = Literal["document", "causal", "top_p"]
UNKNOWN = "unknown"
"""The objective of a checkpoint whose config.json says none, as no released one does."""

SAID_IN_FILES = ("num_experts", "num_experts_per_tok", "num_shared_experts")
"""Without these a config.json means another model to the released code than to this class."""

# Fields that would change what the model computes, and the values with which they do not.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "always_active_experts": (None, []),
    "ghost_extend_eval": (None, False, 0, "", "false", "False"),
    "partial_rotary_factor": (None, 1),
    "sliding_window": (None,),
    "is_causal": (None, True),
}
# Fields of older files that nothing reads, and the code that a checkpoint would have us run.
DROPPED = ("pool_size_eval", "auto_map")


@strict
class EmoConfig(PreTrainedConfig):
    """Configuration of an EMO, standard-MoE or dense twin (paper section 4.1, appendix A).

    `num_experts` and `num_experts_per_tok` count the shared experts, which are the last ids.
    `num_experts_per_layer` gives each layer its own number; a layer of 0 is dense, a SwiGLU of
    width `dense_intermediate_size`, and one with fewer experts than `num_experts_per_tok` uses all
    of them for every token. `norm_topk_prob` divides the gate weights by their sum.

    `objective` is the one switch between the twins; "unknown" is a checkpoint that does not say,
    which runs like any other and cannot be trained until it is told. The fields of `pool_sizes` say
    how the size of a document's pool is drawn in training. `load_balancing_scope` says whether
    expert counts are summed over all data-parallel ranks (global) or kept per rank (local), and
    `balancing_rows` demands balance of every so many rows alone. `pool_choice` is how a pool is
    chosen, and two coefficients weigh losses of `model.emo.objectives`; 0 is without. With an
    `expert_capacity` slots beyond so many times an expert's even share are dropped in training.
    `correction_bias` gives every routed expert a number that is added to its score for the choice
    alone, in training and outside it; training moves it towards an even load.

    Raises ValueError for a geometry in which a token cannot find enough experts, for pools that
    cannot be drawn, and for a field of the released code that this model does not compute.
    """

    model_type = "emo"
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {"num_local_experts": "num_experts"}
    default_theta = 500_000.0

    vocab_size: int = 100352
    hidden_size: int = 2048
    intermediate_size: int = 1024
    dense_intermediate_size: int | None = None
    dense_mlp_bias: bool = False
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
    pool_choice: str = "document"
    pool_top_p: float = 0.6
    load_balancing_scope: str = "global"
    balancing_rows: int = 0
    expert_overlap_coef: float = 0.0
    lost_information_coef: float = 0.0
    expert_capacity: float = 0.0
    correction_bias: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        for field in DROPPED:
            kwargs.pop(field, None)
        self._check_layers()
        self._refuse_unsupported(kwargs)
        super().__post_init__(**kwargs)
        _check_choice("objective", self.objective, (*get_args(Objective), UNKNOWN))
        _check_choice("load_balancing_scope", self.load_balancing_scope, get_args(BalancingScope))
        _check_choice("pool_choice", self.pool_choice, get_args(PoolChoice))
        if self.objective != "dense":
            self._check_routing()
        if self.objective == "emo":
            self.check_pools()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """The config that a config.json holds; without an objective its objective is "unknown".

        Raises ValueError as the class does, and for a file that does not say its routing.
        """
        fields = {"objective": UNKNOWN} | config_dict
        missing = [name for name in SAID_IN_FILES if name not in fields]
        if missing and fields["objective"] != "dense":
            raise ValueError(f"This config.json does not say {missing[0]}; copy it again.")
        return super().from_dict(fields, **kwargs)

    def _refuse_unsupported(self, kwargs: dict[str, Any]) -> None:
        """Fields of the released code: those that change nothing here are taken out of `kwargs`."""
        for architecture in self.architectures or ():
            if str(architecture).startswith(("Olmo", "FlexOlmo")):
                raise ValueError(f"This is a config of {architecture}, not of EmoForCausalLM.")
        rope = (self.rope_parameters or {}) | (kwargs.get("rope_scaling") or {})
        for field, neutral in UNSUPPORTED.items():
            _check_neutral(field, kwargs.pop(field, rope.get(field)), neutral)
        active = kwargs.pop("always_active_experts_per_layer", None)
        _check_neutral("always_active_experts_per_layer", any(active or ()) and active, (False,))
        shared, layers = self.num_shared_experts, range(self.num_hidden_layers)
        alike = [min(shared, self.experts_in_layer(layer)) for layer in layers]
        given = kwargs.pop("num_shared_experts_per_layer", None)
        _check_neutral("num_shared_experts_per_layer", given, (None, alike))

    def _check_layers(self) -> None:
        if self.num_attention_heads % (self.num_key_value_heads or 1):
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} is no multiple of "
                f"num_key_value_heads={self.num_key_value_heads}."
            )
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act={self.hidden_act!r} is no activation of transformers.")
        per_layer = self.num_experts_per_layer
        if per_layer and len(per_layer) != self.num_hidden_layers:
            raise ValueError(
                f"num_experts_per_layer has {len(per_layer)} entries for "
                f"num_hidden_layers={self.num_hidden_layers}."
            )

    def _check_routing(self) -> None:
        if self.norm_topk_prob and self.num_shared_experts:
            raise ValueError("norm_topk_prob is undefined with shared experts; set it to false.")
        if not self.num_shared_experts < self.num_experts_per_tok <= self.num_experts:
            raise ValueError(
                f"num_experts_per_tok={self.num_experts_per_tok} must exceed num_shared_experts="
                f"{self.num_shared_experts} and not exceed num_experts={self.num_experts}."
            )
        for layer, count in enumerate(self.num_experts_per_layer or ()):
            if count and not self.num_shared_experts < count <= self.num_experts:
                raise ValueError(
                    f"num_experts_per_layer gives layer {layer} {count} experts; it must be 0, or "
                    f"more than num_shared_experts={self.num_shared_experts} and not above "
                    f"num_experts={self.num_experts}."
                )
            if not count and not self.dense_intermediate_size:
                raise ValueError(
                    f"Layer {layer} has no experts: set dense_intermediate_size, its width."
                )

    def check_pools(self) -> None:
        """Raises ValueError unless document pools can be drawn, each wide enough for a token."""
        if self.pool_size_min < self.num_routed_per_tok:
            raise ValueError(
                f"pool_size_min={self.pool_size_min} is smaller than the "
                f"{self.num_routed_per_tok} routed experts that every token needs."
            )
        if self.pool_size_max < self.pool_size_min:
            raise ValueError(
                f"pool_size_max={self.pool_size_max} is smaller than pool_size_min="
                f"{self.pool_size_min}."
            )
        if not 0 <= self.pool_free_share <= 1:
            raise ValueError(f"pool_free_share={self.pool_free_share} is a share: 0 to 1.")
        if not 0 < self.pool_top_p <= 1:
            raise ValueError(f"pool_top_p={self.pool_top_p} is a share: above 0, to 1.")

    @property
    def pool_sizes(self) -> PoolSizes:
        """How the size of a document's pool is drawn in training; see `check_pools`."""
        self.check_pools()
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
        """Experts of one layer: as many as `num_experts` unless the layers differ."""
        return self.num_experts_per_layer[layer] if self.num_experts_per_layer else self.num_experts

    def is_dense(self, layer: int) -> bool:
        """Whether a layer has one MLP for all tokens in place of a router and experts."""
        return self.objective == "dense" or self.experts_in_layer(layer) == 0


def _check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{field}={value!r} is not one of {', '.join(choices)}.")


def _check_neutral(field: str, value: Any, neutral: tuple[Any, ...]) -> None:
    if value not in neutral:
        raise ValueError(f"{field}={value!r} is not supported: this model does not compute it.")


AutoConfig.register("emo", EmoConfig, exist_ok=True)
