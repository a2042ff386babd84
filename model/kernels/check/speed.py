"""Stages that measure: the layer, each of its kernels, and other implementations beside it.

Times are medians of milliseconds. Few tokens are timed as a CUDA graph, because from Python the
launches, not the kernels, would be timed. TFLOP/s count the products of the slots that are live.

Shapes as in `cases`.
"""

import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from model.kernels import costs, metadata, plans
from model.kernels.check import cases as c
from model.kernels.check.cases import Case
from model.kernels.ops import moe

Row = dict[str, Any]
Run = Callable[[], object]
Layer = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Clock = Callable[[Run, torch.device], float]
GRAPH_TOKENS = 256
READS_BACK = ("transformers eager",)  # asks the GPU which experts have rows: no graph of it
REPLAYS = 10
SAMPLES = 15
VARIANTS = ("triton", "triton, descriptors", "triton, save x", "grouped_mm")
KERNELS = ("up", "down", "combine", "act_grad", "dw2", "dw13", "input_grad", "reduce")


def layer(device: str, cases: Sequence[Row]) -> Iterator[Row]:
    """Forward, and forward and backward: the kernels, their variants, and torch's grouped_mm."""
    for case in c.from_json(cases):
        found = c.problem(case, device)
        large = case.T > GRAPH_TOKENS
        for name in VARIANTS if large else (VARIANTS[0], VARIANTS[-1]):
            yield _timed(case, found, name, partial(_ours, name, case, found))
        del found


def peers(device: str, cases: Sequence[Row]) -> Iterator[Row]:
    """transformers' implementations (SonicMoE is one of them), and Liger where it is installed."""
    for case in c.from_json(cases):
        found = c.problem(case, device)
        for name, make in _peers(case, found).items():
            yield _timed(case, found, name, make)


def _timed(case: Case, found: c.Problem, name: str, make: Callable[[], Layer]) -> Row:
    graph = case.T <= GRAPH_TOKENS and name not in READS_BACK
    row = case.row() | {"name": name, "graph": graph}
    with plans.using(_tables(name)):
        try:
            return row | _times(case, found, make(), graph_ms if graph else bench_ms)
        except Exception as error:  # a foreign library may fail in any way, ours is compared before
            if found.idx_TK.is_cuda:
                torch.cuda.synchronize()  # raises, and ends the stage, where the GPU is lost
            return row | {"error": f"{type(error).__name__}: {error}"[:300]}


def _tables(name: str) -> dict[str, Any]:
    tables: dict[str, Any] = plans.tables()
    return plans.on_descriptors(tables) if name == VARIANTS[1] else tables


def _ours(name: str, case: Case, found: c.Problem) -> Layer:
    backend: Any = name if name == "grouped_mm" else "triton"
    save: Any = "x" if name == VARIANTS[2] else "xh"
    options = {"backend": backend, "save": save, "live": case.live}
    return lambda x, w13, w2, s: moe(x, w13, w2, s, found.idx_TK, **options)


def _times(case: Case, found: c.Problem, run: Layer, clock: Clock) -> Row:
    """Both passes' milliseconds, rates, and the most memory that both need."""
    x, w13, w2, s = found.tensors

    def forward() -> object:
        with torch.no_grad():
            return run(x, w13, w2, s)

    def both() -> object:
        return torch.autograd.grad(run(x, w13, w2, s), (x, w13, w2, s), found.upstream_TH)

    slots = int((found.idx_TK >= 0).sum())
    flops = 6 * slots * case.H * case.I
    row: Row = {"forward_ms": clock(forward, x.device)}
    row["forward_tflops"] = rate(flops, row["forward_ms"])
    if x.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    row["forward_backward_ms"] = clock(both, x.device)
    row["forward_backward_tflops"] = rate(3 * flops, row["forward_backward_ms"])
    return row | ({"peak_bytes": torch.cuda.max_memory_allocated()} if x.is_cuda else {})


def clock_of(case: Case) -> Clock:
    """Few tokens take less time than Python needs to launch them."""
    return graph_ms if case.T <= GRAPH_TOKENS else bench_ms


def _clock(case: Case, device: torch.device, run: Run) -> float:
    return clock_of(case)(run, device)


def rate(flops: float, milliseconds: float) -> float:
    """TFLOP/s."""
    return flops / milliseconds / 1e9 if milliseconds else 0.0


def bench_ms(run: Run, device: torch.device, rep: int = 100) -> float:
    """Median milliseconds of a call; on a CPU (tests) of one call, by its own clock."""
    if device.type == "cpu":
        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start)
    from triton.testing import do_bench

    return float(do_bench(run, warmup=25, rep=rep, return_mode="median"))


def graph_ms(run: Run, device: torch.device) -> float:
    """Median milliseconds of a call replayed as a CUDA graph."""
    if device.type == "cpu":
        return bench_ms(run, device)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):  # compiles and allocates what a capture cannot
        for _ in range(3):
            run()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    graph.replay()
    return statistics.median(_replay_ms(graph) for _ in range(SAMPLES))


def _replay_ms(graph: Any) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(REPLAYS):
        graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / REPLAYS


def kernels(device: str, cases: Sequence[Row]) -> Iterator[Row]:
    """Each kernel alone, as the layer launches it, and the torch operations between them."""
    for case in c.from_json(cases):
        yield from _kernels(case, device)


def _kernels(case: Case, device: str) -> Iterator[Row]:
    found = c.problem(case, device)
    clock = partial(_clock, case, torch.device(device))
    slots = int((found.idx_TK >= 0).sum())
    sizes = plans.Layer(case.H, case.I, case.K, case.E)
    for name, run in zip(KERNELS, started(case, found), strict=True):
        yield case.row() | {"kernel": name} | _rates(name, clock(run), sizes, slots / case.K)
    for name, by_torch in (("sort slots", False), ("sort slots (torch)", True)):
        yield case.row() | {"kernel": name, "ms": clock(partial(_sort, found, by_torch))}


def started(case: Case, found: c.Problem) -> list[Run]:
    """The launches of a pass (`KERNELS` in this order; without backward the first three).

    Each can be repeated as often as one likes: a kernel reads nothing that it writes.
    """
    from model.kernels import flow, sorting

    runs: list[Run] = []
    start: Any = flow._start

    def record(*arguments: Any, **scalars: int) -> None:
        start(*arguments, **scalars)
        if hasattr(sorting, arguments[2].kernel):
            return  # timed as a whole: what a layer launches of them depends on its slots
        runs.append(partial(start, *arguments, **scalars))

    # setattr: only the parameters' names differ.
    setattr(flow, "_start", record)  # noqa: B010
    try:
        if case.backward:
            c.outputs(found, case)
        else:
            c.forward(found, case)
    finally:
        flow._start = start
    return runs


def _sort(found: c.Problem, by_torch: bool) -> object:
    from model.kernels import flow

    P = found.tensors[2].shape[0]
    bucket_S = metadata.physical_experts(found.idx_TK, P)
    if not by_torch:
        return flow.sort_slots(bucket_S, P, 128)
    slots = metadata.sort_slots_by_expert(bucket_S, P)
    return metadata.tile_map(slots.starts_P1, bucket_S.shape[0], 128)


def _rates(name: str, milliseconds: float, sizes: plans.Layer, tokens: float) -> Row:
    """TFLOP/s and GB/s by the FLOPs and bytes that the paper model counts."""
    known = costs.forward_costs(sizes, int(tokens)) | costs.backward_costs(sizes, int(tokens))
    cost = known[name]
    moved = cost.bytes / milliseconds / 1e6 if milliseconds else 0.0
    return {"ms": milliseconds, "tflops": rate(cost.flops, milliseconds), "gb_per_s": moved}


def _peers(case: Case, found: c.Problem) -> dict[str, Callable[[], Layer]]:
    """By name, how to make it. What is not installed is left out."""
    # One weight a slot is gathered there: only few tokens fit.
    few = ("batched_mm",) if case.T <= GRAPH_TOKENS else ()
    names = ("grouped_mm", "sonicmoe", "eager", *few)
    made: dict[str, Callable[[], Layer]] = {
        f"transformers {name}": partial(_transformers, name, case, found) for name in names
    }
    if importlib.util.find_spec("liger_kernel"):
        made["Liger"] = partial(_liger, found)
    return made


def _transformers(name: str, case: Case, found: c.Problem) -> Layer:
    from transformers import OlmoeConfig
    from transformers.models.olmoe.modeling_olmoe import OlmoeExperts

    config = OlmoeConfig(
        hidden_size=case.H,
        intermediate_size=case.I,
        num_experts=case.E,
        num_experts_per_tok=case.K,
    )
    config._experts_implementation = name
    with torch.device("meta"):
        experts = OlmoeExperts(config)
    # transformers wants parameters; the others take them as well.
    found.tensors[1:3] = [torch.nn.Parameter(w.detach()) for w in found.tensors[1:3]]
    experts.gate_up_proj, experts.down_proj = found.tensors[1:3]
    return lambda x, w13, w2, s: experts(x, found.idx_TK, s.to(x.dtype))


def _liger(found: c.Problem) -> Layer:
    function = importlib.import_module("liger_kernel.ops.fused_moe").LigerFusedMoEFunction
    ids = found.idx_TK.int()
    return lambda x, w13, w2, s: function.apply(x, w13, w2, ids, s.to(x.dtype))


def peer_cases(cases: Sequence[Case]) -> list[Case]:
    """Those of which the other implementations are timed: even routing, few and many tokens."""
    return [case for case in cases if case.routing == "even" and case.T in (1, 64, 16_384)]
