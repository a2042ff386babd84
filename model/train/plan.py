"""What a training run takes, by formula: python -m model.train.plan --preset 1b14b --gpus 8

Pure arithmetic on a preset: nothing is made, and nothing is measured. What is assumed is an option
or a constant here; docs/training.md derives the formulas.
"""

from dataclasses import dataclass

import click

from model.cli import Command, say
from model.train.presets import PRESETS, Preset

GIB = 2**30
# Bytes a parameter: float32 weights and AdamW's two moments, sharded over the GPUs; gradients in
# float32 as FSDP2 reduces them, sharded too.
WEIGHTS, MOMENTS, GRADIENTS = 4, 8, 4
COMPUTED = 2  # bytes a number in bf16
H100_TFLOPS, MFU = 989.0, 0.35


@dataclass(frozen=True)
class Sizes:
    """Parameters of a preset: all, those that a token uses, and those of one layer."""

    total: int
    active: int
    layer: int
    embedding: int


def sizes(preset: Preset) -> Sizes:
    """The parameters by formula, in numbers.

    A layer has four projections of the attention (4 d^2), two norms (2 d), a router (E d, of whose
    rows a token uses all) and E experts of three matrices (3 d w). Embedding and head are apart
    (2 V d), and one norm comes last.
    """
    d, width = preset.hidden_size, preset.expert_width * preset.merged_experts
    experts = preset.num_experts // preset.merged_experts
    expert = 3 * d * width
    beside = 4 * d * d + 2 * d + experts * d
    embedding = preset.vocab_size * d
    layer = beside + experts * expert
    active = beside + preset.num_experts_per_tok * expert
    rest = 2 * embedding + d
    return Sizes(
        preset.num_layers * layer + rest,
        preset.num_layers * active + rest,
        layer,
        embedding,
    )


def flops_per_token(preset: Preset) -> float:
    """Of one training step, a token: 6 for each active parameter but the embedding's (a look-up),
    and 12 T d a layer for attention over a context of T tokens, half of which the causal mask
    leaves: 6 T d (PaLM, arXiv 2204.02311, appendix B)."""
    matmuls = 6.0 * (sizes(preset).active - sizes(preset).embedding)
    return matmuls + 6.0 * preset.num_layers * preset.context * preset.hidden_size


def activation_bytes(preset: Preset, rows: int, recompute: str = "none") -> float:
    """What a micro-batch of `rows` rows keeps for the backward pass, in bytes.

    A token keeps in every layer, in bf16: the stream at both norms, the norms' outputs, q, k, v and
    the attention's output (8 d), and of every expert that it uses its input, gate, up and their
    product, and its output (2 d + 3 w each); with the router's logits and probabilities in float32
    (2 E). `recompute` = "experts" keeps of the experts no more than their input; "layers" keeps of
    a layer its input alone (and one layer in full while it is computed again). The logits of the
    head and their gradient are float32, once (2 V).
    """
    d, width, top_k = preset.hidden_size, preset.expert_width, preset.num_experts_per_tok
    beside = 8 * d * COMPUTED + 2 * preset.num_experts * 4
    experts = top_k * (2 * d + 3 * width) * COMPUTED
    kept = {
        "none": preset.num_layers * (beside + experts),
        "experts": preset.num_layers * (beside + d * COMPUTED) + experts,
        "layers": preset.num_layers * d * COMPUTED + beside + experts,
    }[recompute]
    head = 2 * preset.vocab_size * 4
    return float(rows * preset.context * (kept + head))


@dataclass(frozen=True)
class Plan:
    """A preset on so many GPUs: micro_rows are the rows that a GPU runs at once.

    tflops: of a GPU in bf16 at most; mfu: the share of them that does the model's arithmetic;
    recompute: what is computed again in the backward pass instead of kept.
    """

    preset: Preset
    gpus: int
    micro_rows: int = 1
    recompute: str = "none"
    tflops: float = H100_TFLOPS
    mfu: float = MFU

    @property
    def accumulation(self) -> int:
        """Micro-batches a step. Raises ValueError if the rows do not come out even."""
        accumulation, left = divmod(self.preset.rows, self.gpus * self.micro_rows)
        if left or not accumulation:
            raise ValueError(
                f"{self.preset.rows} rows a step do not divide among {self.gpus} GPUs of "
                f"{self._rows()} at a time; choose other --gpus or --micro-rows."
            )
        return accumulation

    @property
    def state_bytes(self) -> float:
        """Weights, moments and gradients on each GPU."""
        return sizes(self.preset).total * (WEIGHTS + MOMENTS + GRADIENTS) / self.gpus

    @property
    def gathered_bytes(self) -> float:
        """The layer that is computed and the next, whole in bf16, and their gradients."""
        return 2 * 2 * COMPUTED * sizes(self.preset).layer * (self.gpus > 1)

    @property
    def activation_bytes(self) -> float:
        """Of one micro-batch on each GPU."""
        return activation_bytes(self.preset, self.micro_rows, self.recompute)

    @property
    def seconds(self) -> float:
        """Of the whole run; what is computed again is not among the arithmetic of the MFU."""
        tokens = self.preset.steps * self.preset.tokens_per_step
        return tokens * flops_per_token(self.preset) / (self.gpus * self.tflops * 1e12 * self.mfu)

    def _rows(self) -> str:
        return f"{self.micro_rows} row{'s' * (self.micro_rows > 1)}"

    def lines(self) -> list[str]:
        """What a person wants to know, a line each."""
        preset, own = self.preset, sizes(self.preset)
        tokens = preset.steps * preset.tokens_per_step
        memory = self.state_bytes + self.gathered_bytes + self.activation_bytes
        accumulation = self.accumulation
        return [
            f"{preset.name}: {own.total:,} parameters, {own.active:,} of them for each token.",
            f"{preset.steps:,} steps of {preset.tokens_per_step:,} tokens ({preset.rows:,} rows of "
            f"{preset.context:,}): {tokens / 1e9:,.3g} billion tokens.",
            f"{self.gpus} GPU{'s' * (self.gpus > 1)}, {self._rows()} at a time on each, "
            f"{accumulation} micro-batches a step.",
            f"Memory on each: {self.state_bytes / GIB:,.1f} GiB of weights, moments and gradients, "
            f"{self.gathered_bytes / GIB:,.1f} of gathered layers, "
            f"{self.activation_bytes / GIB:,.1f} of activations (recompute {self.recompute}): "
            f"{memory / GIB:,.1f} GiB.",
            f"{flops_per_token(preset) / 1e9:,.3g} GFLOP a token; at {self.mfu:.0%} of "
            f"{self.tflops:,.0f} TFLOP/s a GPU: {tokens / self.seconds:,.0f} tokens/s, "
            f"{self.seconds / 86400:,.2g} days, "
            f"{self.seconds * self.gpus / 3600:,.0f} GPU hours.",
            f"Each process makes the whole model before it is shared out: "
            f"{own.total * WEIGHTS / GIB:,.1f} GiB in main memory, then on its GPU.",
            f"A checkpoint: {own.total * (WEIGHTS + MOMENTS) / GIB:,.1f} GiB.",
        ]


@click.command(cls=Command)
@click.option(
    "--preset",
    "name",
    default="1b14b",
    show_default=True,
    type=click.Choice(sorted(PRESETS)),
    help="The model, and the rows and steps that it is trained with.",
)
@click.option(
    "--gpus",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Among which rows and weights are shared.",
)
@click.option(
    "--micro-rows",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Rows that a GPU runs at once.",
)
@click.option(
    "--recompute",
    type=click.Choice(["none", "experts", "layers"]),
    default="none",
    show_default=True,
    help="What is computed again in the backward pass instead of kept.",
)
@click.option(
    "--tflops",
    type=click.FloatRange(min=0, min_open=True),
    default=H100_TFLOPS,
    show_default=True,
    help="A GPU's at most, dense bf16; the default is an H100's.",
)
@click.option(
    "--mfu",
    type=click.FloatRange(0, 1, min_open=True),
    default=MFU,
    show_default=True,
    help="The share of these that is the model's arithmetic: assumed, not measured.",
)
def main(name: str, gpus: int, micro_rows: int, recompute: str, tflops: float, mfu: float) -> None:
    """Say what a preset takes on so many GPUs, by formula: parameters, memory, time."""
    plan = Plan(PRESETS[name], gpus, micro_rows, recompute, tflops, mfu)
    say("\n".join(plan.lines()))


if __name__ == "__main__":
    main(prog_name="python -m model.train.plan")
