"""Bundle a finished run: python -m model.train.release --run runs/nano-emo --out FOLDER

Copies the exported model with its training settings and metrics, and writes a model card.
`--mantissa-bits 4` rounds the weights, so that the file compresses to three quarters.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import click
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

CARD = Path(__file__).with_name("model_card.md").read_text()


@click.command()
@click.option("--run", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option(
    "--mantissa-bits",
    type=click.IntRange(1, 7),
    default=7,
    show_default=True,
    help="Bits kept of every weight's mantissa; bf16 has 7.",
)
def main(run: Path, out: Path, mantissa_bits: int) -> None:
    """Copy a finished run's model, settings and metrics, and write its model card."""
    if not (run / "export" / "training.json").is_file():
        raise click.UsageError(f"{run} has no finished export; run python -m model.train first.")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(run / "export", partial)
    shutil.copy(run / "metrics.jsonl", partial)
    _round_weights(partial / "model.safetensors", mantissa_bits)
    (partial / "README.md").write_text(model_card(run, out.name, mantissa_bits))
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


def _round_weights(path: Path, mantissa_bits: int) -> None:
    weights = {name: rounded(weight, mantissa_bits) for name, weight in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


def rounded(weight: Tensor, mantissa_bits: int) -> Tensor:
    """The nearest numbers whose mantissa ends in zeros after `mantissa_bits` bits."""
    mantissa, exponent = torch.frexp(weight.float())
    steps = 2.0 ** (mantissa_bits + 1)  # of a mantissa between one half and one
    return torch.ldexp((mantissa * steps).round() / steps, exponent).to(weight.dtype)


def model_card(run: Path, name: str, mantissa_bits: int) -> str:
    """The card's text, every figure read from the run."""
    training: dict[str, Any] = json.loads((run / "export" / "training.json").read_text())
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    emo = training["objective"] == "emo"
    with safe_open(run / "export" / "model.safetensors", framework="np") as weights:
        names = weights.keys()
        parameters = sum(math.prod(weights.get_slice(name).get_shape()) for name in names)
    facts = {
        "name": name,
        "what": "mixture of experts trained with document pools (EMO)" if emo else "standard MoE",
        "parameters": parameters / 1e6,
        "mantissa_bits": mantissa_bits,
        "pool": _pools(**training["pools"]) if emo else "none",
        "final_loss": sum(m["loss"] for m in metrics[-50:]) / len(metrics[-50:]),
        "heldout_loss": [m["heldout_loss"] for m in metrics if "heldout_loss" in m][-1],
    }
    return CARD.format(**(training | facts))


def _pools(
    smallest: int, largest: int, log_uniform: bool, per_layer: bool, free_share: float
) -> str:
    spread = "log-uniform" if log_uniform else "uniform"
    drawn = "document and layer" if per_layer else "document"
    free = f"; {free_share:.0%} of the draws give no pool" if free_share else ""
    return f"{smallest} to {largest} experts, {spread}, drawn per {drawn}{free}"


if __name__ == "__main__":
    main()
