"""What the check computes: layers as data, their operands, their truth in float64.

Shapes: T tokens, K experts a token, E experts, P rows of the weight tensors, H hidden size, I
expert width, J = 2I.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.kernels.ops import moe

NAMES = ("out", "dx", "dw13", "dw2", "ds")
# Relative Frobenius error. A GPU adds float32 in another order than the interpreter, whose bar is
# 1e-6; products in tf32, which must not be, would be off by 3e-4.
BARS = {"float32": 5e-6, "float16": 1e-3, "bfloat16": 6e-3}
BLOCK, BLOCK_FACTOR = 16, 3
KEPT = 16  # experts that routing "kept" leaves
DROPPED_SHARE = 0.3
ROUTINGS = ("even", "skewed", "kept", "dropped")
CALLS = ("plain", "expert map", "detached")


@dataclass(frozen=True)
class Case:
    """One layer and one way to call it. `gates` and `weights` are dtypes; weights as x if None."""

    T: int
    E: int = 128
    K: int = 8
    H: int = 2048
    I: int = 1024  # noqa: E741
    dtype: str = "bfloat16"
    gates: str = "bfloat16"
    weights: str | None = None
    routing: str = "even"
    call: str = "plain"
    save: str = "xh"
    backward: bool = True
    descriptors: bool = False

    @property
    def live(self) -> int | None:
        """How many experts the ids can name, where the caller knows that they are few."""
        return KEPT if self.routing == "kept" else None

    def row(self) -> dict[str, Any]:
        """What tells the case apart in a table."""
        told = ("dtype", "gates", "weights", "routing", "call", "save", "descriptors")
        fields = asdict(self)
        return {"sizes": [self.T, self.E, self.K, self.H, self.I]} | {n: fields[n] for n in told}


# Every tile of the tables at the shipped size (16, 32, 96 and 256 rows an expert), gate weights as
# the model passes them and in float32, float32 masters, a mask of few experts, dropped slots.
SHIPPED = (
    Case(4096),
    Case(256),
    Case(512, gates="float32"),
    Case(1536, gates="float32"),
    Case(4096, gates="float32", weights="float32"),
    Case(1536, routing="dropped", call="detached"),
    Case(256, routing="kept"),
    Case(4096, save="x"),
    Case(1),
)
SMALL = (  # odd sizes, one token, few rows an expert, whole training tiles
    Case(37, 5, 3, 40, 24, gates="float32"),
    Case(1, 128, 8, 256, 128, gates="float32"),
    Case(300, 16, 4, 200, 136, gates="float32"),
    Case(4096, 16, 4, 512, 256, gates="float32"),
)
EDGES = tuple(
    replace(case, dtype=dtype, routing="dropped", call=call)
    for case in SMALL
    for dtype in BARS
    for call in CALLS
)
BITS = (*SMALL, Case(512), Case(4096))
TIMED = (
    Case(16_384),
    Case(16_384, routing="skewed"),
    *(Case(T, routing=routing) for T in (1, 8, 64, 256) for routing in ("even", "kept")),
)
KERNELS_TIMED = (
    Case(16_384),
    Case(16_384, routing="skewed"),
    Case(256),
    Case(256, routing="kept"),
    Case(1),
)
SANITIZED = (Case(37, 5, 3, 40, 24, routing="dropped"), Case(150, 2, 2, 72, 136))


def prepared() -> list[Case]:
    """Every case whose kernels some stage launches, the first stages' first."""
    described = [replace(case, descriptors=True) for case in (*BITS, TIMED[0])]
    inference = [replace(case, backward=False) for case in TIMED]
    again = [replace(case, save="x") for case in BITS]
    return [*SHIPPED, *TIMED, *inference, *EDGES, *BITS, *described, *again, *SANITIZED]


def as_json(cases: Sequence[Case]) -> list[dict[str, Any]]:
    return [asdict(case) for case in cases]


def from_json(cases: Sequence[dict[str, Any]]) -> list[Case]:
    return [Case(**case) for case in cases]


class Problem(NamedTuple):
    """Operands x, w13, w2, s that want gradients, expert ids, an upstream gradient, options."""

    tensors: list[Tensor]
    idx_TK: Tensor
    upstream_TH: Tensor
    options: dict[str, Any]


def problem(case: Case, device: str) -> Problem:
    """Unit-scale operands rounded to the case's dtypes; the last expert is shared."""
    T, E, K, H, I = case.T, case.E, case.K, case.H, case.I  # noqa: E741
    generator = torch.Generator(device).manual_seed(0)
    dtype, gates = getattr(torch, case.dtype), getattr(torch, case.gates)
    weights = getattr(torch, case.weights or case.dtype)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=generator, device=device) * scale

    tensors = [normal(T, H).to(dtype), normal(E, 2 * I, H, scale=H**-0.5).to(weights)]
    tensors += [normal(E, H, I, scale=I**-0.5).to(weights), normal(T, K).to(gates)]
    idx_TK = _ids(case, generator)
    upstream_TH = normal(T, H).to(dtype)
    chosen = _options(case, generator)
    return Problem([t.requires_grad_() for t in tensors], idx_TK, upstream_TH, chosen)


def _ids(case: Case, generator: torch.Generator) -> Tensor:
    T, E, K = case.T, case.E, case.K
    scores_TE = torch.rand(T, E, generator=generator, device=generator.device)
    if case.routing == "skewed":  # most tokens choose among a third of the experts
        scores_TE = scores_TE + torch.arange(E, device=generator.device).float().add(1).log() / 2
    if case.routing == "kept":
        scores_TE[:, : max(E - KEPT, 0)] = -1
    scores_TE[:, -1] = float("inf")
    idx_TK = scores_TE.topk(K).indices
    if case.routing == "dropped":
        gone_TK = torch.rand(T, K, generator=generator, device=generator.device) < DROPPED_SHARE
        idx_TK[gone_TK] = -1
    return idx_TK


def _options(case: Case, generator: torch.Generator) -> dict[str, Any]:
    device = generator.device
    if case.call == "expert map":  # a third of the experts is absent
        phys_E = torch.randperm(case.E, generator=generator, device=device)
        phys_E[::3] = -1
        return {"phys_E": phys_E}
    if case.call == "detached":
        return {"detach_TK": torch.rand(case.T, case.K, generator=generator, device=device) < 0.3}
    return {}


def outputs(found: Problem, case: Case) -> list[Tensor]:
    """Output and gradients of the kernels."""
    out_TH = forward(found, case)
    return [out_TH.detach(), *torch.autograd.grad(out_TH, found.tensors, found.upstream_TH)]


def forward(found: Problem, case: Case) -> Tensor:
    """Output of the kernels; without gradients if the case has no backward pass."""
    x_TH, w13_PJH, w2_PHI, s_TK = found.tensors
    chosen: dict[str, Any] = {"backend": "triton", "save": case.save, "live": case.live}
    with torch.set_grad_enabled(case.backward):
        return moe(x_TH, w13_PJH, w2_PHI, s_TK, found.idx_TK, **chosen | found.options)


def exact(found: Problem) -> list[Tensor]:
    """The same by another road: float64, expert by expert, the backward pass written out."""
    x_TH, w13_PJH, w2_PHI, s_TK = (t.detach() for t in found.tensors)
    bucket_TK, detach_TK = found.idx_TK, found.options.get("detach_TK")
    if "phys_E" in found.options:
        known_TK = found.options["phys_E"][bucket_TK.clamp(min=0)]
        bucket_TK = torch.where(bucket_TK >= 0, known_TK, -1)
    totals = [torch.zeros_like(t, dtype=torch.float64) for t in (x_TH, x_TH, w13_PJH, w2_PHI, s_TK)]
    out_TH, dx_TH, dw13_PJH, dw2_PHI, ds_TK = totals
    for e in range(w2_PHI.shape[0]):
        token, slot = torch.where(bucket_TK == e)
        s = s_TK[token, slot].double()[:, None]
        trained = s if detach_TK is None else s.masked_fill(detach_TK[token, slot][:, None], 0)
        weights = (w13_PJH[e].double(), w2_PHI[e].double())
        x, dout = x_TH[token].double(), found.upstream_TH[token].double()
        y, dx, dw13_PJH[e], dw2_PHI[e] = _expert(x, dout * trained, *weights)
        out_TH.index_add_(0, token, s * y)
        dx_TH.index_add_(0, token, dx)
        ds_TK[token, slot] = (dout * y).sum(1)
    return totals


def _expert(
    x: Tensor, dy: Tensor, w13_JH: Tensor, w2_HI: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, dx, dw13 and dw2 of one SwiGLU expert."""
    gate, up = (x @ w13_JH.T).chunk(2, -1)
    sigmoid = gate.sigmoid()
    silu = gate * sigmoid
    act, dact = silu * up, dy @ w2_HI
    dgate = dact * up * (sigmoid + silu * (1 - sigmoid))
    dh = torch.cat([dgate, dact * silu], 1)
    return act @ w2_HI.T, dh @ w13_JH, dh.T @ x, dy.T @ act


def errors(got: Sequence[Tensor], want: Sequence[Tensor]) -> dict[str, float]:
    """Relative Frobenius error of each output."""
    return {n: _errors(a, b)[0] for n, a, b in zip(NAMES, got, want, strict=True)}


def block_errors(got: Sequence[Tensor], want: Sequence[Tensor]) -> dict[str, float]:
    """The worst of any 16 neighbouring columns of each output."""
    return {n: _errors(a, b)[1] for n, a, b in zip(NAMES, got, want, strict=True)}


def _errors(got: Tensor, want: Tensor) -> tuple[float, float]:
    """Whole and worst block; by parts, because weight gradients are large."""
    columns = want.shape[-1]
    off, size = (torch.zeros(columns, dtype=torch.float64, device=want.device) for _ in range(2))
    for a, b in zip(got.split(BLOCK), want.split(BLOCK), strict=True):
        off += (a.double() - b).square().reshape(-1, columns).sum(0)
        size += b.square().reshape(-1, columns).sum(0)
    pairs = [(off.sum(), size.sum()), *zip(_blocks(off), _blocks(size), strict=True)]
    ratios = [float((o / s.clamp(min=1e-60)).sqrt()) for o, s in pairs]
    # max() may pass over a NaN.
    worst = max(ratios[1:], default=0.0)
    return ratios[0], worst if all(r == r for r in ratios) else float("nan")


def _blocks(columns: Tensor) -> list[Tensor]:
    return [part.sum() for part in columns.split(BLOCK)]


def attempt(row: dict[str, Any], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The row with what the work finds; a GPU with too little memory is said, not died of."""
    try:
        return row | work()
    except torch.OutOfMemoryError as error:
        return row | {"error": f"out of memory: {str(error).splitlines()[0]}"[:300]}
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
