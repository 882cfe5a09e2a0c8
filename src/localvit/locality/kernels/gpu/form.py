"""Training with the Triton kernel: norm, activation, depth-wise convolution and the next statistics in one pass.

Shape suffixes: B images, E hidden channels, H x W the grid.
"""

import torch
from torch import Tensor, nn

from localvit.locality.feed_forward import ConvNormAct, LocalityFeedForward
from localvit.locality.kernels import norm_act
from localvit.locality.kernels.few_passes import few_passes, mix
from localvit.locality.kernels.forms import set_form


def use_triton(model: nn.Module, enabled: bool = True) -> nn.Module:
    """Train the locality feed-forward networks of ``model`` with the Triton kernel wherever it fits.

    The kernel needs a GPU, odd kernel sizes up to 7 x 7, and feature maps in float32, bfloat16 or float16. Results
    stay the same up to rounding. It takes the place of :func:`localvit.save_memory`.

    Args:
        model: any model; it is changed in place.
        enabled: False switches back to the default form.

    Returns:
        The model.

    Raises:
        ImportError: if Triton is not installed.
    """
    if enabled:
        import triton  # noqa: F401  # an optional package that takes a while to import
    return set_form(model, triton_form if enabled else None)


def triton_form(network: LocalityFeedForward, image_BDHW: Tensor) -> Tensor:
    """Few passes over the hidden map, with the Triton kernel for the depth-wise stage."""
    return few_passes(network, image_BDHW, mix=_mix)


def _mix(network: LocalityFeedForward, z_BEHW: Tensor) -> tuple[Tensor, norm_act.Statistics | None]:
    from localvit.locality.kernels.gpu import depthwise  # Triton takes a while to import

    before, stage = network.expand, network.depthwise
    assert isinstance(stage, ConvNormAct)
    activation, weight_E1kk = network.config.activation, stage.conv.weight
    z_BHWE = z_BEHW.permute(0, 2, 3, 1)
    if torch.compiler.is_compiling() or not depthwise.fits(z_BHWE, weight_E1kk, activation):
        return mix(network, z_BEHW)
    mean_E, var_E = norm_act.batch_statistics(z_BEHW, before.norm)
    invstd_E = torch.rsqrt(var_E + before.norm.eps)
    out_BHWE, mean_out_E, var_out_E = depthwise.norm_act_depthwise(
        z_BHWE, mean_E, invstd_E, before.norm.weight, before.norm.bias, weight_E1kk, activation
    )
    assert mean_out_E is not None
    assert var_out_E is not None
    norm_act.move(stage.norm, (mean_out_E, var_out_E), out_BHWE.numel() // out_BHWE.shape[-1])
    return out_BHWE.permute(0, 3, 1, 2), (mean_out_E, var_out_E)
