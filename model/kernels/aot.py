"""Compile the kernels for GPUs that are not there, and read what the compiler made of them.

Works without a driver: Triton compiles to a cubin for a named architecture, and the CUDA tools that
it carries tell registers, stack and machine code. Not under Triton's interpreter.
"""

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from model.kernels import backward, forward, plans, pool, sorting

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
TENSOR_CORE_OPS = ("UTCHMMA", "HGMMA", "HMMA")
LOOP_JUMP = re.compile(r"(?:@!?U?P\d+ +BRA|BRA\.U !?UP\d+,).*?`\((\.L_x_\d+)\)")
FLOAT_ATOMIC = re.compile(r"\b(?:atom|red)\.[\w.]*(?:\.f16|\.bf16|\.f32|\.f64)")
INT_POINTERS = {"order_S", "starts_P1", "tile_expert_M", "tile_row_M", "bucket_S"}
INT_POINTERS |= {"starts_BD", "ends_BD", "sizes_BD"}
INT_POINTERS |= {"expert_M", "row_M", "counts_PC", "counts_P"}
INTEGERS = {"T", "D", "S", "M", "C"}
FLOAT_POINTERS = {"ds_SB", "s_S", "logits_BTR"}
BYTE_POINTERS = {"detach_S", "allowed_BTR"}


@dataclass(frozen=True)
class Compiled:
    """Facts of one kernel for one architecture; sizes in bytes, loads counted in machine code."""

    registers: int
    stack: int
    spills: int
    shared: int
    tmem_columns: int
    threads: int
    tensor_op: str
    async_loads: int  # in the loop that holds the tensor-core op
    tma_loads: int  # those of them that go through a tensor descriptor
    wide_loads: int  # plain global loads of 64 or 128 bits in that loop
    vector_loads: int  # plain 128-bit global loads anywhere
    float_atomics: int


def compile_launch(
    launch: plans.Launch, arch: str, element: str = "bf16", types: Mapping[str, str] | None = None
) -> Compiled:
    """Compile one launch; `element` is the type of x and the weights, `types` of other pointers."""
    kernel = kernel_named(launch.kernel)
    signature = {n: (types or {}).get(n) or _type(n, launch, element) for n in kernel.arg_names}
    # The allocator aligns every tensor; without the hint no load becomes a vector.
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*")
    }
    compiled = triton.compile(
        ASTSource(kernel, signature, dict(launch.constants), aligned),
        target=GPUTarget("cuda", int(arch.removeprefix("sm_")), 32),
        options=launch.options(),
    )
    return facts(compiled)


def kernel_named(name: str) -> Any:
    """The Triton function of that name. Raises ValueError if there is none."""
    for module in (forward, backward, pool, sorting):
        if hasattr(module, name):
            return getattr(module, name)
    raise ValueError(f"No kernel named {name!r}.")


def _type(name: str, launch: plans.Launch, element: str) -> str:
    if name in launch.constants:
        return "constexpr"
    if name in launch.described():
        return f"tensordesc<{element}{launch.described()[name]}>"
    if name in INT_POINTERS:
        return "*i32"
    if name in FLOAT_POINTERS:
        return "*fp32"
    if name in BYTE_POINTERS:
        return "*i8"
    return "i32" if name in INTEGERS else "*" + element


def facts(compiled: Any) -> Compiled:
    """What Triton's compiled kernel is made of, read from its cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        sass = _tool("nvdisasm", "-c", file.name)
    used = {name: int(size) for name, size in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    op = next((op for op in TENSOR_CORE_OPS if op in sass), "")
    loop = product_loop(sass, op) if op else ""
    return Compiled(
        registers=used["REG"],
        stack=used["STACK"] + used["LOCAL"],
        spills=len(re.findall(r"\b(?:STL|LDL)\b", sass)),
        shared=compiled.metadata.shared,
        tmem_columns=getattr(compiled.metadata, "tmem_size", 0) or 0,
        threads=32 * compiled.metadata.num_warps,
        tensor_op=op,
        async_loads=len(re.findall(r"LDGSTS|UTMALDG", loop)),
        tma_loads=len(re.findall(r"UTMALDG", loop)),
        wide_loads=len(re.findall(r"LDG\.E[.\w]*\.(?:64|128)", loop)),
        vector_loads=len(re.findall(r"LDG\.E[.\w]*\.128", sass)),
        float_atomics=len(FLOAT_ATOMIC.findall(compiled.asm["ptx"])),
    )


def _tool(name: str, *arguments: str) -> str:
    run = subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True)
    return run.stdout


def product_loop(sass: str, op: str) -> str:
    """Machine code of the loop over K: the longest backward jump over the tensor-core operation.

    A loop ends, so its jump has a condition; one without leads back from a wait behind the code.
    Where the loop was unrolled there is no jump: then all from the first operation to the last.
    """
    lines = sass.splitlines()
    labels: dict[str, int] = {}
    loops = []
    for number, line in enumerate(lines):
        label = re.match(r"\s*(\.L_x_\d+):", line)
        if label:
            labels[label[1]] = number
        jump = LOOP_JUMP.search(line)
        if jump and jump[1] in labels:
            loops.append("\n".join(lines[labels[jump[1]] : number + 1]))
    products = [number for number, line in enumerate(lines) if op in line]
    unrolled = "\n".join(lines[products[0] : products[-1] + 1])
    return max((loop for loop in loops if op in loop), key=len, default=unrolled)
