"""Find faster tiles on this GPU: python -m model.kernels.tune --minutes 8 --out configs.json

Only on request: training and inference never tune. Every row of the GPU's 16-bit table is tuned at
the rows an expert that it serves, the training rows first: its tiles, and the rows a tile that they
share. Variants are compiled beside each other, the nearest to the present tile first; one is timed
only if it meets the static bars, and kept only if its kernel becomes faster. The file is written
after every row, and the same command goes on where it stopped. EMO_KERNEL_CONFIGS=configs.json then
uses the tiles, and the report and the check verify them like the shipped ones. Another tile may add
in another order, so results equal the shipped ones to rounding, and themselves in every bit.
"""

import copy
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import click
import torch

from model.cli import Command
from model.files import check_new_file, write_json
from model.kernels import costs, plans
from model.kernels.check import cases as c
from model.kernels.check import prepare
from model.kernels.check.__main__ import require_gpu
from model.kernels.plans import Launch, Layer

CHOICES = {"BN": (32, 64, 128, 256), "BK": (32, 64, 128), "warps": (4, 8, 16), "stages": (3, 4, 5)}
SPLIT = {"up": (1, 2, 4), "act_grad": (2, 4, 8)}  # parts of an epilogue
HEIGHTS = (16, 32, 64, 128, 256)
TRAINING_TOKENS = 16_384
ACCUMULATORS = (8, 160)  # float32 registers a thread holds for a product, at least and at most
BATCH = 32  # variants compiled before the first of them is timed
MOST_VARIANTS = 96  # of one tile at one height
GAIN = 0.99  # a difference below a percent is noise
TUNED = "tuned"  # in the file: the rows that are done, by architecture
Tile = dict[str, int]
Tables = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A row of a table: where it stands, the tokens that lead to it, its tiles (one BM)."""

    part: str
    number: int
    tokens: int
    names: tuple[str, ...]

    @property
    def label(self) -> str:
        return self.part if self.part == "weight_grad" else f"{self.part} {self.number}"

    def row(self, table: Tables) -> dict[str, Any]:
        """Its row in a table; the weight gradient's tile stands alone."""
        found: dict[str, Any] = (
            table if self.part == "weight_grad" else table[self.part][self.number]
        )
        return found

    def heights(self, table: Tables) -> list[int]:
        """BM to try, the present one first; a weight gradient's is part of its tile."""
        if self.part == "weight_grad":
            return [0]
        present = self.row(table)["BM"]
        return [present, *(h for h in HEIGHTS if h in (present // 2, 2 * present))]


def entries(table: Tables, layer: Layer) -> list[Entry]:
    """Every row of a table, those of the most tokens first."""
    found = [Entry("weight_grad", 0, TRAINING_TOKENS, ("weight_grad",))]
    for part in ("forward", "backward"):
        for number, row in enumerate(table[part]):
            rows = row["max_mean_rows"]
            tokens = TRAINING_TOKENS if rows is None else max(1, rows * layer.P // layer.K)
            names = tuple(name for name, tile in row.items() if isinstance(tile, dict))
            found.append(Entry(part, number, tokens, names))
    return sorted(found, key=lambda entry: -entry.tokens)


def variants(name: str, tile: Tile, height: int, descriptors: bool) -> list[Tile]:
    """Other tiles to try, the nearest first, on pointers and (where asked) on descriptors.

    Left out is what no machine has the registers or the shared memory for.
    """
    choices: dict[str, tuple[Any, ...]] = dict(CHOICES)
    if name in SPLIT:
        choices["parts"] = SPLIT[name]
    if name == "weight_grad":
        choices["BM"] = (64, 128, 256)
    if descriptors:
        choices["tma"] = (False, True)
    found = []
    for values in itertools.product(*choices.values()):
        other = tile | dict(zip(choices, values, strict=True))
        if not other.get("tma"):
            other.pop("tma", None)
        if other != tile and _fits(name, other, other.get("BM", height)):
            found.append(other)
    return sorted(found, key=partial(_distance, tile))[:MOST_VARIANTS]


def _distance(tile: Tile, other: Tile) -> int:
    return sum(tile.get(name) != other.get(name) for name in {*tile, *other})


def _fits(name: str, tile: Tile, height: int) -> bool:
    width = tile["BN"] * (2 if name == "up" else 1)
    accumulators = height * width / (32 * tile["warps"])
    shared = (height + width) * tile["BK"] * 2 * (tile["stages"] - (name == "weight_grad"))
    limit = max(machine.block_shared_bytes for machine in costs.MACHINES.values())
    return ACCUMULATORS[0] <= accumulators <= ACCUMULATORS[1] and shared <= limit


def launches(entry: Entry, name: str, arch: str, layer: Layer) -> list[Launch]:
    """The launches that the tables in use make of one tile."""
    slots = entry.tokens * layer.K
    if entry.part == "forward":
        return [getattr(plans.forward_plan(arch, layer, slots, True), name)]
    plan = plans.backward_plan(arch, layer, slots, False)
    return [plan.dw2, plan.dw13] if name == "weight_grad" else [getattr(plan, name)]


@dataclass
class Tuner:
    """A search over an architecture's table; `meet` and `seconds` are the compiler and the clock.

    `meet` says of each list of launches whether all of them compile and meet the bars, `seconds`
    times a tile of an entry under the tables in use, `left` is the seconds that remain, `write`
    gets the tables after every row.
    """

    tables: Tables
    arch: str
    layer: Layer
    meet: Callable[[list[list[Launch]]], list[bool]]
    seconds: Callable[[Entry, str], float]
    left: Callable[[], float]
    write: Callable[[Tables], None] = lambda tables: None
    say: Callable[[str], None] = lambda line: None

    def run(self) -> bool:
        """Tune what is not tuned yet; whether everything is."""
        self.tables = copy.deepcopy(self.tables)
        done = self.tables.setdefault(TUNED, {}).setdefault(self.arch, [])
        table = self.tables[self.arch]["half"]
        for entry in entries(table, self.layer):
            if entry.label in done:
                continue
            whole = self._tune(entry, table)
            if whole:
                done.append(entry.label)
            self.write(self.tables)
            if not whole:
                return False
        return True

    def _tune(self, entry: Entry, table: Tables) -> bool:
        """The fastest height with its fastest tiles; whether there was time to look at all."""
        row = entry.row(table)
        fastest, present = float("inf"), entry.heights(table)[0]
        for height in entry.heights(table):
            kept = copy.deepcopy(row)
            if height:
                row["BM"] = height
            taken = sum(self._best(entry, name, row, height == present) for name in entry.names)
            if height == present or taken < GAIN * fastest:
                fastest = taken
            else:
                row.clear()
                row.update(kept)
            if self.left() <= 0:
                break
        tiles = {name: row[name] for name in ("BM", *entry.names) if name in row}
        self.say(f"{entry.label}: {fastest * 1e3:.3f} ms a layer with {tiles}")
        return self.left() > 0

    def _best(self, entry: Entry, name: str, row: dict[str, Any], shipped: bool) -> float:
        """Put the fastest tile of one name into the row; its seconds.

        The present tile is what others must beat, unless this height is new to it and it misses a
        bar there.
        """
        best = row[name]
        with plans.using(self.tables):
            usable = shipped or self._meeting(entry, name, row, [best])[0]
            fastest = self._timed(entry, name) if usable else float("inf")
            described = name in plans.DESCRIBED_TILES and plans.can_describe(self.arch, self.layer)
            tried = variants(name, best, row.get("BM", 0), described)
            for batch in (tried[n : n + BATCH] for n in range(0, len(tried), BATCH)):
                if self.left() <= 0:
                    break
                for tile, good in zip(batch, self._meeting(entry, name, row, batch), strict=True):
                    if good and self.left() > 0:
                        row[name] = tile
                        taken = self._timed(entry, name)
                        if taken < GAIN * fastest:
                            best, fastest = tile, taken
            row[name] = best
        return fastest

    def _meeting(
        self, entry: Entry, name: str, row: dict[str, Any], tiles: Sequence[Tile]
    ) -> list[bool]:
        lists, present = [], row[name]
        for tile in tiles:
            row[name] = tile
            lists.append(launches(entry, name, self.arch, self.layer))
        row[name] = present
        return self.meet(lists)

    def _timed(self, entry: Entry, name: str) -> float:
        try:
            return self.seconds(entry, name)
        except RuntimeError as error:  # out of resources: a bar on paper is not the device's word
            if "CUDA error" in str(error):  # nothing that this process measures after it is true
                raise
            return float("inf")


def meeting(
    arch: str, capability: int, layer: Layer, processes: prepare.Processes
) -> Callable[[list[list[Launch]]], list[bool]]:
    """Compiles in processes beside each other, into Triton's cache, and reads what was made."""
    dtypes = {w.launch.kernel: w.dtypes for w in prepare.recorded([_case(layer, 1)], arch)}

    def meet(lists: list[list[Launch]]) -> list[bool]:
        wanted = [[prepare.Wanted(w, dtypes[w.kernel]) for w in each] for each in lists]
        good = [False] * len(lists)
        arguments = [(each, arch, capability) for each in wanted]
        for number, (answer, error) in processes.run(meets_bars, arguments):
            good[number] = bool(answer) and not error
        return good

    return meet


def meets_bars(wanted: Sequence[prepare.Wanted], arch: str, capability: int) -> bool:
    """Whether launches compile and miss no static bar; run in a process of its own."""
    from model.kernels import aot, bars

    return not any(
        bars.misses(w.launch, aot.facts(prepare.warm(w, capability)), arch, True, True)
        for w in wanted
    )


def kernel_seconds(layer: Layer, device: str = "cuda") -> Callable[[Entry, str], float]:
    """Times one tile's kernels, each alone, as one layer in bf16 launches them."""
    from model.kernels.check import speed

    @cache
    def made(tokens: int) -> c.Problem:
        return c.problem(_case(layer, tokens), device)

    def seconds(entry: Entry, name: str) -> float:
        found = made(entry.tokens)
        case = replace(_case(layer, entry.tokens), backward=entry.part != "forward")
        started = speed.started(case, found)
        names = ("dw2", "dw13") if name == "weight_grad" else (name,)
        runs = [run for each, run in zip(speed.KERNELS, started, strict=False) if each in names]
        return sum(speed.bench_ms(run, torch.device(device), rep=40) for run in runs) / 1e3

    return seconds


def _case(layer: Layer, tokens: int) -> c.Case:
    return c.Case(tokens, layer.P, layer.K, layer.H, layer.I)


def starting_tables(out: Path) -> Tables:
    """What was tuned before, if the file is there, or the tables in use."""
    if not out.exists():
        return plans.tables()
    found = plans.read_tables(out)
    if not isinstance(found.get(TUNED), dict):
        raise ValueError(f"{out} was not written by this command; remove it or name another file.")
    return found


@click.command(cls=Command)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The tables to write; goes on with those that are there.",
)
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), default=8.0, show_default=True
)
@click.option("--hidden", type=click.IntRange(16), default=2048, show_default=True)
@click.option("--width", type=click.IntRange(16), default=1024, show_default=True)
@click.option("--experts", type=click.IntRange(1), default=128, show_default=True)
@click.option("--top-k", type=click.IntRange(1), default=8, show_default=True)
def main(out: Path, minutes: float, hidden: int, width: int, experts: int, top_k: int) -> None:
    """Tune the first CUDA device's table for one layer size."""
    end = time.monotonic() + 60 * minutes
    check_new_file(out)
    tables = starting_tables(out)
    if top_k > experts:
        raise ValueError(f"--top-k {top_k} is more than --experts {experts}; choose fewer.")
    require_gpu()
    major, minor = torch.cuda.get_device_capability()
    layer, arch = Layer(hidden, width, top_k, experts), plans.architecture(major)
    with prepare.Processes(prepare.default_jobs()) as processes:
        whole = Tuner(
            tables,
            arch,
            layer,
            meeting(arch, 10 * major + minor, layer, processes),
            kernel_seconds(layer),
            lambda: end - time.monotonic(),
            partial(write_json, out, indent=1),
            click.echo,
        ).run()
    if not whole:
        click.echo("The time is up: run the same command again to go on.")
    click.echo(f"Use it: EMO_KERNEL_CONFIGS={out.resolve()}")


if __name__ == "__main__":
    main()
