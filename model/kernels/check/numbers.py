"""Stages that compare: numbers with float64, pools with the routing function, bits with bits.

Each yields one row a case with `passed`. Shapes as in `cases`; B rows, R routed experts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from model.emo import routing
from model.kernels import plans
from model.kernels.check import cases as c
from model.kernels.check.cases import Case
from model.kernels.ops import document_pools

Row = dict[str, Any]
POISON_BYTES = 2**31
SMALL_POISON_BYTES = 2**19  # the allocator keeps blocks under 1 MiB apart


def compare(device: str, cases: Sequence[Row]) -> Iterator[Row]:
    """Every output and gradient against float64, whole and in its worst block of 16 columns."""
    for case in c.from_json(cases):
        yield c.attempt(case.row(), partial(_compare, case, device))


def _compare(case: Case, device: str) -> Row:
    found = c.problem(case, device)
    got, want = c.outputs(found, case), c.exact(found)
    whole, blocks, bar = c.errors(got, want), c.block_errors(got, want), c.BARS[case.dtype]
    # Not `any(error > bar)`: a NaN is above no bar.
    passed = all(error <= bar for error in whole.values())
    passed &= all(error <= c.BLOCK_FACTOR * bar for error in blocks.values())
    return {"errors": whole, "block_errors": blocks, "bar": bar, "passed": passed}


def pools(device: str, sizes: Sequence[Sequence[int]]) -> Iterator[Row]:
    """Document pools of packed rows: the mask that the routing function gives in float64."""
    for B, T, R in sizes:
        generator = torch.Generator().manual_seed(0)
        segments_BT = (torch.rand(B, T, generator=generator) < 0.02).long().cumsum(1)
        logits_BTE = 3 * torch.randn(B, T, R + 1, generator=generator)
        sizes_BD = torch.randint(1, R + 1, (B, T), generator=generator)
        scores_BTR = logits_BTE[..., :R].double().softmax(-1)
        want = routing.document_pools(scores_BTR, segments_BT, sizes_BD)
        moved = (t.to(device) for t in (logits_BTE, segments_BT, sizes_BD))
        passed = torch.equal(document_pools(*moved, R).cpu(), want)
        yield {"sizes": [B, T, R], "call": "document pools", "passed": passed}


def bits(device: str, cases: Sequence[Row], repeats: int) -> Iterator[Row]:
    """What must not change a bit: another run, memory full of NaN, tensor descriptors."""
    for case in c.from_json(cases):
        found = c.problem(case, device)
        first = c.outputs(found, case)
        again: dict[str, Callable[[], bool]] = {
            f"{repeats} more runs": partial(_repeats, found, case, first, repeats),
            "scratch full of NaN": partial(_poisoned, found, case, first, device),
            "tensor descriptors": partial(_described, found, case, first),
        }
        for name, same in again.items():
            yield c.attempt(case.row() | {"what": name}, partial(_passed, same))
        yield c.attempt(
            case.row() | {"what": "h computed again"}, partial(_recomputed, found, case, first)
        )


def _passed(same: Callable[[], bool]) -> Row:
    return {"passed": same()}


def _same(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _repeats(found: c.Problem, case: Case, first: Sequence[torch.Tensor], repeats: int) -> bool:
    return all(_same(first, c.outputs(found, case)) for _ in range(repeats))


def _poisoned(found: c.Problem, case: Case, first: Sequence[torch.Tensor], device: str) -> bool:
    """The allocator hands out what was freed last: memory that holds NaN."""
    for count, size in ((64, SMALL_POISON_BYTES), (1, POISON_BYTES)):
        full = [torch.empty(size // 4 * (device != "cpu"), device=device) for _ in range(count)]
        for block in full:
            block.fill_(float("nan"))
        del full, block
    return _same(first, c.outputs(found, case))


def _described(found: c.Problem, case: Case, first: Sequence[torch.Tensor]) -> bool:
    """Where this GPU or a size has no descriptors, both are the pointers."""
    with plans.using(plans.on_descriptors(plans.tables())):
        return _same(first, c.outputs(found, case))


def _recomputed(found: c.Problem, case: Case, first: Sequence[torch.Tensor]) -> Row:
    """The same to rounding; in every bit only where both passes take one tile (`same_bits`)."""
    got = c.outputs(found, replace(case, save="x"))
    whole = c.errors(got, [t.double() for t in first])
    passed = all(error <= c.BARS[case.dtype] for error in whole.values())
    return {"errors": whole, "same_bits": _same(first, got), "passed": passed}
