"""Check the kernels on a GPU: python -m model.kernels.check --minutes 9 --out DIR

Writes kernel_check.json into DIR after every stage (assets/analysis is where the Kernel page looks)
and prints a table last. Exit codes: 0 everything passed; 1 a number, a bit or an address is wrong;
2 it cannot run here (no GPU, bad input); 3 nothing wrong was found, but a stage died, ran out of
time or was not reached.
"""

import os
import signal
from pathlib import Path
from typing import Any, NoReturn

import click

from model.cli import BadInput, Command
from model.files import check_new_file, write_json
from model.kernels.check import cases as c
from model.kernels.check import speed, stages, table
from model.kernels.check.stages import Outcome, Stage

FORMAT_VERSION = 2
NAME = "kernel_check.json"
HERE = "model.kernels.check"
POOLS = [[4, 4096, 127], [2, 300, 31]]
REPEATS = 5


def plan(device: str = "cuda") -> list[Stage]:
    """The stages in the order of what matters most; limits are for a slow machine."""

    def stage(name: str, entry: str, seconds: float, cases: Any, **rest: Any) -> Stage:
        optional = rest.pop("optional", False)
        arguments = {"device": device, "cases": c.as_json(cases)} | rest
        return Stage(name, f"{HERE}.{entry}", seconds, arguments, optional)

    return [
        stage("machine and compiler", "prepare:prepare", 150, c.prepared()),
        stage("numbers, shipped size", "numbers:compare", 90, c.SHIPPED),
        stage("time of each kernel", "speed:kernels", 60, c.KERNELS_TIMED),
        stage("time of the layer", "speed:layer", 120, c.TIMED),
        stage("numbers, edges", "numbers:compare", 90, c.EDGES),
        Stage("document pools", f"{HERE}.numbers:pools", 40, {"device": device, "sizes": POOLS}),
        stage("bits", "numbers:bits", 90, c.BITS, repeats=REPEATS),
        stage("others", "speed:peers", 90, speed.peer_cases(c.TIMED), optional=True),
        stage("memcheck", "sanitize:sanitize", 120, c.SANITIZED, tool="memcheck", optional=True),
        stage(
            "racecheck", "sanitize:sanitize", 90, c.SANITIZED[:1], tool="racecheck", optional=True
        ),
    ]


@click.command(cls=Command)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=9.0,
    show_default=True,
    help="For everything together.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help=f"The folder for {NAME}.",
)
def main(minutes: float, out: Path) -> None:
    """Run every check on the first CUDA device."""
    path = out / NAME
    check_new_file(path)
    require_gpu()
    signal.signal(signal.SIGTERM, _stop)  # so that the running stage's process is ended too

    def write(outcomes: list[Outcome]) -> None:
        write_json(path, result(outcomes, minutes), indent=1)

    outcomes = stages.run_stages(plan(), minutes, write, click.echo)
    found = result(outcomes, minutes)
    for line in table.lines(found):
        click.echo(line)
    click.echo(f"Written to {path}.")
    raise SystemExit(found["exit_code"])


def require_gpu() -> None:
    """Raises BadInput where nothing can be compiled for a GPU and run on it."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise BadInput("Unset TRITON_INTERPRET: interpreted kernels run on no GPU.")
    import torch

    if not torch.cuda.is_available():
        raise BadInput("No CUDA device here: run this on a machine with one; nothing was done.")
    major, minor = torch.cuda.get_device_capability()
    if major < 8:
        raise BadInput(
            f"This GPU's capability is {major}.{minor}: the kernels need 8.0 or more (A100 and "
            "later); nothing was done."
        )


def result(outcomes: list[Outcome], minutes: float) -> dict[str, Any]:
    """What is written: format version, environment, stages, exit code."""
    rows = [row for outcome in outcomes for row in outcome["rows"]]
    facts: dict[str, Any] = next((row for row in rows if row.get("what") == "environment"), {})
    return {
        "format_version": FORMAT_VERSION,
        "minutes": minutes,
        "environment": facts,
        "stages": outcomes,
        "exit_code": stages.exit_code(outcomes),
    }


def _stop(*_: object) -> NoReturn:
    raise SystemExit(stages.INCOMPLETE)


if __name__ == "__main__":
    main()
