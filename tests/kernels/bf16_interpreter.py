"""Exact bf16 for Triton's interpreter, which otherwise multiplies bit patterns and truncates casts.

Products are exact and added in float32, casts round to nearest even, and arithmetic on bf16 is
refused, so that a kernel has to convert first. Operands of a product lie in row-major order,
because BLAS may add in another order for a transposed one, which no tensor core does. Test-only.
"""

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def widen(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow(values):
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded.astype(np.uint16))


def install():
    """Patch the interpreter once."""
    if getattr(InterpreterBuilder, "exact_bf16", False):
        return
    dot, cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl
    binary = InterpreterBuilder.binary_op

    def as_operand(handle):
        data = np.ascontiguousarray(handle.data)
        if handle.dtype.scalar != tl.bfloat16:
            return TensorHandle(data, handle.dtype.scalar)
        return TensorHandle(widen(data), tl.float32)

    def create_dot(self, a, b, d, *rest):
        return dot(self, as_operand(a), as_operand(b), d, *rest)

    def cast_impl(self, source, target):
        pair = source.dtype.scalar, target.scalar
        if pair == (tl.float32, tl.bfloat16):
            return TensorHandle(narrow(source.data), tl.bfloat16)
        if pair == (tl.bfloat16, tl.float32):
            return TensorHandle(widen(source.data), tl.float32)
        return cast(self, source, target)

    def binary_op(self, left, right, operator):
        if tl.bfloat16 in (left.dtype.scalar, right.dtype.scalar):
            raise TypeError("Convert bf16 to float32 before arithmetic.")
        return binary(self, left, right, operator)

    InterpreterBuilder.create_dot = create_dot
    InterpreterBuilder.cast_impl = cast_impl
    InterpreterBuilder.binary_op = binary_op
    InterpreterBuilder.exact_bf16 = True
