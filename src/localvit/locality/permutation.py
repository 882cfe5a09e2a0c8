"""The control "permuted grid": the depth-wise convolution sees the tokens of the grid in a fixed random order.

Parameters, multiply-accumulates and kernels stay the same, but the convolution no longer mixes neighbors. Everything
else in the mechanism treats all tokens alike, so permuting its input and restoring the order of its output has the same
effect as doing so around the convolution alone. It is cheaper, and all forms of the mechanism stay as they are.

Shape suffixes: B images, M = H * W tokens of the grid, C channels.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor


def permute(x_BMC: Tensor) -> Tensor:
    """Tokens in the fixed random order, which depends on their number alone: the same in every layer and process."""
    out_BMC: Tensor = _permute_tokens(x_BMC, restore=False)
    return out_BMC


def restore(x_BMC: Tensor) -> Tensor:
    """The inverse of :func:`permute`."""
    out_BMC: Tensor = _permute_tokens(x_BMC, restore=True)
    return out_BMC


# An operator, because the compiler and export cannot look into NumPy. Its gradient is the inverse permutation, which is
# faster than PyTorch's gradient of an index.
@torch.library.custom_op("localvit::permute_tokens", mutates_args=())
def _permute_tokens(x_BMC: Tensor, restore: bool) -> Tensor:
    return x_BMC.index_select(1, _order(x_BMC.shape[1], x_BMC.device, restore))


@_permute_tokens.register_fake
def _(x_BMC: Tensor, restore: bool) -> Tensor:
    return torch.empty_like(x_BMC, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Tensor, bool], output: Tensor) -> None:
    ctx.restore = inputs[1]


def _gradient(ctx: Any, grad_BMC: Tensor) -> tuple[Tensor, None]:
    return _permute_tokens(grad_BMC, restore=not ctx.restore), None


_permute_tokens.register_autograd(_gradient, setup_context=_save)


@lru_cache
def _order(tokens: int, device: torch.device, restore: bool) -> Tensor:
    order_M = np.random.default_rng(tokens).permutation(tokens)
    with torch.inference_mode(False):  # the cached tensor outlives the caller's mode
        return torch.from_numpy(np.argsort(order_M) if restore else order_M).to(device)
