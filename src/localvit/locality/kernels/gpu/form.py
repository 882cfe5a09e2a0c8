"""Training on a GPU: between the two products, each pass over a hidden map is a kernel, and three maps are stored.

Shape suffixes: B images, D channels of a token, E hidden channels, H x W the grid, M = H * W positions.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from localvit.locality.feed_forward import ConvNormAct, LocalityFeedForward
from localvit.locality.kernels import norm_act
from localvit.locality.kernels.attend import gates
from localvit.locality.kernels.hooks import is_watched


def triton_form(network: LocalityFeedForward, image_BDHW: Tensor) -> Tensor:
    """The network with the Triton kernels where they fit, and its modules in order otherwise."""
    if not torch.is_grad_enabled() or image_BDHW.numel() == 0 or not _fits(network):
        return network.in_order(image_BDHW)
    from localvit.locality.kernels.gpu import depthwise, normalized  # Triton takes a while to import

    expand, stage, project = network.expand, network.depthwise, network.project
    assert isinstance(stage, ConvNormAct)
    activation, grid = network.config.activation, image_BDHW.shape[2:]
    if not depthwise.takes(image_BDHW, stage.conv.weight, activation):
        return network.in_order(image_BDHW)
    z_BME = F.linear(image_BDHW.permute(0, 2, 3, 1).flatten(1, 2), expand.conv.weight.flatten(1))
    norm = normalized.Norm.of_batch(normalized.moments(z_BME.detach()), expand.norm)
    mixed_BHWE, moments = depthwise.norm_act_depthwise(z_BME.unflatten(1, grid), norm, stage.conv.weight, activation)
    norm = normalized.Norm.of_batch(moments, stage.norm)
    attention = network.channel_attention
    own_gates = None if isinstance(attention, nn.Identity) else partial(_gates, attention)
    hidden_BME = normalized.norm_act_attend(mixed_BHWE.flatten(1, 2), norm, activation, own_gates)
    out_BMD = F.linear(hidden_BME, project.conv.weight.flatten(1))
    out_BDHW: Tensor = _DenseGradient.apply(project.norm(out_BMD.unflatten(1, grid).permute(0, 3, 1, 2)))
    return out_BDHW


def _fits(network: LocalityFeedForward) -> bool:
    expand, stage, project, attention = network.expand, network.depthwise, network.project, network.channel_attention
    return (
        isinstance(stage, ConvNormAct)
        and norm_act.fits(expand.norm, expand.act)
        and norm_act.fits(stage.norm, stage.act)
        and not is_watched(expand, expand.conv, stage, stage.conv, project, project.conv, *attention.modules())
    )


def _gates(attention: nn.Module, mean_BE: Tensor) -> Tensor:
    """The gates (B, E) in the dtype of the attention's weights, also under autocast, whose casts take more time."""
    dtype = next(attention.parameters()).dtype
    with torch.autocast(mean_BE.device.type, enabled=False):
        return gates(attention, mean_BE.to(dtype)[:, None])[:, 0]


class _DenseGradient(torch.autograd.Function):
    """The identity of a map, whose gradient is dense: PyTorch's batch norm takes several times as long for a slice."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor) -> Tensor:
        return x_BCHW.view_as(x_BCHW)

    @staticmethod
    def backward(ctx: Any, grad_BCHW: Tensor) -> Tensor:
        return grad_BCHW.contiguous(memory_format=torch.channels_last)
