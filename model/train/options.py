"""The options of `python -m model.train`, in two groups: of the run, and fields of the preset."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from model.cli import whole_numbers
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


def _all(*decorators: Decorator) -> Decorator:
    """The options as one decorator, shown in this order."""

    def apply(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


def _count(name: str, default: int, text: str) -> Decorator:
    return click.option(name, type=AT_LEAST_1, default=default, show_default=True, help=text)


of_the_run = _all(
    click.option("--preset", "name", default="nano", type=click.Choice(sorted(PRESETS))),
    click.option("--objective", default="emo", type=click.Choice(list(OBJECTIVES))),
    click.option("--corpus", type=click.Path(path_type=Path), default=Path("data/corpus")),
    click.option(
        "--out", type=click.Path(path_type=Path), default=None, help="runs/<preset>-<objective>"
    ),
    click.option(
        "--from",
        "source",
        type=click.Path(path_type=Path),
        default=None,
        help="Start from the weights of this checkpoint, as to anneal it with another objective.",
    ),
    click.option("--stop-at", type=AT_LEAST_1, default=None, help="Pause after this step."),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="cpu, cuda, or auto: the GPU where there is one.",
    ),
    click.option("--threads", type=AT_LEAST_1, default=None, help="CPU threads."),
    click.option(
        "--accumulation",
        type=AT_LEAST_1,
        default=None,
        help="Parts in which each process takes its rows of a step, one after the other.",
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

of_the_preset = _all(
    click.option("--steps", type=AT_LEAST_1, default=None),
    click.option("--rows", type=AT_LEAST_1, default=None, help="Packed rows a step."),
    click.option("--context", type=click.IntRange(min=2), default=None, help="Tokens a row."),
    click.option(
        "--own-rows/--packed",
        default=None,
        help="Long documents share their rows with no other; or rows are cut wherever documents "
        "end.",
    ),
    click.option(
        "--mixture",
        default=None,
        help="How often rows of a domain are taken: news=2,recipes=1, or a .toml or .json file of "
        "the like. Other domains are left out.",
    ),
    click.option("--seed", type=click.IntRange(0, MAX_SEED), default=None),
    click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), default=None),
    click.option(
        "--warmup", "warmup_steps", type=click.IntRange(min=0), default=None, help="Steps."
    ),
    click.option(
        "--schedule",
        type=click.Choice(["cosine", "linear", "wsd"]),
        default=None,
        help="How the learning rate falls after the warm-up; wsd stays and falls at the end.",
    ),
    click.option(
        "--decay-share",
        type=click.FloatRange(0, 1),
        default=None,
        help="Share of the steps in which wsd falls.",
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
        "over every part, as in the released code.",
    ),
    click.option(
        "--bias-rate",
        type=click.FloatRange(min=0, min_open=True),
        default=None,
        help="Of the objectives without a balancing loss: how far a bias moves in a step.",
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
        help="Of matrix products; bf16 where that is faster.",
    ),
    click.option(
        "--save",
        default=None,
        type=click.Choice(["xh", "x"]),
        help="What experts on a GPU keep for the backward pass; x computes more and keeps a ninth.",
    ),
)
