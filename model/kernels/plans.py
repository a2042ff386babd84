"""How each kernel is launched: constants, tile, warps and stages, from the tables in configs.json.

The same `Launch` is what a GPU runs, what the interpreter runs and what `aot` compiles, so that
what was verified is what is used. A table is chosen by architecture and number format, a row of it
by the mean rows an expert would own, which is known without looking at the routing. Nothing is
autotuned unless asked: `model.kernels.tune` writes a file of the same form, and EMO_KERNEL_CONFIGS
names it.

Shapes: T tokens, K experts a token, S = T*K slots, P physical experts, H hidden size, I expert
width, J = 2I.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from model.files import read_json

TABLES = Path(__file__).with_name("configs.json")
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
WITHOUT_DESCRIPTORS = ("sm_80",)  # emulated there, at up to 255 registers
DESCRIPTOR_ALIGNMENT = 16  # bytes: the start of a tensor and each of its rows
DESCRIBED_TILES = ("up", "down", "act_grad", "input_grad")
POOL_TOKENS = 32
FEW_SLOTS = 1024  # so many are sorted by one program
SORTED_ENTRIES = 4096  # of a block of slots x experts: 32 a thread of four warps
SORTED_BLOCKS = 8  # of slots that one program sorts in turn, where there are many
_instead: dict[str, Any] | None = None  # of all threads: on CUDA the backward pass has its own


@dataclass(frozen=True)
class Layer:
    """One expert layer: the sizes every kernel is compiled for."""

    H: int
    I: int  # noqa: E741
    K: int
    P: int
    half: bool = True  # 16-bit (bf16, fp16) or float32


@dataclass(frozen=True)
class Launch:
    """One kernel with its compile-time constants; `blocks` programs a tile of rows (or expert)."""

    kernel: str
    constants: dict[str, Any]
    warps: int
    stages: int
    blocks: int = 1
    max_registers: int | None = None

    def options(self) -> dict[str, int]:
        """How Triton is to compile it."""
        options = {"num_warps": self.warps, "num_stages": self.stages}
        return options | ({"maxnreg": self.max_registers} if self.max_registers else {})

    def described(self) -> dict[str, list[int]]:
        """Operands that are tensor descriptors, by parameter name: the block each is loaded in."""
        if not self.constants.get("TMA"):
            return {}
        BM, BN, BK = (self.constants[name] for name in ("BM", "BN", "BK"))
        if self.kernel == "up_kernel":
            return {"w13_PJH": [1, BN, BK]}
        if self.kernel == "act_grad_kernel":
            return {"w2_PHI": [1, BK, BN]}
        w_block = [1, BK, BN] if self.constants["STRIDE_WIDTH"] == 1 else [1, BN, BK]
        return {"rows_SD": [BM, BK], "w_P": w_block}

    def on_pointers(self) -> "Launch":
        """The same launch without descriptors: the same bits."""
        return replace(self, constants=self.constants | {"TMA": False})


@dataclass(frozen=True)
class ForwardPlan:
    BM: int
    up: Launch
    down: Launch
    combine: Launch


@dataclass(frozen=True)
class BackwardPlan:
    BM: int
    recompute: Launch  # h again, for save="x"
    act_grad: Launch
    dw2: Launch
    dw13: Launch
    input_grad: Launch
    reduce: Launch


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def architecture(major: int) -> str:
    """The table for a compute capability; consumer Blackwell (12) has sm_80's shared memory."""
    return {9: "sm_90", 10: "sm_100"}.get(major, "sm_80")


def tables() -> dict[str, Any]:
    """All tables in use; ValueError if EMO_KERNEL_CONFIGS names something else."""
    return _instead or _read()


def path() -> Path:
    """The file that the tables are read from."""
    return Path(os.environ.get("EMO_KERNEL_CONFIGS") or TABLES)


@cache
def _read() -> dict[str, Any]:
    return read_tables(path())


def read_tables(file: Path) -> dict[str, Any]:
    """The tables of a file. Raises ValueError if it holds none."""
    try:
        found = read_json(file)
        lacking = [f"no table for {arch}" for arch in ARCHITECTURES if arch not in found]
    except ValueError as error:
        lacking = [str(error).removesuffix(".")]
    if lacking:
        raise ValueError(
            f"{file} holds no kernel tables ({'; '.join(lacking)}): unset EMO_KERNEL_CONFIGS, or "
            "write a file with python -m model.kernels.tune."
        )
    return found


@contextmanager
def using(other: dict[str, Any]) -> Iterator[None]:
    """Kernels launched inside take their tiles from these tables."""
    global _instead
    original, _instead = _instead, other
    try:
        yield
    finally:
        _instead = original


def on_descriptors(part: Any) -> Any:
    """A copy of tables, or of a part of them, in which every tile that can asks for descriptors."""
    if isinstance(part, list):
        return [on_descriptors(row) for row in part]
    if not isinstance(part, dict):
        return part
    copied = {name: on_descriptors(value) for name, value in part.items()}
    asking = {name: copied[name] | {"tma": True} for name in DESCRIBED_TILES if name in copied}
    return copied | asking


def _row(rows: list[dict[str, Any]], num_slots: int, num_experts: int) -> dict[str, Any]:
    """The first row made for this many rows an expert."""
    for row in rows:
        if row["max_mean_rows"] is None or num_slots <= row["max_mean_rows"] * num_experts:
            return row
    raise ValueError("The last row of a kernel table must have max_mean_rows null.")


def _sharing(layer: Layer, live: int | None) -> int:
    return layer.P if live is None else max(1, min(live, layer.P))


def _fit(block: int, size: int) -> int:
    """No block wider than the axis needs (16 is the least `tl.dot` takes)."""
    return min(block, max(16, 1 << (size - 1).bit_length()))


def _launch(kernel: str, tile: dict[str, int], blocks: int, **constants: Any) -> Launch:
    limit = tile.get("max_registers")
    return Launch(kernel, constants, tile["warps"], tile["stages"], blocks, limit)


def can_describe(arch: str, layer: Layer) -> bool:
    """Whether descriptors can be had: by architecture, format and rows of multiples of 16 bytes.

    Not in float32: the up projection would need 238 registers (the bar is 224), the rest twice to
    three times those of the pointers.
    """
    aligned = 2 * math.gcd(layer.H, layer.I) % DESCRIPTOR_ALIGNMENT == 0
    return layer.half and aligned and arch not in WITHOUT_DESCRIPTORS


def _tma(arch: str, layer: Layer, tile: dict[str, int]) -> bool:
    """Whether a tile's operands come through descriptors: if its table says so and they can."""
    return bool(tile.get("tma")) and can_describe(arch, layer)


def _parts(tile: dict[str, int], BN: int) -> int:
    """Parts of its columns that a tile's epilogue works on in turn: none under 16 columns."""
    return min(tile.get("parts", 1), BN // 16)


def up_launch(
    arch: str, layer: Layer, tile: dict[str, int], BM: int, save_h: bool, store_a: bool
) -> Launch:
    BN, BK = _fit(tile["BN"], layer.I), _fit(tile["BK"], layer.H)
    sizes = {"H": layer.H, "I": layer.I, "K": layer.K, "BM": BM, "BN": BN, "BK": BK}
    options = {"SAVE_H": save_h, "STORE_A": store_a, "PARTS": _parts(tile, BN)}
    options["TMA"] = _tma(arch, layer, tile)
    return _launch("up_kernel", tile, cdiv(layer.I, BN), **options, **sizes)


def _product_launch(
    arch: str, layer: Layer, tile: dict[str, int], BM: int, depth: int, strides: tuple[int, int]
) -> Launch:
    width = layer.H
    BN, BK = _fit(tile["BN"], width), _fit(tile["BK"], depth)
    return _launch(
        "rows_to_slots_kernel",
        tile,
        cdiv(width, BN),
        DEPTH=depth,
        WIDTH=width,
        STRIDE_DEPTH=strides[0],
        STRIDE_WIDTH=strides[1],
        TMA=_tma(arch, layer, tile),
        BM=BM,
        BN=BN,
        BK=BK,
    )


def sum_launch(layer: Layer, scaled: bool) -> Launch:
    BH = min(2048, max(16, 1 << (layer.H - 1).bit_length()))
    constants = {"H": layer.H, "K": layer.K, "SCALED": scaled, "BH": BH}
    # One 128-bit load of 16-bit values a thread and slot; two warps at least, because no more than
    # 32 blocks fit on a multiprocessor.
    return Launch("sum_slots_kernel", constants, max(2, min(8, BH // 256)), 1, cdiv(layer.H, BH))


def forward_plan(
    arch: str, layer: Layer, num_slots: int, save_h: bool, live: int | None = None
) -> ForwardPlan:
    """The forward launches; `live` experts share the slots, all P where it is not known.

    A wrong `live` costs time alone: it chooses tiles, never which experts are computed.
    """
    table = tables()[arch]["half" if layer.half else "full"]
    row = _row(table["forward"], num_slots, _sharing(layer, live))
    BM = row["BM"]
    down = _product_launch(arch, layer, row["down"], BM, layer.I, (1, layer.I))
    up = up_launch(arch, layer, row["up"], BM, save_h, True)
    return ForwardPlan(BM, up, down, sum_launch(layer, True))


def backward_plan(
    arch: str, layer: Layer, num_slots: int, detach: bool, live: int | None = None
) -> BackwardPlan:
    """The backward launches; `live` as in `forward_plan`."""
    table = tables()[arch]["half" if layer.half else "full"]
    row = _row(table["backward"], num_slots, _sharing(layer, live))
    BM = row["BM"]
    # One tile map serves both: h is computed again in the backward pass's height.
    forward_row = next((r for r in table["forward"] if r["BM"] == BM), table["forward"][-1])
    return BackwardPlan(
        BM,
        up_launch(arch, layer, forward_row["up"], BM, True, False),
        act_grad_launch(arch, layer, row["act_grad"], BM, detach),
        weight_grad_launch(layer, table["weight_grad"], layer.H, layer.I, True),
        weight_grad_launch(layer, table["weight_grad"], 2 * layer.I, layer.H, False),
        _product_launch(arch, layer, row["input_grad"], BM, 2 * layer.I, (layer.H, 1)),
        sum_launch(layer, False),
    )


def act_grad_launch(arch: str, layer: Layer, tile: dict[str, int], BM: int, detach: bool) -> Launch:
    BN, BK = max(32, _fit(tile["BN"], layer.I)), _fit(tile["BK"], layer.H)
    sizes = {"H": layer.H, "I": layer.I, "K": layer.K, "BM": BM, "BN": BN, "BK": BK}
    options = {"DETACH": detach, "PARTS": _parts(tile, BN), "TMA": _tma(arch, layer, tile)}
    return _launch("act_grad_kernel", tile, cdiv(layer.I, BN), **options, **sizes)


def weight_grad_launch(
    layer: Layer, tile: dict[str, int], height: int, width: int, left_is_tokens: bool
) -> Launch:
    BM, BN = _fit(tile["BM"], height), _fit(tile["BN"], width)
    return _launch(
        "weight_grad_kernel",
        tile,
        cdiv(height, BM) * cdiv(width, BN),
        HEIGHT=height,
        WIDTH=width,
        K=layer.K,
        LEFT_IS_TOKENS=left_is_tokens,
        BM=BM,
        BN=BN,
        BK=tile["BK"],
    )


def _sorting(num_experts: int) -> dict[str, int]:
    BP = max(16, 1 << (num_experts - 1).bit_length())
    return {"P": num_experts, "BP": BP, "BS": max(16, min(64, SORTED_ENTRIES // BP))}


def sort_few_launch(num_experts: int, BM: int) -> Launch:
    """Slots into the order of their experts and tiles of BM rows, by one program."""
    return Launch("sort_few_kernel", _sorting(num_experts) | {"BM": BM}, 4, 1)


def sort_many_launches(num_experts: int) -> tuple[Launch, Launch, Launch]:
    """Count each run's slots, sum the counts, place the slots; a run is STEPS blocks."""
    runs = _sorting(num_experts) | {"STEPS": SORTED_BLOCKS}
    return (
        Launch("count_slots_kernel", runs, 4, 1),
        Launch("sum_counts_kernel", {"BC": 512}, 4, 1),
        Launch("place_slots_kernel", runs, 4, 1),
    )


def cut_tiles_launch(num_experts: int, BM: int) -> Launch:
    """Sorted rows into tiles of BM."""
    return Launch("cut_tiles_kernel", _sorting(num_experts) | {"BM": BM}, 4, 1)


def pool_launch(num_routed: int, row_stride: int) -> Launch:
    BR = max(16, 1 << (num_routed - 1).bit_length())
    constants = {"ROW_STRIDE": row_stride, "R": num_routed, "BR": BR, "BT": POOL_TOKENS}
    return Launch("document_pool_kernel", constants, 4, 1)
