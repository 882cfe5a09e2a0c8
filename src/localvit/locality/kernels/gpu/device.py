"""Triton, and the pieces that its kernels share: the activations, and which mode the kernels run in.

Shape suffixes of the kernels: B images, H x W the grid, M = H * W positions, E channels, k x k the depth-wise kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

ACTIVATIONS = ("relu6", "hswish", "gelu", "silu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def jit(function: Callable[..., Any]) -> Any:
    """The function as a Triton kernel, if there is Triton."""
    return function if triton is None else triton.jit(function)


@jit
def add(left, right):  # type: ignore[no-untyped-def]
    # tl.sum is itself a kernel; the interpreter runs it only if Triton was imported in interpreter mode.
    return left + right


@jit
def _clamped(y, high):  # type: ignore[no-untyped-def]
    y = tl.maximum(y, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(y, high, propagate_nan=tl.PropagateNan.ALL)


@jit
def activated(y, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    if ACTIVATION == "relu6":
        a = _clamped(y, 6.0)
    elif ACTIVATION == "hswish":
        a = y * _clamped(y * 0.16666666666666666 + 0.5, 1.0)
    elif ACTIVATION == "gelu":
        a = 0.5 * y * (1.0 + tl.erf(y * 0.7071067811865476))
    else:
        a = y / (1.0 + tl.exp(-y))
    return a


@jit
def slope(y, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    if ACTIVATION == "relu6":
        s = tl.where((y <= 0.0) | (y >= 6.0), 0.0, 1.0).to(y.dtype)
    elif ACTIVATION == "hswish":
        s = tl.where(y <= -3.0, 0.0, tl.where(y >= 3.0, 1.0, y * 0.3333333333333333 + 0.5))
    elif ACTIVATION == "gelu":
        s = 0.5 * (1.0 + tl.erf(y * 0.7071067811865476)) + y * tl.exp(-0.5 * y * y) * 0.3989422804014327
    else:
        gate = 1.0 / (1.0 + tl.exp(-y))
        s = gate * (1.0 + y * (1.0 - gate))
    return s


# Whether the kernels run in Triton's interpreter, which TRITON_INTERPRET selects when they are decorated.
INTERPRETED = triton is not None and not isinstance(activated, triton.JITFunction)


def runs_on(x: Tensor) -> bool:
    """Whether the kernels can work on the device and in the dtype of a tensor."""
    if triton is None:
        return False
    if INTERPRETED:
        return x.device.type == "cpu" and x.dtype in (*DTYPES, torch.float64)
    # Triton launches on the current GPU, even if its arguments are on another one.
    return x.is_cuda and x.device.index == torch.cuda.current_device() and x.dtype in DTYPES


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that the kernels compute in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def ceil_div(value: int, divisor: int) -> int:
    """The quotient, rounded up."""
    return -(-value // divisor)
