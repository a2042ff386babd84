"""The bar of a command: there from the first step on, gone when all is done."""

import click
import pytest
from click.testing import CliRunner

from model.cli import Command, Several, SeveralCommand, progress_bar, say


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


def test_want_of_memory_is_one_sentence():
    @click.command(cls=Command)
    def command() -> None:
        bytes(1 << 62)

    result = CliRunner().invoke(command)
    assert result.exit_code == 2
    assert (
        result.stderr == "Error: This takes more memory than there is; free some, or give less.\n"
    )


@click.command(cls=SeveralCommand)
@click.option("--models", cls=Several, required=True)
@click.option("--keep", type=int)
@click.option("--force", is_flag=True)
@click.argument("rest", nargs=-1)
def several(models: tuple[str, ...], keep: int | None, force: bool, rest: tuple[str, ...]) -> None:
    say(f"{models} {keep} {force} {rest}")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--models a", "('a',) None False ()"),
        ("--models a b c --keep 3", "('a', 'b', 'c') 3 False ()"),
        ("--keep 3 --models=a b --force", "('a', 'b') 3 True ()"),
        ("--models a b --keep 3 --models c", "('c',) 3 False ()"),
        ("x --models a", "('a',) None False ('x',)"),
    ],
)
def test_an_option_takes_several_values_in_a_row(typed: str, said: str):
    result = CliRunner().invoke(several, typed.split())
    assert (result.exit_code, result.output) == (0, said + "\n"), result.output


def test_an_option_without_a_value_is_said():
    result = CliRunner().invoke(several, ["--models"])
    assert result.exit_code == 2 and "requires an argument" in result.output
    assert CliRunner().invoke(several, []).exit_code == 2


def test_a_command_with_several_values_says_bad_input_in_one_sentence():
    @click.command(cls=SeveralCommand)
    def broken() -> None:
        raise ValueError("no such thing")

    result = CliRunner().invoke(broken)
    assert result.exit_code == 2 and "Error: no such thing" in result.output
