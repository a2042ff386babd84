"""Train a pair, EMO and the standard MoE one after the other: python -m model.train.pair --help

Both learn from one corpus with the same settings, order and first weights. Unless they are given,
the numbers of rows, steps and warm-up steps follow from the size of the corpus (`fitted`), and
small models keep checkpoints of a few steps, from which their history is made (`moments`). Stopped
at any point and called again, it goes on where it was. torchrun may start it as it does
`model.train`.
"""

import shlex
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from model.cli import Command
from model.data.shards import TokenShard
from model.train import __main__ as training
from model.train import parallel
from model.train.plan import sizes
from model.train.presets import Preset, find_preset

ROLES = ("emo", "standard")
# Of these there is one each, or none: they are no options of a pair.
OWN = ("objective", "out", "source", "anneal")
FITTED = ("rows", "steps", "warmup_steps")
# Repeated four times, text teaches nearly as much as new text does; beyond sixteen times almost
# nothing (Muennighoff et al., arXiv 2305.16264).
EPOCHS, MANY_EPOCHS = 8, 16
FEWEST_STEPS, USUAL_STEPS, FEWEST_ROWS = 200, 400, 8
# Experts find their documents early, so moments lie closer there.
MOMENTS = (1 / 32, 1 / 10, 3 / 10, 6 / 10)
MOST_KEPT = 2**26  # parameters, without the vocabulary's, of a model that keeps them unasked


@dataclass(frozen=True)
class Fit:
    """How a preset takes a corpus: epochs are passes over its training tokens."""

    preset: Preset
    tokens: int

    @property
    def epochs(self) -> float:
        return self.preset.steps * self.preset.tokens_per_step / self.tokens

    def sentences(self) -> list[str]:
        """What is about to be trained, and what is odd about it."""
        preset, said = self.preset, []
        said.append(
            f"Each model takes {preset.steps:,} steps of {preset.tokens_per_step:,} tokens "
            f"({preset.rows:,} rows of {preset.context:,}): {self.epochs:.1f} times through the "
            f"{self.tokens:,} tokens to train on."
        )
        if self.epochs > MANY_EPOCHS:
            said.append(
                f"More than {MANY_EPOCHS} times teaches a model little but these texts by heart; "
                "give more text, or fewer --steps."
            )
        return said


def fitted(preset: Preset, tokens: int, given: Mapping[str, int | None]) -> Fit:
    """The preset with rows, steps and warm-up steps for a corpus of so many training tokens.

    The preset's own where the corpus fills them in EPOCHS passes. Of a smaller one those passes
    and no more, in steps of fewer rows so that there are USUAL_STEPS of them, but FEWEST_STEPS at
    least. given: rows, steps and warmup_steps that are not to be chosen. Raises ValueError for a
    corpus without tokens.
    """
    if not tokens:
        raise ValueError("The corpus has no tokens to train on; build one with more documents.")
    most = min(preset.steps * preset.tokens_per_step, EPOCHS * tokens)
    rows = given.get("rows") or _rows(preset, most)
    steps = given.get("steps") or min(
        preset.steps, max(FEWEST_STEPS, most // (rows * preset.context))
    )
    warmup = given.get("warmup_steps")
    if warmup is None:
        warmup = min(preset.warmup_steps, steps // 10)
    return Fit(replace(preset, rows=rows, steps=steps, warmup_steps=warmup), tokens)


def moments(preset: Preset) -> frozenset[int]:
    """Steps whose checkpoints show how a model came about; none where these would fill a disk."""
    found = sizes(preset)
    if found.total - 2 * found.embedding > MOST_KEPT:
        return frozenset()
    return frozenset(max(1, round(share * preset.steps)) for share in MOMENTS)


def _rows(preset: Preset, tokens: int) -> int:
    """The preset's rows, halved until `tokens` are enough steps."""
    rows = preset.rows
    while rows > FEWEST_ROWS and tokens < USUAL_STEPS * rows * preset.context:
        rows //= 2
    return max(rows, min(FEWEST_ROWS, preset.rows))


def _options() -> list[click.Parameter]:
    """Those of one training, but OWN; of FITTED the help says where their values come from."""
    options = [copy(each) for each in training.main.params if each.name not in OWN]
    for option in options:
        if isinstance(option, click.Option) and option.name in FITTED:
            sentence = str(option.help).partition("  [")[0]
            option.help = f"{sentence}  [default: what fits the corpus]"
    return options


@click.command(cls=Command, params=_options())
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="The runs go into the folders emo and standard in it.",
)
def main(out: Path, **options: Any) -> None:
    """Pretrain EMO and the standard MoE on one corpus, one after the other."""
    corpus: Path = options["corpus"]
    given = {name: options.get(name) for name in FITTED}
    preset = find_preset(options["name"], ROLES[0], context=options.get("context"))
    fit = fitted(preset, len(TokenShard.open(corpus, "train").tokens), given)
    for role in ROLES:
        training.check_out(out / role)
    for sentence in fit.sentences():
        parallel.tell(sentence)
    options |= {name: getattr(fit.preset, name) for name in given if name in options}
    unasked = click.get_current_context().get_parameter_source("keep_at") is ParameterSource.DEFAULT
    train = training.main.callback
    assert train is not None, "it is a command"
    with parallel.process_group(parallel.own_device(options["device"])):
        if unasked and parallel.world_size() == 1:  # a history is of what one process writes
            options["keep_at"] = moments(fit.preset)
            _tell_kept(options["keep_at"])
        for role in ROLES:
            parallel.tell(f"Training {role} into {out / role}.")
            train(**options, objective=role, out=out / role, source=None, anneal=False)
    if options["stop_at"] is None:
        parallel.tell(f"Next: {next_command(corpus, out)}")


def _tell_kept(steps: frozenset[int]) -> None:
    if steps:
        words = ", ".join(f"{step:,}" for step in sorted(steps))
        parallel.tell(f"Checkpoints of these steps stay, for the models' history: {words}.")


def next_command(corpus: Path, runs: Path) -> str:
    """The command that makes what the app shows of the pair."""
    paths = (shlex.quote(str(path)) for path in (runs, corpus))
    return "python -m emo_viz analyse --runs {} --corpus {}".format(*paths)


if __name__ == "__main__":
    main(prog_name="python -m model.train.pair")
