"""Launches Triton kernels in less time than Triton's own launch takes a processor.

With each launch, Triton looks at type, value and address of every argument, and asks the driver about each pointer; the
kernels here have ten pointers each. But a kernel that is compiled can be launched by itself, with pointers as plain
numbers, as in Triton's tutorial on the fused softmax:
https://triton-lang.org/main/getting-started/tutorials/02-fused-softmax.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from localvit.locality.kernels.gpu.device import INTERPRETED, triton

_ALIGNMENT = 16  # bytes; Triton compiles other code for pointers that are no multiple of it
# Before Triton 3.3, compiled kernels took other arguments.
_BY_THEMSELVES = not INTERPRETED and triton is not None and hasattr(triton, "knobs")
_COMPILED: dict[tuple[Any, ...], Any] = {}


def launch(
    kernel: Any,
    programs: int,
    tensors: Sequence[Tensor],
    numbers: Sequence[float],
    constants: Mapping[str, Any],
    warps: int = 4,
) -> None:
    """Run a kernel whose parameters are pointers, then numbers, then constants.

    Args:
        kernel: a Triton kernel.
        programs: how many programs to start.
        tensors: for the pointers, on the current GPU.
        numbers: for the numbers.
        constants: for the constants, by name, in the order of the parameters.
        warps: of each program.
    """
    key: tuple[Any, ...] = ()
    if _BY_THEMSELVES:
        pointers = [tensor.data_ptr() for tensor in tensors]
        if not any(pointer % _ALIGNMENT for pointer in pointers):
            dtypes = tuple(tensor.dtype for tensor in tensors)
            key = (id(kernel), torch.cuda.current_device(), warps, dtypes, *numbers, *constants.values())
            if (compiled := _COMPILED.get(key)) is not None:
                compiled[(programs, 1, 1)](*pointers, *numbers, *constants.values())
                return
    compiled = kernel[(programs,)](*tensors, *numbers, **constants, num_warps=warps)
    if key:
        _COMPILED[key] = compiled
