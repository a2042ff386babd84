"""What the expert layer costs on paper: FLOPs, bytes moved, the lower bound, roofline time.

Pure functions of sizes; nothing here was timed. Bytes count every operand of a kernel once (what is
read again comes from the L2 cache, and `l2_intensity` counts that apart). Routing is taken as even.

Shapes: T tokens, K experts a token, S = T*K slots, P experts whose weights are read, H hidden size,
I expert width, J = 2I.
"""

from dataclasses import dataclass

from model.kernels.plans import Launch, Layer, cdiv


@dataclass(frozen=True)
class Machine:
    """Peak dense bf16 rate and memory rate of a data sheet, and the sizes that limit residency."""

    name: str
    flops: float
    bytes_per_second: float
    shared_bytes: int  # a multiprocessor
    block_shared_bytes: int  # at most, one block
    max_threads: int = 2048
    registers: int = 65_536


MACHINES = {
    "sm_80": Machine("A100 SXM 80 GB", 312e12, 2.04e12, 164 * 1024, 163 * 1024),
    "sm_90": Machine("H100 SXM", 989e12, 3.35e12, 228 * 1024, 227 * 1024),
    "sm_100": Machine("B200", 2250e12, 8.0e12, 228 * 1024, 227 * 1024),
}
BLOCK_SHARED_RESERVE = 1024


@dataclass(frozen=True)
class Cost:
    flops: float
    bytes: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def seconds(self, machine: Machine) -> float:
        """Roofline: whichever of arithmetic and memory takes longer."""
        return max(self.flops / machine.flops, self.bytes / machine.bytes_per_second)


def experts_read(layer: Layer, T: int, num_shared: int = 1) -> float:
    """Experts at least one of T tokens uses, for even routing of the rest: a mean."""
    routed, slots = layer.P - num_shared, layer.K - num_shared
    return num_shared + routed * (1 - (1 - slots / routed) ** T)


def forward_costs(
    layer: Layer, T: int, save_h: bool = True, bytes_each: int = 2
) -> dict[str, Cost]:
    """Cost of each forward kernel; scratch counts where it is written and where it is read."""
    H, I, S = layer.H, layer.I, T * layer.K  # noqa: E741
    w2 = experts_read(layer, T) * H * I
    h = 2 * S * I if save_h else 0
    elements = {
        "up": (4 * S * H * I, 2 * w2 + T * H + h + S * I),
        "down": (2 * S * H * I, w2 + S * I + S * H),
        "combine": (2 * S * H, S * H + T * H),
    }
    return {name: Cost(flops, count * bytes_each) for name, (flops, count) in elements.items()}


def backward_costs(layer: Layer, T: int, bytes_each: int = 2) -> dict[str, Cost]:
    """Cost of each backward kernel when h was saved; dW is written for every expert."""
    H, I, S = layer.H, layer.I, T * layer.K  # noqa: E741
    w2, dw2 = experts_read(layer, T) * H * I, layer.P * H * I
    elements = {
        "act_grad": (2 * S * H * I, w2 + T * H + 4 * S * I + S * I),
        "dw2": (2 * S * H * I, T * H + S * I + dw2),
        "dw13": (4 * S * H * I, 2 * S * I + T * H + 2 * dw2),
        "input_grad": (4 * S * H * I, 2 * S * I + 2 * w2 + S * H),
        "reduce": (S * H, S * H + T * H),
    }
    return {name: Cost(flops, count * bytes_each) for name, (flops, count) in elements.items()}


def lower_bound(layer: Layer, T: int, backward: bool, bytes_each: int = 2) -> Cost:
    """Every input read once, every output (and the saved h) written once, nothing else."""
    H, I, S = layer.H, layer.I, T * layer.K  # noqa: E741
    weights = 3 * H * I * experts_read(layer, T)
    h = 2 * S * I
    if not backward:
        return Cost(6 * S * H * I, (weights + 2 * T * H + h) * bytes_each)
    return Cost(12 * S * H * I, (weights + 3 * H * I * layer.P + 3 * T * H + h) * bytes_each)


def total(costs: dict[str, Cost]) -> Cost:
    return sum(costs.values(), Cost(0, 0))


def saved_bytes_per_token(layer: Layer, save: str = "xh", bytes_each: int = 2) -> float:
    """What autograd keeps a token: x, h, float32 gate weights, expert and order of each slot.

    The P + 1 group starts of the layer are left out; they do not grow with the tokens.
    """
    h = 2 * layer.K * layer.I if save == "xh" else 0
    return (layer.H + h) * bytes_each + 3 * 4 * layer.K


def tile_width(launch: Launch) -> int:
    """Columns a tile of a product multiplies: gate and up count both."""
    return launch.constants["BN"] * (2 if launch.kernel == "up_kernel" else 1)


def l2_intensity(launch: Launch, bytes_each: int = 2) -> float:
    """FLOPs a byte that a product's tile loads from L2: 0 for kernels without a product."""
    if "BK" not in launch.constants:
        return 0.0
    height, width = launch.constants["BM"], tile_width(launch)
    return 2 * height * width / ((height + width) * bytes_each)


def tile_bytes(launch: Launch, bytes_each: int = 2) -> int:
    """Shared memory of one buffer of every operand that a product's tile streams."""
    constants = launch.constants
    return (constants["BM"] + tile_width(launch)) * constants["BK"] * bytes_each


def blocks_per_sm(machine: Machine, registers: int, shared: int, threads: int) -> int:
    """Blocks that fit on one multiprocessor by registers, shared memory and threads."""
    per_warp = cdiv(registers * 32, 256) * 256
    by_registers = machine.registers // (per_warp * (threads // 32))
    by_shared = machine.shared_bytes // (shared + BLOCK_SHARED_RESERVE)
    return min(by_registers, by_shared, machine.max_threads // threads, 32)


def tile_waste(counts: list[int], BM: int) -> float:
    """Rows computed for nothing because an expert's last tile is not full, over rows needed."""
    return sum(cdiv(c, BM) * BM for c in counts) / max(sum(counts), 1) - 1


def mask_savings(layer: Layer, T: int, kept: int, machine: Machine, num_shared: int = 1) -> float:
    """Roofline time of a forward pass with all experts over that with `kept` of them (K or more).

    Lower bound of both: weights of the experts in use, inputs and outputs; no scratch.
    """

    def seconds(P: int) -> float:
        part = Layer(layer.H, layer.I, layer.K, P, layer.half)
        weights = 3 * layer.H * layer.I * experts_read(part, T, num_shared)
        flops = 6 * T * layer.K * layer.H * layer.I
        return Cost(flops, 2 * (weights + 2 * T * layer.H)).seconds(machine)

    return seconds(layer.P) / seconds(kept)
