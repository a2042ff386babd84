"""What --help says of every command: each option has a sentence, and shows its default."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).parents[1]
COMMAND = re.compile(r"^@\w+\.command\(", re.MULTILINE)
# Left as they were measured on a GPU.
KERNELS = "model.kernels."


def modules() -> Iterator[str]:
    for package in ("emo_viz", "model"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if COMMAND.search(path.read_text(encoding="utf-8")) and not name.startswith(KERNELS):
                yield name


def options() -> Iterator[tuple[str, click.Option]]:
    for module in modules():
        for command in vars(importlib.import_module(module)).values():
            for option in command.params if isinstance(command, click.Command) else ():
                if isinstance(option, click.Option) and not option.hidden:
                    yield f"{module} {command.name} {option.opts[0]}", option


def without_a_sentence(option: click.Option) -> bool:
    return not (option.help or "").strip()


def hides_its_default(option: click.Option) -> bool:
    record = option.get_help_record(click.Context(click.Command("any")))
    default = option.to_info_dict()["default"]
    return default not in (None, False, "", ()) and "default" not in str(record).lower()


def test_every_command_is_looked_at():
    found = list(modules())
    assert {"model.train.pair", "model.finetune.__main__", "emo_viz.commands.import_"} <= {*found}
    assert len(found) >= 25 and "emo_viz.ui.home.page" not in found


@pytest.mark.parametrize("lacks", [without_a_sentence, hides_its_default])
def test_every_option_says_what_it_is_and_what_it_is_by_default(lacks):
    assert [where for where, option in options() if lacks(option)] == []


def test_what_a_pair_fits_to_the_corpus_is_the_presets_in_a_training_alone():
    for module, said in (("pair", "what fits the corpus"), ("__main__", "64 of nano, 1024 of")):
        (rows,) = (
            option for where, option in options() if where == f"model.train.{module} main --rows"
        )
        assert f"[default: {said}" in str(rows.help)
