"""What every shipped kernel must satisfy on paper, before any GPU has run it.

The bars catch what has gone wrong in such kernels: spills, a pipeline that silently lost its
buffers, plain loads where asynchronous ones were meant, a product off the tensor cores.
"""

from model.kernels.aot import Compiled
from model.kernels.costs import MACHINES, blocks_per_sm, l2_intensity, tile_bytes, tile_width
from model.kernels.plans import Launch

REGISTERS = {"sm_80": 252, "sm_90": 224, "sm_100": 224}
INTENSITY = {"sm_80": 60, "sm_90": 80, "sm_100": 80}
BUFFERS = 3
# The sm_80 table also serves Ada and consumer Blackwell, whose blocks have less shared memory.
SHARED = {"sm_80": 99 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024}
TMEM_COLUMNS = 256
SUM_OCCUPANCY = 0.75
SQUARE_OCCUPANCY = 0.25


def expected_tensor_op(launch: Launch, arch: str) -> str:
    """Warpgroup instructions need 64 rows and four warps; smaller tiles use the older ones."""
    if launch.constants["BM"] < 64:
        return "HMMA"
    return {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA"}[arch]


def steps(launch: Launch) -> float:
    """Iterations of a product's loop; a weight gradient's follow from the routing."""
    constants = launch.constants
    depth = constants.get("DEPTH", constants.get("H", float("inf")))
    return depth / constants["BK"]


def occupancy(compiled: Compiled, arch: str) -> float:
    """Share of a multiprocessor's threads that can be resident."""
    machine = MACHINES[arch]
    blocks = blocks_per_sm(machine, compiled.registers, compiled.shared, compiled.threads)
    return blocks * compiled.threads / machine.max_threads


def misses(launch: Launch, compiled: Compiled, arch: str, half: bool, full_size: bool) -> list[str]:
    """The bars this kernel does not meet, in words; empty if all hold.

    `full_size` is the 1B/14B geometry, which the bars on plain loads and on intensity are about.
    """
    failed = []

    def need(holds: bool, sentence: str) -> None:
        if not holds:
            failed.append(sentence)

    need(compiled.stack == 0, f"{compiled.stack} bytes of stack")
    need(compiled.spills == 0, f"{compiled.spills} spill instructions")
    limit = REGISTERS[arch]
    need(compiled.registers <= limit, f"{compiled.registers} registers, at most {limit}")
    need(compiled.shared <= SHARED[arch], f"{compiled.shared} bytes of shared memory")
    need(compiled.tmem_columns <= TMEM_COLUMNS, f"{compiled.tmem_columns} columns of tensor memory")
    need(compiled.float_atomics == 0, f"{compiled.float_atomics} atomics on floats")
    need(occupancy(compiled, arch) > 0, "not one block fits on a multiprocessor")
    if launch.kernel == "sum_slots_kernel":
        failed += _sum_misses(launch, compiled, arch)
    elif half and "BK" in launch.constants:
        failed += _product_misses(launch, compiled, arch, full_size)
    return failed


def _sum_misses(launch: Launch, compiled: Compiled, arch: str) -> list[str]:
    failed = []
    if occupancy(compiled, arch) < SUM_OCCUPANCY:
        failed.append(f"occupancy {occupancy(compiled, arch):.0%}, at least {SUM_OCCUPANCY:.0%}")
    if launch.constants["BH"] >= 2048 and compiled.vector_loads < launch.constants["K"]:
        failed.append(f"{compiled.vector_loads} 128-bit loads, one a slot expected")
    return failed


def _product_misses(launch: Launch, compiled: Compiled, arch: str, full_size: bool) -> list[str]:
    failed = []
    wanted = expected_tensor_op(launch, arch)
    if compiled.tensor_op != wanted:
        failed.append(f"tensor-core operation {compiled.tensor_op or 'none'}, expected {wanted}")
    # A small layer may need a single step, which has nothing to overlap with.
    pipelined = steps(launch) > 1
    if pipelined and compiled.shared < BUFFERS * tile_bytes(launch):
        buffers = compiled.shared / tile_bytes(launch)
        failed.append(f"{buffers:.1f} buffers in shared memory, at least {BUFFERS}")
    if pipelined and compiled.async_loads == 0:
        failed.append("no asynchronous load in the loop")
    if pipelined and launch.described() and compiled.tma_loads == 0:
        failed.append("no load through a descriptor in the loop")
    if full_size and compiled.wide_loads:
        failed.append(f"{compiled.wide_loads} plain loads of operands in the loop")
    training = full_size and launch.constants["BM"] == 128
    if training and l2_intensity(launch) < INTENSITY[arch]:
        failed.append(f"{l2_intensity(launch):.0f} FLOP a byte from L2, at least {INTENSITY[arch]}")
    square = tile_width(launch) == 128
    if training and square and arch != "sm_80" and occupancy(compiled, arch) < SQUARE_OCCUPANCY:
        failed.append(f"occupancy {occupancy(compiled, arch):.0%} of a 128x128 tile")
    return failed
