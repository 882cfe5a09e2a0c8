"""Training with the Triton kernel: norm, activation and depth-wise convolution in one pass, with the next statistics.

The kernel is chosen by :func:`use_triton`; without it, and where it does not fit, PyTorch's own operations run.

Shape suffixes: B images, E hidden channels, H x W the grid.
"""

from typing import Any

import torch
from torch import Tensor, nn

from localvit.locality.kernels import norm_act


def use_triton(model: nn.Module, enabled: bool = True) -> nn.Module:
    """Let the locality feed-forward networks of ``model`` train with the Triton kernel where it fits, or without it.

    It needs a GPU, odd kernels up to 7 x 7 and maps of float32, bfloat16 or float16. Numbers stay as they are but for
    rounding.

    Args:
        model: any model, which is changed in place.
        enabled: whether to use the kernel.

    Returns:
        The model.

    Raises:
        ImportError: where it is to be used and Triton is not installed.
    """
    if enabled:
        import triton  # noqa: F401  # an optional package, which takes a while to import
    module: Any
    for module in model.modules():
        if hasattr(module, "uses_triton"):
            module.uses_triton = enabled
    return model


def run(z_BEHW: Tensor, before: Any, stage: Any, activation: str) -> tuple[Tensor, norm_act.Statistics | None]:
    """``stage.conv(act(before.norm(z)))``, and statistics of the result for ``stage.norm``, which has moved by them.

    Args:
        z_BEHW: the map in front of the norm of ``before``.
        before: norm and activation.
        stage: the convolution, and the norm that follows it.
        activation: name of the activation of ``before``.

    Returns:
        The map (B, E, H, W), and its statistics; none where the kernel does not fit.
    """
    from localvit.locality.kernels import triton_depthwise  # here, as Triton takes a while to import

    weight_E1kk = stage.conv.weight
    z_BHWE = z_BEHW.permute(0, 2, 3, 1)
    if torch.compiler.is_compiling() or not triton_depthwise.fits(z_BHWE, weight_E1kk, activation):
        return norm_act.then(stage.conv, z_BEHW, before.norm, before.act), None
    mean_E, var_E = norm_act.batch_statistics(z_BEHW, before.norm)
    invstd_E = torch.rsqrt(var_E + before.norm.eps)
    out_BHWE, mean_out_E, var_out_E = triton_depthwise.norm_act_depthwise(
        z_BHWE, mean_E, invstd_E, before.norm.weight, before.norm.bias, weight_E1kk, activation
    )
    assert mean_out_E is not None
    assert var_out_E is not None
    norm_act.move(stage.norm, (mean_out_E, var_out_E), out_BHWE.numel() // out_BHWE.shape[-1])
    return out_BHWE.permute(0, 3, 1, 2), (mean_out_E, var_out_E)
