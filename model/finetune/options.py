"""The options that `python -m model.finetune` and `python -m model.federated` have in common."""

from pathlib import Path

import click

from model.cli import device_option
from model.finetune.run import LEARNING_RATES
from model.train.options import AT_LEAST_1, MAX_SEED, together

of_a_finetuning = together(
    click.option(
        "--corpus",
        type=click.Path(path_type=Path),
        default=Path("data/corpus"),
        show_default=True,
        help="Made by python -m model.data build, with the checkpoint's tokenizer.",
    ),
    click.option(
        "--rows", type=AT_LEAST_1, default=8, show_default=True, help="Rows of --context a step."
    ),
    click.option(
        "--context",
        type=click.IntRange(min=2),
        default=None,
        help="Tokens a row.  [default: as the checkpoint was trained]",
    ),
    click.option(
        "--learning-rate",
        type=click.FloatRange(min=0, min_open=True),
        default=None,
        help="At its peak, after the first tenth of the steps.  "
        f"[default: {min(LEARNING_RATES.values())} to {max(LEARNING_RATES.values())}, by what "
        "trains]",
    ),
    click.option(
        "--pools/--no-pools",
        default=False,
        show_default=True,
        help="Keep EMO's document pools in training.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0, MAX_SEED),
        default=0,
        show_default=True,
        help="Of all that is drawn, such as the order of the rows.",
    ),
    click.option(
        "--calibration",
        type=AT_LEAST_1,
        default=16,
        show_default=True,
        help="Training documents that choose a module.",
    ),
    click.option(
        "--measured",
        type=click.IntRange(min=2),
        default=48,
        show_default=True,
        help="Held-out documents of a domain that is trained on.",
    ),
    click.option(
        "--others",
        type=AT_LEAST_1,
        default=4,
        show_default=True,
        help="Held-out documents of each other domain.",
    ),
    device_option,
    click.option(
        "--threads", type=AT_LEAST_1, default=None, help="CPU threads.  [default: one a core]"
    ),
)
