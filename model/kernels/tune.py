"""Find faster tiles on this GPU: python -m model.kernels.tune --out configs.json

Only on request: training and inference never tune. Every tile of the GPU's 16-bit table is varied
in turn, at the rows an expert that its row of the table serves; a variant is timed only if it meets
the static bars, and kept only if the whole pass becomes faster. EMO_KERNEL_CONFIGS=configs.json
then uses the tiles, and the report and the check verify them like the shipped ones. Another tile
may add in another order, so results equal the shipped ones to rounding, and themselves in every
bit. Without a GPU it says so and exits with 2.
"""

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch

from model.kernels import plans
from model.kernels.plans import Launch, Layer

CHOICES = {"BN": (64, 128, 256), "BK": (32, 64, 128), "warps": (4, 8), "stages": (3, 4, 5)}
TRAINING_TOKENS = 16_384
Tile = dict[str, int]


class Entry(NamedTuple):
    """Where one tile stands in an architecture's table, and the tokens that lead to it."""

    keys: tuple[str | int, ...]
    tokens: int

    @property
    def backward(self) -> bool:
        return self.keys[0] != "forward"


def entries(table: dict[str, Any], layer: Layer) -> Iterator[Entry]:
    """Every tile of a table."""
    for part in ("forward", "backward"):
        for number, row in enumerate(table[part]):
            rows = row["max_mean_rows"]
            tokens = TRAINING_TOKENS if rows is None else rows * layer.P // layer.K
            names = (name for name, tile in row.items() if isinstance(tile, dict))
            yield from (Entry((part, number, name), tokens) for name in names)
    yield Entry(("weight_grad",), TRAINING_TOKENS)


def variants(tile: Tile, descriptors: bool) -> Iterator[Tile]:
    """Other tiles to try, on pointers and, where asked, on tensor descriptors.

    What CHOICES does not name stays.
    """
    rest = {name: value for name, value in tile.items() if name != "tma"}
    paths: tuple[Tile, ...] = ({}, {"tma": True}) if descriptors else ({},)
    for path in paths:
        for values in itertools.product(*CHOICES.values()):
            other = rest | dict(zip(CHOICES, values, strict=True)) | path
            if other != tile:
                yield other


def launches(entry: Entry, arch: str, layer: Layer) -> list[Launch]:
    """The launches that the tables in use make of one tile."""
    slots = entry.tokens * layer.K
    if not entry.backward:
        return [getattr(plans.forward_plan(arch, layer, slots, True), str(entry.keys[-1]))]
    plan = plans.backward_plan(arch, layer, slots, False)
    name = entry.keys[-1]
    return [plan.dw2, plan.dw13] if name == "weight_grad" else [getattr(plan, str(name))]


def tune(
    tables: dict[str, Any],
    arch: str,
    layer: Layer,
    meets_bars: Callable[[Launch], bool],
    seconds: Callable[[Entry], float],
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """A copy of the tables with the fastest tiles; `seconds` times the pass that an entry serves.

    A tile is replaced only by a faster one. A variant that fails to run counts as slow.
    """
    tables = copy.deepcopy(tables)
    for entry in entries(tables[arch]["half"], layer):
        *path, last = ("half", *entry.keys)
        holder = tables[arch]
        for key in path:
            holder = holder[key]
        with plans.using(tables):
            best, fastest = holder[last], seconds(entry)
            shipped = fastest
            described = last in plans.DESCRIBED_TILES and plans.can_describe(arch, layer)
            for tile in variants(best, described):
                holder[last] = tile
                if all(meets_bars(launch) for launch in launches(entry, arch, layer)):
                    taken = _seconds_or_slow(seconds, entry)
                    best, fastest = (tile, taken) if taken < fastest else (best, fastest)
        holder[last] = best
        say(f"{entry.keys}: {shipped * 1e3:.3f} ms, now {fastest * 1e3:.3f} ms with {best}")
    return tables


def _seconds_or_slow(seconds: Callable[[Entry], float], entry: Entry) -> float:
    try:
        return seconds(entry)
    except RuntimeError:  # out of resources: a bar on paper is not the device's word
        return float("inf")


def meets_bars(arch: str) -> Callable[[Launch], bool]:
    """Whether a launch compiles for this architecture and misses no static bar."""
    from model.kernels import aot, bars

    def check(launch: Launch) -> bool:
        try:
            compiled = aot.compile_launch(launch, arch)
        except Exception:  # the compiler refuses a tile in many ways
            return False
        return not bars.misses(launch, compiled, arch, half=True, full_size=True)

    return check


def pass_seconds(
    layer: Layer, bench: Callable[[Callable[[], object]], float]
) -> Callable[[Entry], float]:
    """Times the forward pass, or forward and backward, of one layer in bf16."""
    from model.kernels.check import outputs, problem
    from model.kernels.ops import moe

    def seconds(entry: Entry) -> float:
        sizes = (entry.tokens, layer.P, layer.K, layer.H, layer.I)
        tensors, idx, upstream = problem(sizes, torch.bfloat16)
        if entry.backward:
            return bench(lambda: outputs(tensors, idx, upstream)) / 1e3
        x, w13, w2, s = tensors
        with torch.no_grad():
            return bench(lambda: moe(x, w13, w2, s, idx, backend="triton")) / 1e3

    return seconds


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The tables to write.")
@click.option("--hidden", default=2048, show_default=True)
@click.option("--width", default=1024, show_default=True)
@click.option("--experts", default=128, show_default=True)
@click.option("--top-k", default=8, show_default=True)
def main(out: Path, hidden: int, width: int, experts: int, top_k: int) -> None:
    """Tune the first CUDA device's table for one layer size."""
    if not torch.cuda.is_available():
        click.echo("No CUDA device here: nothing was tuned. Run this on a machine with one.")
        raise SystemExit(2)
    from triton.testing import do_bench

    layer = Layer(hidden, width, top_k, experts)
    arch = plans.architecture(torch.cuda.get_device_capability()[0])
    timer = pass_seconds(layer, lambda run: do_bench(run, return_mode="median"))
    tuned = tune(plans.tables(), arch, layer, meets_bars(arch), timer, click.echo)
    temporary = out.with_name(out.name + ".tmp")
    temporary.write_text(json.dumps(tuned, indent=1))
    temporary.replace(out)
    click.echo(f"Use it: EMO_KERNEL_CONFIGS={out.resolve()}")


if __name__ == "__main__":
    main()
