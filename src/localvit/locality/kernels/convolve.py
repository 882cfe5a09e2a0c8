"""The convolutions of a locality feed-forward network: hidden from the compiler on CPUs, and products on GPUs.

The compiler picks memory layouts for convolutions, and imposes them on everything that leads to one. For the tokens
(B, H, W, D) of a windowed model this means a transposition in memory before and after. It cannot see inside these
operators, and leaves the layouts alone.

Shape suffixes: B images, C channels in, E out, H x W the grid, K x K the kernel, G channels of a group.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from localvit.locality.kernels.hooks import is_watched


def convolve(conv: nn.Conv2d, x_BCHW: Tensor) -> Tensor:
    """``conv(x)`` (B, E, H, W), for a convolution without bias that keeps the grid size, dense or depth-wise."""
    out_BEHW: Tensor
    if torch.compiler.is_compiling() and x_BCHW.device.type == "cpu" and not is_watched(conv):
        casts = torch.is_autocast_enabled("cpu") and x_BCHW.dtype != torch.float64  # autocast leaves float64 alone
        dtype = torch.get_autocast_dtype("cpu") if casts else x_BCHW.dtype
        out_BEHW = _convolve(x_BCHW.to(dtype), conv.weight.to(dtype))
    elif x_BCHW.is_cuda and conv.kernel_size == (1, 1) and not is_watched(conv):
        # As a product, which takes less time to call, and leaves the memory layout of the tokens as it is.
        out_BEHW = F.linear(x_BCHW.permute(0, 2, 3, 1), conv.weight.flatten(1)).permute(0, 3, 1, 2)
    else:
        out_BEHW = conv(x_BCHW)
    return out_BEHW


@torch.library.custom_op("localvit::convolve", mutates_args=())
def _convolve(x_BCHW: Tensor, weight_EGKK: Tensor) -> Tensor:
    out_BEHW = F.conv2d(x_BCHW, weight_EGKK, **_kept_grid(x_BCHW, weight_EGKK))
    return out_BEHW.contiguous(memory_format=torch.channels_last)


@_convolve.register_fake
def _(x_BCHW: Tensor, weight_EGKK: Tensor) -> Tensor:
    shape = (x_BCHW.shape[0], weight_EGKK.shape[0], *x_BCHW.shape[2:])
    return torch.empty(shape, dtype=x_BCHW.dtype, device=x_BCHW.device, memory_format=torch.channels_last)


@torch.library.custom_op("localvit::convolve_backward", mutates_args=())
def _convolve_backward(grad_BEHW: Tensor, x_BCHW: Tensor, weight_EGKK: Tensor) -> tuple[Tensor, Tensor]:
    kept = _kept_grid(x_BCHW, weight_EGKK)
    pointwise = weight_EGKK.shape[-1] == 1
    # The public ``nn.grad.conv2d_input`` does not get the input, so its gradient has another memory layout.
    dx_BCHW, dweight_EGKK, _ = torch.ops.aten.convolution_backward(
        *(grad_BEHW, x_BCHW, weight_EGKK, None, [1, 1], [kept["padding"]] * 2, [1, 1], False, [0, 0], kept["groups"]),
        [pointwise, True, False],
    )
    if not pointwise:
        # The input gradient of a depth-wise convolution is a convolution with the flipped kernel, which is faster than
        # oneDNN's own gradient.
        dx_BCHW = F.conv2d(grad_BEHW, weight_EGKK.flip(2, 3), **kept)
    return dx_BCHW.contiguous(memory_format=torch.channels_last), dweight_EGKK.contiguous()


@_convolve_backward.register_fake
def _(grad_BEHW: Tensor, x_BCHW: Tensor, weight_EGKK: Tensor) -> tuple[Tensor, Tensor]:
    dx_BCHW = torch.empty_like(x_BCHW, memory_format=torch.channels_last)
    return dx_BCHW, torch.empty_like(weight_EGKK, memory_format=torch.contiguous_format)


def _kept_grid(x_BCHW: Tensor, weight_EGKK: Tensor) -> dict[str, Any]:
    return {"padding": weight_EGKK.shape[-1] // 2, "groups": x_BCHW.shape[1] // weight_EGKK.shape[1]}


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, grad_BEHW: Tensor) -> tuple[Tensor, Tensor]:
    gradients: tuple[Tensor, Tensor] = _convolve_backward(grad_BEHW, *ctx.saved_tensors)
    return gradients


_convolve.register_autograd(_gradients, setup_context=_save)
