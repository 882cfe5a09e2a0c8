"""Channel attention in few passes: the gates from given means, and a compiled form that computes small tensors once.

Shape suffixes: B images, C channels, R channels of the bottleneck, H x W the grid, M = H * W positions.
"""

from typing import Any

import torch
from timm.layers import SqueezeExcite
from torch import Tensor, nn
from torch.nn import functional as F

from localvit.locality.kernels.exporting import is_exporting
from localvit.locality.kernels.hooks import is_watched
from localvit.locality.kernels.settle import settle
from localvit.locality.kernels.sums import over_positions

# A bottleneck this narrow is not worth the call of a matrix product.
_NARROW = 8


def gates(attention: Any, mean_B1C: Tensor) -> Tensor:
    """The factors (B, 1, C) by which an attention module scales the channels, given their means (B, 1, C)."""
    if isinstance(attention, SqueezeExcite):
        mean_B1C = _dense(F.relu(_dense(mean_B1C, attention.fc1)), attention.fc2)
    else:
        mean_B1C = attention.conv(mean_B1C)
    gates_B1C: Tensor = attention.gate(mean_B1C)
    return gates_B1C


def attend(attention: nn.Module, image_BCHW: Tensor) -> Tensor:
    """``attention(image)``; the compiled form computes the small tensors once, not at every position."""
    if isinstance(attention, nn.Identity) or not torch.compiler.is_compiling() or is_watched(*attention.modules()):
        attended_BCHW: Tensor = attention(image_BCHW)
        return attended_BCHW
    image_BMC = image_BCHW.permute(0, 2, 3, 1).flatten(1, 2)
    dtype = torch.promote_types(image_BCHW.dtype, torch.float32)
    sum_B1C: Tensor = _Sum.apply(image_BMC.to(dtype))
    mean_B1C = (sum_B1C * (1 / image_BMC.shape[1])).to(image_BCHW.dtype)
    attended_BMC: Tensor = _Scale.apply(image_BMC, settle(gates(attention, mean_B1C)))
    attended_BHWC: Tensor = attended_BMC.unflatten(1, image_BCHW.shape[2:])
    return attended_BHWC.permute(0, 3, 1, 2)


def _dense(x_B1C: Tensor, layer: nn.Conv2d) -> Tensor:
    weight_RC = layer.weight.flatten(1)
    unrolls = torch.compiler.is_compiling() and not is_exporting() and not torch.is_grad_enabled()
    if min(weight_RC.shape) > _NARROW or not unrolls:
        return F.linear(x_B1C, weight_RC, layer.bias)
    # So few products take less time as a compiled loop than the call of a matrix product does.
    assert layer.bias is not None
    return (x_B1C[:, :, None] * weight_RC).sum(-1) + layer.bias


class _Sum(torch.autograd.Function):
    """Sum over positions; its gradient is equal at all positions and is stored once."""

    @staticmethod
    def forward(ctx: Any, x_BMC: Tensor) -> Tensor:
        ctx.shape = x_BMC.shape
        return over_positions(x_BMC)

    @staticmethod
    def backward(ctx: Any, grad_B1C: Tensor) -> Tensor:
        grad_BMC: Tensor = settle(grad_B1C).expand(ctx.shape)
        return grad_BMC


class _Scale(torch.autograd.Function):
    """Scale channels by their gates; the gradient of the gates uses the fast sum over positions."""

    @staticmethod
    def forward(ctx: Any, x_BMC: Tensor, gates_B1C: Tensor) -> Tensor:
        ctx.save_for_backward(x_BMC, gates_B1C)
        return x_BMC * gates_B1C

    @staticmethod
    def backward(ctx: Any, grad_BMC: Tensor) -> tuple[Tensor, Tensor]:
        x_BMC, gates_B1C = ctx.saved_tensors
        dtype = torch.promote_types(grad_BMC.dtype, torch.float32)
        dgates_B1C = over_positions(grad_BMC.to(dtype) * x_BMC.to(dtype))
        return grad_BMC * gates_B1C, dgates_B1C.to(gates_B1C.dtype)
