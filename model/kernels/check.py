"""Check the kernels on a GPU: python -m model.kernels.check --out kernel-check.json

Numerics against float64, document pools against the routing function, bit equality of repeated
runs and of tensor descriptors with pointers, races (with compute-sanitizer where it is installed),
and time against torch's grouped_mm, transformers' own implementations (SonicMoE is one of them),
and ScatterMoE and Liger where they are installed. The Kernel page shows the file. Without a GPU it
says so and exits with 2.

Shapes: B rows, T tokens, K experts a token, E experts, R of them routed, H hidden size, I width.
"""

import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from model import routing
from model.kernels import plans
from model.kernels.ops import document_pools, moe

FORMAT_VERSION = 1
DEVICE = "cuda"
BARS = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}
# T, E, K, H, I: odd sizes, one token, few rows an expert, whole training tiles.
NUMERIC_SIZES = (
    (37, 5, 3, 40, 24),
    (1, 128, 8, 256, 128),
    (300, 16, 4, 200, 136),
    (4096, 16, 4, 512, 256),
)
TIMED_SIZES = ((16_384, 128, 8, 2048, 1024), (256, 128, 8, 2048, 1024), (16, 128, 8, 2048, 1024))
POOL_SIZES = (4, 4096, 127)
REPEATS = 5
DESCRIBED = "triton, descriptors"  # timed with every tile's descriptors on
NAMES = ("out", "dx", "dw13", "dw2", "ds")
Layer = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def problem(
    sizes: tuple[int, int, int, int, int], dtype: torch.dtype, dropped: bool = False
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Unit-scale operands, expert ids (the last expert shared), and an upstream gradient."""
    T, E, K, H, I = sizes  # noqa: E741
    generator = torch.Generator(DEVICE).manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator, device=DEVICE) * scale).to(dtype)

    tensors = [normal(T, H), normal(E, 2 * I, H, scale=H**-0.5), normal(E, H, I, scale=I**-0.5)]
    tensors = [t.requires_grad_() for t in (*tensors, normal(T, K).float())]
    scores_TE = torch.rand(T, E, generator=generator, device=DEVICE)
    scores_TE[:, -1] = 2
    idx_TK = scores_TE.topk(K).indices
    if dropped:
        idx_TK[torch.rand(T, K, generator=generator, device=DEVICE) < 0.3] = -1
    return tensors, idx_TK, normal(T, H)


def outputs(
    tensors: list[Tensor], idx: Tensor, upstream: Tensor, backend: Any = "triton", **options: Any
) -> list[Tensor]:
    x, w13, w2, s = tensors
    out = moe(x, w13, w2, s, idx, backend=backend, **options)
    return [out.detach(), *torch.autograd.grad(out, tensors, upstream)]


def options(sizes: tuple[int, int, int, int, int]) -> dict[str, dict[str, Tensor]]:
    """Ways to call the layer: plainly, with a third of the experts absent, with detached slots."""
    T, E, K = sizes[:3]
    generator = torch.Generator(DEVICE).manual_seed(1)
    phys_E = torch.randperm(E, generator=generator, device=DEVICE)
    phys_E[::3] = -1
    detach_TK = torch.rand(T, K, generator=generator, device=DEVICE) < 0.3
    return {"plain": {}, "expert map": {"phys_E": phys_E}, "detached": {"detach_TK": detach_TK}}


def numerics() -> list[dict[str, Any]]:
    """Relative Frobenius error of every output, and whether it is within its bar."""
    rows = []
    for dtype, bar in BARS.items():
        for sizes in NUMERIC_SIZES:
            tensors, idx, upstream = problem(sizes, dtype, dropped=True)
            exact = [t.detach().double().requires_grad_() for t in tensors]
            for name, chosen in options(sizes).items():
                want = outputs(exact, idx, upstream.double(), "reference", **chosen)
                errors = _errors(outputs(tensors, idx, upstream, **chosen), want)
                passed = all(error <= bar for error in errors.values())
                row = {"sizes": sizes, "dtype": str(dtype), "options": name}
                rows.append(row | {"errors": errors, "passed": passed})
    return rows


def _errors(got: list[Tensor], want: list[Tensor]) -> dict[str, float]:
    return {
        name: float((a.double() - b).norm() / b.norm().clamp(min=1e-30))
        for name, a, b in zip(NAMES, got, want, strict=True)
    }


def pools() -> dict[str, Any]:
    """Document pools of packed rows: the mask that the routing function gives, or not."""
    B, T, R = POOL_SIZES
    generator = torch.Generator().manual_seed(0)
    segments_BT = (torch.rand(B, T, generator=generator) < 0.02).long().cumsum(1)
    logits_BTE = 3 * torch.randn(B, T, R + 1, generator=generator)
    sizes_BD = torch.randint(1, R + 1, (B, T), generator=generator)
    scores_BTR = logits_BTE[..., :R].double().softmax(-1)
    want = routing.document_pools(scores_BTR, segments_BT, sizes_BD)
    got = document_pools(*(t.to(DEVICE) for t in (logits_BTE, segments_BT, sizes_BD)), R)
    return {"sizes": POOL_SIZES, "passed": torch.equal(got.cpu(), want)}


def determinism() -> list[dict[str, Any]]:
    """Repeated runs, and recomputation, against the first run: the same bits or not."""
    rows = []
    for sizes in NUMERIC_SIZES:
        args = problem(sizes, torch.bfloat16)
        first = outputs(*args)
        again = [outputs(*args, save="x" if r % 2 else "xh") for r in range(REPEATS)]
        equal = all(torch.equal(a, b) for run in again for a, b in zip(first, run, strict=True))
        rows.append({"sizes": sizes, "passed": equal})
    return rows


def descriptors() -> list[dict[str, Any]]:
    """Loads through tensor descriptors against loads through pointers: the same bits or not.

    Where this GPU or a size has no descriptors, both are the pointers.
    """
    rows = []
    for sizes in NUMERIC_SIZES:
        args = problem(sizes, torch.bfloat16, dropped=True)
        pointers = outputs(*args)
        with plans.using(plans.on_descriptors(plans.tables())):
            described = outputs(*args)
        equal = all(torch.equal(a, b) for a, b in zip(pointers, described, strict=True))
        rows.append({"sizes": sizes, "passed": equal})
    return rows


def races() -> dict[str, Any]:
    """compute-sanitizer's race and memory checks over the small numeric cases."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"ran": False, "reason": "compute-sanitizer is not installed"}
    results = {}
    for check in ("racecheck", "memcheck"):
        command = [tool, "--tool", check, "--error-exitcode", "9", sys.executable]
        command += ["-m", "model.kernels.check", "--numerics-only"]
        run = subprocess.run(command, capture_output=True, text=True)
        results[check] = {"passed": run.returncode == 0, "output": run.stdout[-2000:]}
    return {"ran": True, **results}


def peers(
    tensors: list[Tensor], idx: Tensor, sizes: tuple[int, int, int, int, int]
) -> dict[str, Callable[[], Layer]]:
    """Everything to time: by name, how to make it. What is not installed is left out."""
    # transformers wants parameters; the others take them as well.
    tensors[1:3] = [torch.nn.Parameter(w.detach()) for w in tensors[1:3]]
    found: dict[str, Callable[[], Layer]] = {
        "triton": lambda: lambda x, w13, w2, s: moe(x, w13, w2, s, idx),
        DESCRIBED: lambda: lambda x, w13, w2, s: moe(x, w13, w2, s, idx),
        "triton, save x": lambda: lambda x, w13, w2, s: moe(x, w13, w2, s, idx, save="x"),
        "grouped_mm": lambda: lambda x, w13, w2, s: moe(x, w13, w2, s, idx, backend="grouped_mm"),
    }
    # One weight a slot is gathered there: only few tokens fit.
    few = ("batched_mm",) if sizes[0] <= 256 else ()
    for name in ("grouped_mm", "sonicmoe", "eager", *few):
        found[f"transformers {name}"] = partial(_transformers, name, tensors, idx, sizes)
    if importlib.util.find_spec("liger_kernel"):
        found["Liger"] = partial(_liger, idx)
    if importlib.util.find_spec("scattermoe"):
        found["ScatterMoE"] = partial(_scattermoe, tensors, idx, sizes)
    return found


def _transformers(
    name: str, tensors: list[Tensor], idx: Tensor, sizes: tuple[int, int, int, int, int]
) -> Layer:
    from transformers import OlmoeConfig
    from transformers.models.olmoe.modeling_olmoe import OlmoeExperts

    _, E, K, H, I = sizes  # noqa: E741
    config = OlmoeConfig(hidden_size=H, intermediate_size=I, num_experts=E, num_experts_per_tok=K)
    config._experts_implementation = name
    with torch.device("meta"):
        experts = OlmoeExperts(config)
    experts.gate_up_proj, experts.down_proj = tensors[1:3]
    return lambda x, w13, w2, s: experts(x, idx, s.to(x.dtype))


def _liger(idx: Tensor) -> Layer:
    function = importlib.import_module("liger_kernel.ops.fused_moe").LigerFusedMoEFunction
    ids = idx.int()
    return lambda x, w13, w2, s: function.apply(x, w13, w2, ids, s.to(x.dtype))


def _scattermoe(tensors: list[Tensor], idx: Tensor, sizes: tuple[int, int, int, int, int]) -> Layer:
    """Its own weights: only the time is compared."""
    _, E, K, H, I = sizes  # noqa: E741
    glu = importlib.import_module("scattermoe.mlp").GLUMLP
    layer = glu(H, I, E, K).to(DEVICE, tensors[0].dtype)
    return lambda x, w13, w2, s: layer(x, s.to(x.dtype), idx)


def timing() -> list[dict[str, Any]]:
    """Median milliseconds forward and forward+backward in bf16; a peer that fails says why."""
    from triton.testing import do_bench

    rows = []
    for sizes in TIMED_SIZES:
        tensors, idx, upstream = problem(sizes, torch.bfloat16)
        for name, make in peers(tensors, idx, sizes).items():
            tables = plans.tables()
            with plans.using(plans.on_descriptors(tables) if name == DESCRIBED else tables):
                row: dict[str, Any] = {"sizes": sizes, "name": name}
                try:
                    row |= _time(make(), tensors, upstream, do_bench)
                except Exception as error:  # a foreign library may fail in any way
                    row["error"] = f"{type(error).__name__}: {error}"[:300]
                rows.append(row)
    return rows


def _time(
    run: Layer, tensors: list[Tensor], upstream: Tensor, bench: Callable[..., float]
) -> dict[str, float]:
    x, w13, w2, s = tensors

    def forward() -> Tensor:
        with torch.no_grad():
            return run(x, w13, w2, s)

    def both() -> None:
        torch.autograd.backward(run(x, w13, w2, s), upstream)

    torch.cuda.reset_peak_memory_stats()
    times = {
        "forward_ms": bench(forward, return_mode="median"),
        "forward_backward_ms": bench(both, grad_to_none=tensors, return_mode="median"),
    }
    return times | {"peak_bytes": float(torch.cuda.max_memory_allocated())}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("kernel-check.json"))
@click.option("--numerics-only", is_flag=True, help="No timing, no file; what the sanitizer runs.")
def main(out: Path, numerics_only: bool) -> None:
    """Run every check on the first CUDA device; exit with 1 if one fails."""
    if not torch.cuda.is_available():
        click.echo("No CUDA device here: nothing was checked. Run this on a machine with one.")
        raise SystemExit(2)
    result: dict[str, Any] = {"format_version": FORMAT_VERSION, "numerics": numerics()}
    result |= {"pools": pools(), "descriptors": descriptors()}
    compared = (*result["numerics"], *result["descriptors"], result["pools"])
    passed = [row["passed"] for row in compared]
    if not numerics_only:
        result |= {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
        result |= {"determinism": determinism(), "races": races(), "timing": timing()}
        passed += [row["passed"] for row in result["determinism"]]
        passed += [v["passed"] for v in result["races"].values() if isinstance(v, dict)]
        temporary = out.with_name(out.name + ".tmp")
        temporary.write_text(json.dumps(result, indent=1))
        temporary.replace(out)
    click.echo(json.dumps(result, indent=1))
    raise SystemExit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
