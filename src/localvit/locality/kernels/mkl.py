"""Linear layers for a few tokens in single precision, whose weights MKL packs once instead of at each call.

PyTorch offers these operators only to its own compiler, under private names; ``tests/locality/kernels/test_mkl.py``
compares them with the public one, which takes their place in builds of PyTorch without MKL.

Shape suffixes: B images, M tokens, C channels, E of them after the layer.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

IS_AVAILABLE = torch.backends.mkl.is_available() and hasattr(torch.ops.mkl, "_mkl_linear")


def linear(weight_EC: Tensor, bias_E: Tensor, tokens: int) -> Callable[[Tensor], Tensor]:
    """A linear layer from tokens (B, M, C) to (B, M, E), packed for a number of tokens and slower for another."""
    if not IS_AVAILABLE:
        return partial(F.linear, weight=weight_EC, bias=bias_E)
    packed = torch.ops.mkl._mkl_reorder_linear_weight(weight_EC.contiguous(), tokens)

    def run(x_BMC: Tensor) -> Tensor:
        out_BME: Tensor = torch.ops.mkl._mkl_linear(x_BMC, packed, weight_EC, bias_E, tokens)
        return out_BME

    return run
