"""Compile every shipped kernel for GPUs that are not there: python -m model.kernels.report

Prints, for each kernel, tile and architecture, what the compiler made of it and what it costs on
paper, and marks every bar of `bars` that is not met (exit code 1 then). `--json FILE` writes the
same for the Kernel page. Nothing here was timed.
"""

import itertools
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from model.cli import Command
from model.files import check_new_file, write_json
from model.kernels import costs, plans
from model.kernels.plans import Launch, Layer

FORMAT_VERSION = 1
LAYERS = {
    "1B/14B": Layer(2048, 1024, 8, 128),
    "256/128": Layer(256, 128, 8, 128),
    "128/64": Layer(128, 64, 8, 128),
}
TRAINING_TOKENS = 16_384
# One number of tokens for each row of the tables: 8 slots a token over 128 experts.
TILE_TOKENS = (1, 512, 1536, TRAINING_TOKENS)
# Pointers of another type than usual: what the model passes in bf16, and masters in float32.
OTHER_TYPES = {
    "combine": ("bf16 gate weights", {"s_S": "*bf16"}),
    "act_grad": ("bf16 gate weights", {"s_S": "*bf16"}),
    "dw2": ("float32 gradient", {"dw_P": "*fp32"}),
    "dw13": ("float32 gradient", {"dw_P": "*fp32"}),
}
MASK_TOKENS = (1, 4, 16, 64, 256, 1024, 4096)
MASK_KEPT = (128, 64, 32, 16, 8)
NOT_MEASURED = (
    "Speed: no figure here was timed on a GPU; seconds are the roofline of a data sheet.",
    "Races: the interpreter runs programs one after another; run the check command on a GPU.",
    "Miscompiles: the interpreter does not run the compiled code.",
    "Resident blocks are a static count, not throughput.",
)


@dataclass(frozen=True)
class Shipped:
    """One kernel as it ships: architecture, layer, number format and tile."""

    arch: str
    size: str
    name: str
    launch: Launch
    element: str = "bf16"
    types: Mapping[str, str] | None = None

    @property
    def training(self) -> bool:
        """Whether it is what the 1B/14B layer runs on a full training batch."""
        return self.size == "1B/14B" and self.element == "bf16"


def _forward_launches(arch: str, layer: Layer, slots: int) -> Iterator[tuple[str, Launch]]:
    saving = plans.forward_plan(arch, layer, slots, True)
    yield "up", saving.up
    yield "up without h", plans.forward_plan(arch, layer, slots, False).up
    yield "down", saving.down
    yield "combine", saving.combine


def _backward_launches(arch: str, layer: Layer, slots: int) -> Iterator[tuple[str, Launch]]:
    plan = plans.backward_plan(arch, layer, slots, False)
    yield "h again", plan.recompute
    yield "act_grad", plan.act_grad
    yield "act_grad, detach", plans.backward_plan(arch, layer, slots, True).act_grad
    yield "dw2", plan.dw2
    yield "dw13", plan.dw13
    yield "input_grad", plan.input_grad
    yield "reduce", plan.reduce


def launches(arch: str, layer: Layer, tokens: tuple[int, ...]) -> Iterator[tuple[str, Launch]]:
    """Every launch that these numbers of tokens lead to, without repeats."""
    seen = []
    for T in tokens:
        slots = T * layer.K
        both = (_forward_launches(arch, layer, slots), _backward_launches(arch, layer, slots))
        for name, launch in itertools.chain(*both):
            if launch not in seen:
                seen.append(launch)
                yield name, launch


def on_descriptors(arch: str) -> Iterator[Shipped]:
    """The path that is off: the 1B/14B layer's tiles with tensor descriptors, where they can be."""
    with plans.using(plans.on_descriptors(plans.tables())):
        found = list(launches(arch, LAYERS["1B/14B"], TILE_TOKENS))
    for name, launch in found:
        if name in plans.DESCRIBED_TILES and launch.described():
            yield Shipped(arch, "1B/14B", f"{name}, TMA", launch)


def other_types(arch: str) -> Iterator[Shipped]:
    """The 1B/14B layer's tiles with gate weights in bf16, and with gradients in float32."""
    for name, launch in launches(arch, LAYERS["1B/14B"], TILE_TOKENS):
        if name in OTHER_TYPES:
            what, types = OTHER_TYPES[name]
            yield Shipped(arch, "1B/14B", f"{name}, {what}", launch, types=types)


def shipped(arch: str) -> list[Shipped]:
    """The 1B/14B layer in every tile, smaller ones in the training tiles, one layer in float32."""
    found = [
        Shipped(arch, size, name, launch)
        for size, layer in LAYERS.items()
        for name, launch in launches(
            arch, layer, TILE_TOKENS if size == "1B/14B" else (TRAINING_TOKENS,)
        )
    ]
    full = launches(arch, Layer(2048, 1024, 8, 128, half=False), (TRAINING_TOKENS,))
    found += [Shipped(arch, "1B/14B", name, launch, "fp32") for name, launch in full]
    found += [*other_types(arch), *on_descriptors(arch)]
    return [*found, *(Shipped(arch, "1B/14B", *each) for each in _without_products())]


def _without_products() -> Iterator[tuple[str, Launch]]:
    """What runs before the products: the document pools, and the order of the slots."""
    yield "document pool", plans.pool_launch(127, 128)
    yield "sort few slots", plans.sort_few_launch(128, 16)
    names = ("count slots", "sum counts", "place slots")
    yield from zip(names, plans.sort_many_launches(128), strict=True)
    yield "cut tiles", plans.cut_tiles_launch(128, 128)


def examine(kernel: Shipped) -> dict[str, Any]:
    """Compile one kernel; its facts, its bars and its cost as one flat row."""
    from model.kernels import aot, bars

    launch = kernel.launch
    compiled = aot.compile_launch(launch, kernel.arch, kernel.element, kernel.types)
    half = kernel.element == "bf16"
    product = "BK" in launch.constants
    row = {
        "arch": kernel.arch,
        "size": kernel.size,
        "kernel": kernel.name,
        "element": kernel.element,
        "tile": _tile(launch),
        "warps": launch.warps,
        "stages": launch.stages,
        **asdict(compiled),
        "occupancy": bars.occupancy(compiled, kernel.arch),
        "buffers": compiled.shared / costs.tile_bytes(launch, 2 if half else 4) if product else 0,
        "l2_intensity": costs.l2_intensity(launch, 2 if half else 4),
        "misses": bars.misses(launch, compiled, kernel.arch, half, kernel.training),
    }
    return row | _cost(kernel)


def _tile(launch: Launch) -> str:
    names = [name for name in ("BM", "BN", "BK", "BH", "BT", "BR") if name in launch.constants]
    return "x".join(str(launch.constants[name]) for name in names)


def _cost(kernel: Shipped) -> dict[str, Any]:
    """FLOPs, bytes and roofline seconds at the training batch, for the tiles that serve it."""
    layer = LAYERS[kernel.size]
    known = costs.forward_costs(layer, TRAINING_TOKENS) | costs.backward_costs(
        layer, TRAINING_TOKENS
    )
    cost = known.get(kernel.name)
    large = kernel.launch.constants.get("BM", 128) == 128
    if cost is None or not large or not kernel.training:
        return {"flops": None, "bytes": None, "roofline_seconds": None}
    seconds = cost.seconds(costs.MACHINES[kernel.arch])
    return {"flops": cost.flops, "bytes": cost.bytes, "roofline_seconds": seconds}


def cost_summary() -> dict[str, Any]:
    """Modelled bytes against the lower bound, saved bytes, and what a mask saves."""
    layer, T = LAYERS["1B/14B"], TRAINING_TOKENS
    forward = costs.total(costs.forward_costs(layer, T))
    backward = costs.total(costs.backward_costs(layer, T))
    return {
        "tokens": T,
        "forward_bytes": forward.bytes,
        "forward_over_bound": forward.bytes / costs.lower_bound(layer, T, False).bytes,
        "backward_bytes": backward.bytes,
        "backward_over_bound": backward.bytes / costs.lower_bound(layer, T, True).bytes,
        "forward_flops": costs.lower_bound(layer, T, False).flops,
        "backward_flops": costs.lower_bound(layer, T, True).flops,
        "saved_bytes_per_token": costs.saved_bytes_per_token(layer),
        "saved_bytes_per_token_recompute": costs.saved_bytes_per_token(layer, "x"),
        "machines": {arch: asdict(machine) for arch, machine in costs.MACHINES.items()},
        "mask_savings": [
            {"tokens": T, "kept": kept, "arch": arch, "times": saving}
            for arch, machine in costs.MACHINES.items()
            for T in MASK_TOKENS
            for kept in MASK_KEPT
            for saving in [costs.mask_savings(layer, T, kept, machine)]
        ],
    }


def build(archs: tuple[str, ...], jobs: int) -> dict[str, Any]:
    """Compile everything; raises ValueError under Triton's interpreter, which cannot."""
    import triton

    if triton.knobs.runtime.interpret:
        raise ValueError("Unset TRITON_INTERPRET: interpreted kernels cannot be compiled.")
    kernels = [kernel for arch in archs for kernel in shipped(arch)]
    with ProcessPoolExecutor(jobs) as pool:
        rows = list(pool.map(examine, kernels))
    return {
        "format_version": FORMAT_VERSION,
        "triton": triton.__version__,
        "rows": rows,
        "costs": cost_summary(),
        "not_measured": list(NOT_MEASURED),
    }


def table(report: dict[str, Any]) -> Iterator[str]:
    """The report as lines of text."""
    yield (
        f"{'arch':7}{'size':9}{'kernel':28}{'type':6}{'tile':12}{'w/s':5}{'regs':>5}{'stack':>6}"
        f"{'spill':>6}{'KiB':>5}{'buf':>5}{'occ':>6}{'tmem':>5} {'op':8}{'async':>5}{'LDG':>4}"
        f"{'GFLOP':>7}{'MB':>6}{'us':>6}  bars missed"
    )
    for row in report["rows"]:
        cost = ("", "", "")
        if row["flops"]:
            microseconds = row["roofline_seconds"] * 1e6
            cost = (f"{row['flops'] / 1e9:.0f}", f"{row['bytes'] / 1e6:.0f}", f"{microseconds:.0f}")
        yield (
            f"{row['arch']:7}{row['size']:9}{row['kernel']:28}{row['element']:6}{row['tile']:12}"
            f"{row['warps']}/{row['stages']:<3}{row['registers']:5}{row['stack']:6}"
            f"{row['spills']:6}{row['shared'] // 1024:5}{row['buffers']:5.1f}"
            f"{row['occupancy']:6.0%}{row['tmem_columns']:5} {row['tensor_op']:8}"
            f"{row['async_loads']:5}{row['wide_loads']:4}{cost[0]:>7}{cost[1]:>6}{cost[2]:>6}"
            f"  {'; '.join(row['misses'])}"
        )
    summary = report["costs"]
    yield (
        f"\nAt {summary['tokens']:,} tokens: forward {summary['forward_bytes'] / 1e9:.2f} GB, "
        f"{summary['forward_over_bound']:.2f}x the lower bound; backward "
        f"{summary['backward_bytes'] / 1e9:.2f} GB, {summary['backward_over_bound']:.2f}x; "
        f"saved {summary['saved_bytes_per_token']:,.0f} bytes a token "
        f"({summary['saved_bytes_per_token_recompute']:,.0f} with save='x')."
    )
    yield "Not measured:"
    yield from (f"- {line}" for line in report["not_measured"])


@click.command(cls=Command)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Also write it as JSON.")
@click.option(
    "--arch",
    "archs",
    multiple=True,
    type=click.Choice(plans.ARCHITECTURES),
    default=plans.ARCHITECTURES,
    show_default=True,
)
@click.option("--jobs", type=click.IntRange(1), default=os.cpu_count() or 1, show_default=True)
def main(path: Path | None, archs: tuple[str, ...], jobs: int) -> None:
    """Print the table; exit with 1 if a bar is missed."""
    if path is not None:
        check_new_file(path)
    report = build(archs, jobs)
    if path is not None:
        write_json(path, report, indent=1)
    for line in table(report):
        click.echo(line)
    missed = sum(bool(row["misses"]) for row in report["rows"])
    click.echo(f"{len(report['rows'])} kernels compiled, {missed} miss a bar.")
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
