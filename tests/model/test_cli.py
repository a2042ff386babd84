"""The bar of a command: there from the first step on, gone when all is done."""

import click
from click.testing import CliRunner

from model.cli import progress_bar, say


def printed(*reports: tuple[int, int]) -> str:
    @click.command()
    def command() -> None:
        with progress_bar("Working") as report:
            for done, total in reports:
                report(done, total)
            say("said")

    return CliRunner().invoke(command).output


def test_the_bar_stands_before_what_is_said_after_it():
    assert printed((0, 2), (1, 2), (2, 2)).split() == ["Working", "said"]


def test_no_step_no_bar():
    assert printed() == "said\n"
