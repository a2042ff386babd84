"""The options of `python -m model.train`, in two groups: of the run, and fields of the preset."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

from model.cli import device_option, whole_numbers
from model.train.checkpoint import NEWEST_TWO
from model.train.objectives import OBJECTIVES
from model.train.presets import PRESETS

# Larger ones would leave the 64 bits of torch's generators (batches.py draws one a step).
MAX_SEED = 10**12
AT_LEAST_1 = click.IntRange(min=1)
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _steps(context: click.Context, option: click.Parameter, given: str) -> frozenset[int]:
    steps = frozenset(whole_numbers(context, option, given or None) or ())
    if min(steps, default=1) < 1:
        raise click.BadParameter("a checkpoint is of step 1 or later.")
    return steps


def together(*decorators: Decorator) -> Decorator:
    """The options as one decorator, shown in this order."""

    def apply(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


def _preset_has(field: str, words: Mapping[str, str] = MappingProxyType({})) -> str:
    """What the presets have of a field, as the end of an option's help. words: for its values."""
    values = {name: str(getattr(preset, field)) for name, preset in PRESETS.items()}
    said = {name: words.get(value, value) for name, value in values.items()}
    if len({*said.values()}) == 1:
        return f"  [default: {next(iter(said.values()))}]"
    return f"  [default: {', '.join(f'{value} of {name}' for name, value in said.items())}]"


def _count(name: str, default: int, text: str) -> Decorator:
    return click.option(name, type=AT_LEAST_1, default=default, show_default=True, help=text)


of_the_run = together(
    click.option(
        "--preset",
        "name",
        default="nano",
        show_default=True,
        type=click.Choice(sorted(PRESETS)),
        help="The model's size, and how it is trained unless options say otherwise.",
    ),
    click.option(
        "--objective",
        default="emo",
        show_default=True,
        type=click.Choice(list(OBJECTIVES)),
        help="How experts are chosen, and what is demanded of the choice (docs/training.md).",
    ),
    click.option(
        "--corpus",
        type=click.Path(path_type=Path),
        default=Path("data/corpus"),
        show_default=True,
        help="Folder made by python -m model.data build.",
    ),
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        default=None,
        help="The run's folder.  [default: runs/<preset>-<objective>]",
    ),
    click.option(
        "--from",
        "source",
        type=click.Path(path_type=Path),
        default=None,
        help="Start from the weights of this checkpoint, as to anneal it with another objective.",
    ),
    click.option("--stop-at", type=AT_LEAST_1, default=None, help="Pause after this step."),
    device_option,
    click.option(
        "--threads",
        type=AT_LEAST_1,
        default=None,
        help="CPU threads of each process.  [default: the cores, shared evenly]",
    ),
    click.option(
        "--accumulation",
        type=AT_LEAST_1,
        default=None,
        help="Parts in which each process takes its rows of a step, one after the other.  "
        "[default: 1]",
    ),
    click.option(
        "--micro-rows", type=AT_LEAST_1, default=None, help="Rows of such a part, instead."
    ),
    click.option(
        "--recompute",
        type=click.Choice(["none", "experts", "layers"]),
        default="none",
        show_default=True,
        help="What is computed again for the backward pass instead of kept in memory.",
    ),
    click.option(
        "--gather",
        type=click.Choice(["fp32", "bf16"]),
        default="fp32",
        show_default=True,
        help="Of several processes: in which numbers weights travel to where they are used.",
    ),
    _count("--checkpoint-every", 50, "Steps from one checkpoint to the next."),
    click.option(
        "--keep",
        type=click.IntRange(min=1),
        default=NEWEST_TWO.newest,
        show_default=True,
        help="Checkpoints kept: the newest so many.",
    ),
    click.option(
        "--keep-at",
        default="",
        callback=_steps,
        metavar="STEPS",
        help="Checkpoints made and kept for good, such as 50,100,400; of a small pair: four.",
    ),
    _count("--evaluate-every", 200, "Steps from one held-out loss to the next."),
    _count("--load-every", 20, "Steps from one line of load.jsonl to the next."),
)

of_the_preset = together(
    click.option(
        "--steps",
        type=AT_LEAST_1,
        default=None,
        help=f"Of the whole training.{_preset_has('steps')}",
    ),
    click.option(
        "--rows",
        type=AT_LEAST_1,
        default=None,
        help=f"Packed rows a step.{_preset_has('rows')}",
    ),
    click.option(
        "--context",
        type=click.IntRange(min=2),
        default=None,
        help=f"Tokens a row.{_preset_has('context')}",
    ),
    click.option(
        "--own-rows/--packed",
        default=None,
        help="Long documents share their rows with no other; or rows are cut wherever documents "
        f"end.{_preset_has('own_rows', {'True': 'own rows', 'False': 'packed'})}",
    ),
    click.option(
        "--mixture",
        default=None,
        help="How often rows of a domain are taken: news=2,recipes=1, or a .toml or .json file of "
        "the like. Other domains are left out.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0, MAX_SEED),
        default=None,
        help=f"Of the first weights, the order of the rows and the pools.{_preset_has('seed')}",
    ),
    click.option(
        "--learning-rate",
        type=click.FloatRange(min=0, min_open=True),
        default=None,
        help=f"At its peak, after the warm-up.{_preset_has('learning_rate')}",
    ),
    click.option(
        "--warmup",
        "warmup_steps",
        type=click.IntRange(min=0),
        default=None,
        help=f"Steps in which the learning rate rises.{_preset_has('warmup_steps')}",
    ),
    click.option(
        "--schedule",
        type=click.Choice(["cosine", "linear", "wsd"]),
        default=None,
        help="How the learning rate falls after the warm-up; wsd stays and falls at the end."
        f"{_preset_has('schedule')}",
    ),
    click.option(
        "--decay-share",
        type=click.FloatRange(0, 1),
        default=None,
        help=f"Share of the steps in which wsd falls.{_preset_has('decay_share')}",
    ),
    click.option(
        "--anneal",
        is_flag=True,
        help="The learning rate falls from the first step, in a line to 0.",
    ),
    click.option(
        "--balance",
        type=click.Choice(["step", "micro"]),
        default=None,
        help="Of a step in parts: experts are balanced over all of it (one more forward pass), or "
        f"over every part, as in the released code.{_preset_has('balance')}",
    ),
    click.option(
        "--bias-rate",
        type=click.FloatRange(min=0, min_open=True),
        default=None,
        help="Of the objectives without a balancing loss: how far a bias moves in a step.  "
        "[default: 0.001 of these]",
    ),
    click.option(
        "--guards/--no-guards",
        default=True,
        show_default=True,
        help="Steps whose loss or gradient is far out of line change nothing.",
    ),
    click.option(
        "--bf16/--fp32",
        default=None,
        help="Of matrix products.  [default: bf16 where that is faster]",
    ),
    click.option(
        "--save",
        default=None,
        type=click.Choice(["xh", "x"]),
        help="What experts on a GPU keep for the backward pass; x computes more and keeps a ninth."
        f"{_preset_has('save')}",
    ),
)
