"""Bundle a finished run: python -m model.train.release --run runs/nano-emo --out FOLDER

Copies the exported model with its training settings, metrics and loads, and writes a model card.
`--mantissa-bits 4` rounds the weights, so that the file compresses to three quarters.
"""

import json
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.cli import Command, say
from model.files import (
    check_writable,
    contents,
    new_folder,
    num_parameters,
    read_json,
    read_text,
    weight_files,
    write_text,
)
from model.train.options import of_the_preset
from model.train.presets import find_preset
from model.train.steps import LOADS, METRICS

CARD = Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")
CARD_NAME = "README.md"
TRAINING = "training.json"
# What a release may hold, so that nothing else is ever removed with an older one.
RELEASED = re.compile(
    r"README\.md|training\.json|(metrics|load)\.jsonl|(generation_)?config\.json|vocab\.json|merges\.txt"
    r"|tokenizer\.model|chat_template\.jinja"
    r"|(added_tokens|special_tokens_map|tokenizer|tokenizer_config)\.json"
    r"|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json"
)
KINDS = {
    "emo": "mixture of experts trained with document pools (EMO)",
    "standard": "standard MoE",
    "dense": "dense model",
}


@click.command(cls=Command)
@click.option(
    "--run",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of a finished run of python -m model.train.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for the release; a release that is already there is replaced.",
)
@click.option(
    "--mantissa-bits",
    type=click.IntRange(1, 7),
    default=7,
    show_default=True,
    help="Bits kept of every weight's mantissa; bf16 has 7.",
)
@click.option(
    "--licence", default="apache-2.0", show_default=True, help="Of the weights, for the card."
)
@click.option(
    "--metrics-every",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="One line of so many stays in metrics.jsonl and load.jsonl, beside the last, held-out "
    "losses and skipped steps.",
)
def main(run: Path, out: Path, mantissa_bits: int, licence: str, metrics_every: int) -> None:
    """Copy a finished run's model, settings and metrics, and write its model card."""
    older = ", in place of an older release" * bool(contents(out))
    size = release(run, out, mantissa_bits, licence, metrics_every)
    say(f"{out}: {size / 1e6:.1f} MB of weights and a model card{older}.")


def release(
    run: Path,
    out: Path,
    mantissa_bits: int = 7,
    licence: str = "apache-2.0",
    metrics_every: int = 1,
) -> int:
    """Write a finished run's release to the folder `out`; returns the bytes of its weights.

    Raises ValueError for a run without an export, or an `out` that is something else.
    """
    if not (run / "export" / TRAINING).is_file():
        raise ValueError(f"{run} has no finished export; run python -m model.train first.")
    check_out(out)
    card = model_card(run, out.resolve().name, mantissa_bits, licence, metrics_every)
    with new_folder(out) as folder:
        for file in (run / "export").iterdir():
            if RELEASED.fullmatch(file.name):
                shutil.copyfile(file, folder / file.name)
        _copy_thinned(run / METRICS, folder / METRICS, metrics_every)
        if (run / LOADS).is_file():
            _copy_thinned(run / LOADS, folder / LOADS, metrics_every)
        for file in weight_files(folder):
            _round_weights(file, mantissa_bits)
        write_text(folder / CARD_NAME, card)
    return sum(file.stat().st_size for file in weight_files(out))


def check_out(out: Path) -> None:
    """Raises ValueError unless `out` is free: not there, an empty folder, or an older release."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; --out needs a folder.")
    names = {path.name for path in contents(out)}
    foreign = min((name for name in names if not RELEASED.fullmatch(name)), default=None)
    if foreign:
        raise ValueError(f"{out} holds {foreign!r}, which no release writes; choose another --out.")
    if names and not {CARD_NAME, TRAINING, "config.json"} <= names:
        raise ValueError(f"{out} holds something that is no release; choose another --out.")
    check_writable(out)


def _round_weights(path: Path, mantissa_bits: int) -> None:
    # Not the biases of the choice: few numbers, and steps of a thousandth would be lost.
    weights = {
        name: weight if name.endswith("correction_bias") else rounded(weight, mantissa_bits)
        for name, weight in load_file(path).items()
    }
    save_file(weights, path, metadata={"format": "pt"})


def rounded(weight: Tensor, mantissa_bits: int) -> Tensor:
    """The nearest numbers whose mantissa ends in zeros after `mantissa_bits` bits."""
    mantissa, exponent = torch.frexp(weight.float())
    steps = 2.0 ** (mantissa_bits + 1)  # of a mantissa between one half and one
    return torch.ldexp((mantissa * steps).round() / steps, exponent).to(weight.dtype)


def _copy_thinned(source: Path, target: Path, every: int) -> None:
    lines = _thinned(_read_metrics(source), every)
    write_text(target, "".join(json.dumps(line) + "\n" for line in lines))


def _thinned(lines: list[dict[str, Any]], every: int) -> list[dict[str, Any]]:
    """One line of `every`, the last, and those that tell what no other does: --metrics-every."""
    skipped = [line.get("skipped_steps", 0) for line in lines]
    return [
        line
        for at, line in enumerate(lines)
        if at % every == 0
        or at == len(lines) - 1
        or "heldout_loss" in line
        or skipped[at] != skipped[at - 1]
    ]


def model_card(
    run: Path,
    name: str,
    mantissa_bits: int,
    licence: str = "apache-2.0",
    metrics_every: int = 1,
) -> str:
    """The card's text, every figure read from the run.

    Raises ValueError if a file of the run is missing or damaged.
    """
    training, metrics = read_json(run / "export" / TRAINING), _read_metrics(run / METRICS)
    emo = training.get("objective") == "emo"
    try:
        facts = {
            "name": name,
            "licence": licence,
            "what": KINDS[training["objective"]],
            "parameters": num_parameters(run / "export") / 1e6,
            "mantissa_bits": mantissa_bits,
            "pool": _pools(**training["pools"]) if emo else "none",
            "options": _options(training),
            "rounding": _rounding(mantissa_bits, metrics_every),
            "lines": "every step" if metrics_every == 1 else f"one step in {metrics_every}",
            "speed": _speed(metrics),
            "final_loss": _mean([m["loss"] for m in metrics[-50:]]),
            "heldout_loss": _mean([m["heldout_loss"] for m in metrics if "heldout_loss" in m][-1:]),
        }
        return CARD.format(**(training | facts))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{run}: {TRAINING} or {METRICS} lacks what the card says ({error}); train again."
        ) from error


def _options(training: Mapping[str, Any]) -> str:
    """What `model.train` has to be told to train as this run did, beyond preset and objective."""
    preset = asdict(find_preset(training["name"], training["objective"]))
    options = click.command()(of_the_preset(lambda: None)).params
    given = ((option, option.name) for option in options if option.name in preset)
    return "".join(
        f" {_as_told(option, training[name])}"
        for option, name in given
        if training.get(name, preset[name]) != preset[name]
    )


def _as_told(option: click.Parameter, value: Any) -> str:
    """An option and its value on a command line; of a switch the name that says it."""
    if isinstance(value, bool):
        return (option.opts if value else option.secondary_opts)[0]
    return shlex.join((option.opts[0], str(value)))


def _rounding(mantissa_bits: int, metrics_every: int) -> str:
    thinned = f" --metrics-every {metrics_every}" if metrics_every > 1 else ""
    return f"--mantissa-bits {mantissa_bits}{thinned}"


def _speed(metrics: list[dict[str, Any]]) -> str:
    """How long a token takes, by the median step."""
    speeds = [line["tokens_per_second"] for line in metrics if "tokens_per_second" in line]
    return f"{median(speeds):,.0f} tokens a second" if speeds else "a speed that was not measured"


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    try:
        return [dict(json.loads(line)) for line in read_text(path).splitlines() if line.strip()]
    except (json.JSONDecodeError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged; copy the run again, or train again.") from error


def _mean(losses: list[float]) -> str:
    return f"{sum(losses) / len(losses):.3f}" if losses else "not measured"


def _pools(
    smallest: int, largest: int, log_uniform: bool, per_layer: bool, free_share: float
) -> str:
    spread = "log-uniform" if log_uniform else "uniform"
    drawn = "document and layer" if per_layer else "document"
    free = f"; {free_share:.0%} of the draws give no pool" if free_share else ""
    return f"{smallest} to {largest} experts, {spread}, drawn per {drawn}{free}"


if __name__ == "__main__":
    main()
