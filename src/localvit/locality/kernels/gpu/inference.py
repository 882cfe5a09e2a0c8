"""A fused locality feed-forward network on a GPU: one pass for both activations, the convolution and the means.

Shape suffixes: B images, M = H * W tokens, D channels of a token, E hidden channels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from localvit.locality.kernels.exporting import is_exporting


def fits(image_BMD: Tensor, depthwise: nn.Module, activation: str) -> bool:
    """Whether the kernels apply: on a GPU, for this convolution, without gradients or autocast.

    An exported model must contain only public operators, so they do not apply under export or tracing either.
    """
    if (
        not _on_gpu(image_BMD)
        or image_BMD.numel() == 0
        or not isinstance(depthwise, nn.Conv2d)
        or (torch.is_grad_enabled() and image_BMD.requires_grad)
        or torch.is_autocast_enabled(image_BMD.device.type)
        or is_exporting()
    ):
        return False
    from localvit.locality.kernels.gpu import depthwise as kernels  # Triton takes a while to import

    return kernels.takes(image_BMD, depthwise.weight, activation)


def expand_and_mix(
    image_BMD: Tensor, expand: nn.Linear, depthwise: nn.Conv2d, activation: str, grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """``a = activation(depthwise(activation(expand(x))))`` (B, M, E), and its means over positions (B, 1, E)."""
    from localvit.locality.kernels.gpu import depthwise as kernels

    assert depthwise.bias is not None
    z_BHWE = F.linear(image_BMD, expand.weight).unflatten(1, grid)  # the kernel adds the bias
    out_BHWE, mean_BE = kernels.act_depthwise_act(z_BHWE, expand.bias, depthwise.weight, depthwise.bias, activation)
    return out_BHWE.flatten(1, 2), mean_BE.to(image_BMD.dtype)[:, None]


def scale(x_BME: Tensor, gates_B1E: Tensor) -> Tensor:
    """``x * gates``, faster than by broadcasting."""
    if torch.compiler.is_compiling():
        return x_BME * gates_B1E
    from localvit.locality.kernels.gpu.normalized import scaled

    return scaled(x_BME, gates_B1E[:, 0])


def _on_gpu(x: Tensor) -> bool:
    return x.is_cuda
