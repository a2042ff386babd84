"""Training presets by name: geometry, data order and optimisation as one typed value."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from model import native
from model.emo.config import EmoConfig, Objective, PoolChoice
from model.emo.routing import PoolSizes
from model.train.objectives import OBJECTIVES


@dataclass(frozen=True)
class Preset:
    """Everything that decides a run. Equal presets, corpora and seeds give equal weights.

    `vocab_size` is what the preset was made for; a run takes its corpus' (`for_vocabulary`).
    Lengths are in tokens; `rows` are sequences a step; with `own_rows` a document as long as the
    context shares its rows with no other. Coefficients follow the paper
    (section 4.1 and appendix A): balancing 0.1, router z 1e-3, head z 1e-5.
    """

    name: str
    objective: Objective
    vocab_size: int
    hidden_size: int
    expert_width: int
    num_layers: int
    num_heads: int
    num_experts: int = 128
    num_experts_per_tok: int = 8
    num_shared_experts: int = 1
    max_position_embeddings: int = 4096
    context: int = 4096
    rows: int = 1024
    steps: int = 30_995
    warmup_steps: int = 2000
    learning_rate: float = 4e-3
    final_lr_share: float = 0.1
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    grad_clip: float = 1.0
    balancing_coef: float = 0.1
    router_z_coef: float = 1e-3
    head_z_coef: float = 1e-5
    pools: PoolSizes = PoolSizes(8, 128)
    own_rows: bool = False
    seed: int = 0
    mixture: str = ""  # weights of domains (`model.data.mixture`); "": every row as often
    bf16: bool = True  # of matrix products; the routers stay in float32
    save: Literal["xh", "x"] = "xh"  # what experts on a GPU keep for the backward pass
    pool_choice: PoolChoice = "document"
    pool_schedule: float = 0.0  # share of the steps in which pools shrink from all experts
    balancing_rows: int = 0  # rows of which balance is demanded alone; 0: of the whole step
    balance: Literal["step", "micro"] = "step"  # of a step in parts: of it all, or of each part
    overlap_coef: float = 0.0
    lost_information_coef: float = 0.0
    norm_topk_prob: bool = False
    merged_experts: int = 1  # of so many experts one is made, as wide as they together
    dense_every_second: bool = False  # layers, from the first: an MLP as wide as what a token uses
    bias_rate: float = 0.0  # a step, of the bias that evens the load in place of a loss; 0: none
    expert_capacity: float = 0.0  # times an even share of the slots; 0: no limit
    rope_theta: float = EmoConfig.default_theta
    schedule: Literal["cosine", "linear", "wsd"] = "cosine"  # of the rate after the warm-up
    decay_share: float = 0.2  # of the steps in which "wsd" falls, at the end
    guard_sigmas: float = 6.0  # a loss so far above the latest skips its step; 0: none does
    guard_norms: float = 10.0  # a gradient's norm so many times the usual, too; 0: none does
    start: str = ""  # digest of the weights that the run starts from; "": fresh ones

    @property
    def tokens_per_step(self) -> int:
        return self.rows * self.context

    def for_vocabulary(self, tokens: int) -> "Preset":
        """The preset for a tokenizer of so many tokens, in rows that compiled code can take."""
        return replace(self, vocab_size=-(-tokens // native.WIDTH) * native.WIDTH)

    def model_config(self, eos_token_id: int, pad_token_id: int) -> EmoConfig:
        """The EmoConfig of this preset."""
        return EmoConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.expert_width * self.merged_experts,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_experts=self.num_experts // self.merged_experts,
            **self._dense_layers(),
            num_experts_per_tok=self.num_experts_per_tok,
            num_shared_experts=self.num_shared_experts,
            max_position_embeddings=self.max_position_embeddings,
            objective=self.objective,
            pool_size_min=self.pools.smallest,
            pool_size_max=self.pools.largest,
            pool_size_log_uniform=self.pools.log_uniform,
            pool_size_per_layer=self.pools.per_layer,
            pool_free_share=self.pools.free_share,
            router_aux_loss_coef=self.balancing_coef,
            router_z_loss_coef=self.router_z_coef,
            pool_choice=self.pool_choice,
            balancing_rows=self.balancing_rows,
            expert_overlap_coef=self.overlap_coef,
            lost_information_coef=self.lost_information_coef,
            expert_capacity=self.expert_capacity,
            correction_bias=self.bias_rate > 0,
            norm_topk_prob=self.norm_topk_prob,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
        )

    def _dense_layers(self) -> dict[str, Any]:
        if not self.dense_every_second:
            return {}
        experts = self.num_experts // self.merged_experts
        width = self.expert_width * self.merged_experts * self.num_experts_per_tok
        counts = [experts if layer % 2 else 0 for layer in range(self.num_layers)]
        return {"num_experts_per_layer": counts, "dense_intermediate_size": width}


NANO = Preset(
    name="nano",
    objective="emo",
    vocab_size=4096,
    hidden_size=128,
    expert_width=32,
    num_layers=4,
    num_heads=4,
    max_position_embeddings=512,
    context=256,
    rows=64,
    steps=1900,
    warmup_steps=100,
    own_rows=True,
    pools=PoolSizes(8, 128, log_uniform=True, per_layer=False, free_share=0.4),
)

PAPER_1B14B = Preset(
    name="1b14b",
    objective="emo",
    vocab_size=100_352,
    hidden_size=2048,
    expert_width=1024,
    num_layers=16,
    num_heads=16,
)

PRESETS = {preset.name: preset for preset in (NANO, PAPER_1B14B)}


def find_preset(name: str, objective: str, **changes: Any) -> Preset:
    """A preset by name, as an objective of `objectives` has it, and any named fields replaced.

    Raises ValueError for an unknown name of either.
    """
    if name not in PRESETS:
        raise ValueError(f"There is no preset {name!r}; choose one of {', '.join(PRESETS)}.")
    if objective not in OBJECTIVES:
        raise ValueError(
            f"There is no objective {objective!r}; choose one of {', '.join(OBJECTIVES)}."
        )
    given = {key: value for key, value in changes.items() if value is not None}
    preset = replace(PRESETS[name], **(OBJECTIVES[objective] | given))
    positions = max(preset.max_position_embeddings, preset.context)
    return replace(preset, max_position_embeddings=positions)


def bf16_gains(device: torch.device) -> bool:
    """Whether a device's products of bf16 are faster than those of float32.

    Of CPUs, those with matrix units and AMD's: elsewhere training in bf16 takes longer
    (`benchmarks.training_speed`: by a third on an Intel processor that multiplies bf16).
    """
    if device.type != "cpu":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_amx_tile_supported() or native.half_gains())
