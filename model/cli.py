"""What every command line of this project does with bad input: one sentence, exit code 2."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import click

from model.files import OUT_OF_ROOM

INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended, as shells have it."""


class BadInput(click.ClickException):
    """What a command cannot work with, as one printable line on stderr."""

    exit_code = 2

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(" ".join(sentence.split())))


def printable(text: str) -> str:
    """A text that any terminal takes: a file name or an id may hold half a character."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def say(text: str, err: bool = False) -> None:
    """Print what a command has to say, whatever the names in it hold."""
    click.echo(printable(text), err=err)


def whole_numbers(_: click.Context, __: click.Parameter, text: str | None) -> list[int] | None:
    """The callback of an option that takes a list such as 8,16,32; None stays None."""
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list such as 8,16,32.") from error


device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="cpu, cuda, or auto: the GPU where there is one.",
)

workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes, each with its own copy of the model it works on.",
)


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """Gives the function (done, total) that draws a bar, from its first call until all is done."""
    with ExitStack() as open_bars:
        bar: Any = None

        def show(done: int, total: int) -> None:
            nonlocal bar
            if bar is None:
                bar = click.progressbar(length=total, label=label, show_pos=True)
                open_bars.enter_context(bar)
            bar.update(done - bar.pos)
            if done >= total:
                open_bars.close()

        yield show


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turns a ValueError (and what the system refuses) of the block into BadInput."""
    try:
        yield
    except ValueError as error:
        raise BadInput(str(error)) from error
    except OSError as error:
        raise BadInput(_refused(error)) from error
    except MemoryError as error:
        raise BadInput("This takes more memory than there is; free some, or give less.") from error


def _refused(error: OSError) -> str:
    place = f" at {error.filename}" if error.filename else ""
    if error.errno in OUT_OF_ROOM:
        return f"The disk is full{place}; make room and run this again."
    return f"The system refused{place}: {error.strerror or error}; check the path and its rights."


class Command(click.Command):
    """A command whose bad input is one sentence."""

    def invoke(self, ctx: click.Context) -> object:
        with one_sentence():
            return super().invoke(ctx)


class Several(click.Option):
    """An option that takes one value or more in a row, `--models A B`; of a SeveralCommand."""

    def __init__(self, *names: Any, **settings: Any) -> None:
        super().__init__(*names, **(settings | {"multiple": True}))


class SeveralCommand(Command):
    """A command some of whose options are `Several`; an option that stands twice counts once, as
    last written."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        names = {name for each in self.params if isinstance(each, Several) for name in each.opts}
        return super().parse_args(ctx, _one_value_each(args, names))


def _one_value_each(args: Sequence[str], names: set[str]) -> list[str]:
    """`--models A B` as `--models A --models B`, for the options of these names."""
    groups: list[list[str]] = [[]]
    for arg in args:
        if arg.startswith("-"):
            name, equals, value = arg.partition("=")
            groups.append([name, value] if equals and name in names else [arg])
        else:
            groups[-1].append(arg)
    last = {group[0]: group for group in groups if group and group[0] in names}
    spread: list[str] = []
    for group in groups:
        if not group or group[0] not in names:
            spread += group
        elif group is last[group[0]]:
            values = [part for value in group[1:] for part in (group[0], value)]
            spread += values or group  # without a value: click says so
    return spread
