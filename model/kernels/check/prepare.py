"""The first stage: what the machine is, and every kernel compiled before anything is timed.

Kernels are compiled in processes beside each other, which need no GPU: Triton is given a driver
that only names the target. They land in Triton's cache under the keys under which the launches
look for them, because they are bound by the same code: launches are recorded from the layer itself,
run on tensors without data.
"""

import hashlib
import importlib.metadata
import multiprocessing
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.kernels import metadata, plans
from model.kernels.check import cases as c
from model.kernels.check.cases import Case
from model.kernels.plans import Launch

Row = dict[str, Any]
PACKAGES = ("torch", "triton", "transformers", "numpy")
MOST_JOBS = 16


@dataclass(frozen=True)
class Wanted:
    """One kernel to compile: its launch, the dtype of each tensor (by name), its integers."""

    launch: Launch
    dtypes: tuple[str, ...]
    scalars: tuple[tuple[str, int], ...] = ()

    @property
    def key(self) -> str:
        return repr((self.launch, self.dtypes, self.scalars))


def prepare(device: str, cases: Sequence[Row], jobs: int | None = None) -> Iterator[Row]:
    """A row on the machine, then one on the kernels compiled."""
    yield {"what": "environment"} | environment(device)
    capability = torch.cuda.get_device_capability(device)
    wanted = recorded(c.from_json(cases), plans.architecture(capability[0]))
    major, minor = capability
    yield {"what": "compiled"} | compile_all(wanted, 10 * major + minor, jobs or default_jobs())


def default_jobs() -> int:
    return min(MOST_JOBS, os.cpu_count() or 1)


def environment(device: str) -> Row:
    """Versions, the device, and a digest of the kernels' source."""
    found: Row = {name: _version(name) for name in PACKAGES}
    found |= {"python": platform.python_version(), "platform": platform.platform()}
    found |= {"cuda": torch.version.cuda, "source": source_digest(), "tables": plans.path().name}
    if device == "cpu":
        return found | {"device": "cpu"}
    properties = torch.cuda.get_device_properties(device)
    found |= {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "driver": _driver(),
    }
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    """The driver's version, where the system tells it."""
    try:
        words = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").split()
    except OSError:
        return None
    return next((word for word in words if word.count(".") >= 1 and word[0].isdigit()), None)


def source_digest() -> str:
    """SHA-256 over the kernels' folder and the tables in use: what was checked, without git."""
    folder = Path(plans.__file__).parent
    digest = hashlib.sha256()
    for path in sorted((*folder.glob("*.py"), plans.path())):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def recorded(cases: Sequence[Case], arch: str) -> list[Wanted]:
    """The kernels that these cases launch on an architecture, without repeats."""
    found: dict[str, Wanted] = {}
    with _recording(arch, lambda wanted: found.setdefault(wanted.key, wanted)):
        for case in cases:
            tables = plans.tables()
            with plans.using(plans.on_descriptors(tables) if case.descriptors else tables):
                _run_without_data(case)
    return list(found.values())


@contextmanager
def _recording(arch: str, note: Callable[[Wanted], Any]) -> Iterator[None]:
    """Launches inside are noted instead of started."""
    from model.kernels import flow

    start, table_name = flow._start, flow.table_name

    def record(kernel: Any, grid: Any, launch: Launch, *tensors: Any, **scalars: int) -> None:
        dtypes = tuple(str(t.dtype).removeprefix("torch.") for t in tensors)
        note(Wanted(launch, dtypes, tuple(scalars.items())))

    flow._start, flow.table_name = record, lambda device: arch
    try:
        yield
    finally:
        flow._start, flow.table_name = start, table_name


def _run_without_data(case: Case) -> None:
    """Both passes of the layer on FakeTensors: shapes and dtypes, no memory."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from model.kernels import flow

    T, E, K, H, I = case.T, case.E, case.K, case.H, case.I  # noqa: E741
    x_dtype, gates = getattr(torch, case.dtype), getattr(torch, case.gates)
    weights = getattr(torch, case.weights or case.dtype)
    with FakeTensorMode():
        x, s = torch.empty(T, H, dtype=x_dtype), torch.empty(T, K, dtype=gates)
        w13 = torch.empty(E, 2 * I, H, dtype=weights)
        w2 = torch.empty(E, H, I, dtype=weights)
        bucket = metadata.physical_experts(torch.zeros(T, K, dtype=torch.long), E)
        operands = (x, w13, w2, s, bucket)
        save_h = case.backward and case.save == "xh"
        out, saved = flow.run_forward(*operands, save_h, case.live)
        if case.backward:
            detach = torch.zeros(T * K, dtype=torch.int8) if case.call == "detached" else None
            flow.run_backward(out, *operands, detach, saved, True, True, case.live)


def compile_all(wanted: Sequence[Wanted], capability: int, jobs: int) -> Row:
    """Compile beside each other; says how many, and what failed with what."""
    with Processes(jobs) as processes:
        results = list(processes.run(compile_one, [(w, capability) for w in wanted]))
    failed = [
        f"{wanted[number].launch.kernel} {wanted[number].launch.constants}: {error}"[:500]
        for number, (_, error) in results
        if error
    ]
    row = {"kernels": len(results) - len(failed), "jobs": jobs, "failed": failed}
    lost = len(wanted) - len(results)
    words = "; ".join(failed) or f"the compiler died; {lost} kernels are left"
    return row | ({"error": words[:1000]} if failed or lost else {})


class Processes:
    """Processes beside each other that stay for several rounds of work: each imports torch once."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = None

    def run(
        self, work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, tuple[Any, str]]]:
        """Results as they come: number, and the result or the error's words.

        A compiler that takes its process with it ends the iteration early; the next has new ones.
        """
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.jobs, mp_context=context)
        numbers = {self._pool.submit(work, *each): n for n, each in enumerate(arguments)}
        for future in as_completed(numbers):
            try:
                yield numbers[future], (future.result(), "")
            except BrokenProcessPool:
                self.__exit__()
                return
            except Exception as error:  # the compiler refuses in many ways
                yield numbers[future], (None, f"{type(error).__name__}: {error}")


def compile_one(wanted: Wanted, capability: int) -> None:
    """Compile one kernel for a capability (90 is sm_90) into Triton's cache; needs no GPU."""
    warm(wanted, capability)


def warm(wanted: Wanted, capability: int) -> Any:
    """Triton's compiled kernel, bound as a launch binds it."""
    from model.kernels import aot

    target_only(capability)
    kernel = aot.kernel_named(wanted.launch.kernel)
    blocks = wanted.launch.described()
    names = [name for name in kernel.arg_names if name not in wanted.launch.constants]
    operands = [
        _descriptor(dtype, blocks[name]) if name in blocks else getattr(torch, dtype)
        for name, dtype in zip(names, wanted.dtypes, strict=False)
    ]
    options = wanted.launch.constants | wanted.launch.options()
    return kernel.warmup(*operands, grid=(1,), **dict(wanted.scalars), **options)


def _descriptor(dtype: str, block: Sequence[int]) -> Any:
    from triton.tools.tensor_descriptor import TensorDescriptor

    base = torch.empty([max(size, 16) for size in block], dtype=getattr(torch, dtype))
    return TensorDescriptor.from_tensor(base, list(block))


def target_only(capability: int) -> None:
    """Give Triton, in this process, a driver that names a target and can launch nothing."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver

    target = GPUTarget("cuda", capability, 32)
    if getattr(driver._active, "target", None) != target:
        driver.set_active(_target_only_driver(target))


def _target_only_driver(target: Any) -> Any:
    from triton.backends.driver import DriverBase

    class TargetOnly(DriverBase):
        def __init__(self) -> None:
            self.target = target

        @classmethod
        def is_active(cls) -> bool:
            return True

        def get_current_target(self) -> Any:
            return target

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int) -> int:
            return 0

        def map_python_to_cpp_type(self, ty: str) -> str:
            raise NotImplementedError("nothing is launched here")

        get_active_torch_device = get_benchmarker = map_python_to_cpp_type

    return TargetOnly()
