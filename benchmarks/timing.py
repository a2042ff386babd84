"""Time several callables in turn, in one process, and print medians and ratios.

With one torch thread the clock counts the process's own CPU time, so that other programs on the
machine disturb less; with more it is the wall's.
"""

import ctypes
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.processor import without_avx512

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # as glibc's malloc.h numbers them


def prepare(threads: int, avx2: bool) -> None:
    """So many threads, and no AVX-512 if `avx2`: once, before anything is timed."""
    if avx2:
        without_avx512()
    torch.set_num_threads(threads)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Freed memory stays with the process, as in `make train-nano`; nothing without glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def interleaved(
    sides: dict[str, Callable[[], object]],
    rounds: int,
    quantile: float = 0.5,
    wall: bool = False,
    rest: float = 0.0,
) -> dict[str, float]:
    """Median seconds of each side, or another quantile: 0 is the fastest round.

    The sides take turns, so that load falls on all alike. `wall` where a side's own threads are
    not torch's: they may spin when they have nothing to do. `rest` are the seconds after each run
    in which such threads fall asleep.
    """
    by_process = torch.get_num_threads() == 1 and not wall
    clock = time.process_time if by_process else time.perf_counter
    for run in sides.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            time.sleep(rest)
            started = clock()
            run()
            seconds[name].append(clock() - started)
    return {name: _quantile(values, quantile) for name, values in seconds.items()}


def _quantile(values: list[float], share: float) -> float:
    if share == 0.5:
        return statistics.median(values)
    return sorted(values)[int(share * (len(values) - 1))]


def on_gpu(made: dict[str, Callable[[], Callable[[], object]]], rounds: int) -> dict[str, float]:
    """Median seconds of each side, made, run twice, timed and freed before the next; peaks too."""
    medians = {}
    for name, make in made.items():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        run = make()
        for _ in range(5):
            run()
        medians[name] = statistics.median(_synchronised(run) for _ in range(rounds))
        print(f"  {name:<44} {torch.cuda.max_memory_allocated() / 2**30:9.2f} GiB at most")
        del run
    return medians


def _synchronised(run: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def report(title: str, medians: dict[str, float], ours: str) -> None:
    """One line a side: median and how many times as fast ours is."""
    print(title)
    for name, seconds in medians.items():
        ratio = seconds / medians[ours]
        print(f"  {name:<44} {seconds * 1e3:9.2f} ms   ours is {ratio:5.2f}x as fast")
