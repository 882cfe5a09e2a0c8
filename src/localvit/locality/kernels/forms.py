"""Which form a locality feed-forward network takes in training: the faster one by default, or the smaller one.

``benchmarks/training_forms.py`` measures them; ``docs/clock.md`` has the numbers.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from localvit.locality.feed_forward import LocalityFeedForward
from localvit.locality.kernels.few_passes import few_passes

Form = Callable[[LocalityFeedForward, Tensor], Tensor]


def faster(network: LocalityFeedForward, image_BDHW: Tensor) -> Tensor:
    """On GPUs the Triton kernels, if not compiled; on CPUs few passes where ``torch.compile`` makes them faster."""
    if image_BDHW.is_cuda and not torch.compiler.is_compiling():
        from localvit.locality.kernels.gpu.form import triton_form

        return triton_form(network, image_BDHW)
    return without_triton(network, image_BDHW)


def without_triton(network: LocalityFeedForward, image_BDHW: Tensor) -> Tensor:
    """The faster form among those of PyTorch's own operators."""
    if torch.compiler.is_compiling() and image_BDHW.device.type == "cpu":
        return few_passes(network, image_BDHW)
    return network.in_order(image_BDHW)


def attach() -> None:
    """Make :func:`faster` the default form of every locality feed-forward network."""
    LocalityFeedForward.fast_form = staticmethod(faster)


def save_memory(model: nn.Module, enabled: bool = True) -> nn.Module:
    """Let training store two hidden maps per locality feed-forward network instead of seven, and recompute the rest.

    Results stay the same up to rounding, and an eager training step takes longer. Compiled training on a CPU works this
    way by default, because it is also faster there. Second derivatives are not available.

    Args:
        model: any model; it is changed in place.
        enabled: False switches back to the default form.

    Returns:
        The model.
    """
    return set_form(model, few_passes if enabled else None)


def use_triton(model: nn.Module, enabled: bool = True) -> nn.Module:
    """Whether ``model`` trains with Triton kernels on a GPU where it is not compiled, which it does by default.

    The kernels serve odd kernel sizes up to 7 x 7, and feature maps in float32, bfloat16 or float16; where they do not
    fit, or Triton is not installed, PyTorch's operators run. Results are the same up to rounding, so this is for
    comparing the two, and for second derivatives, which the kernels do not have.

    Args:
        model: any model; it is changed in place.
        enabled: False for PyTorch's operators alone, True for the default.

    Returns:
        The model.
    """
    return set_form(model, None if enabled else without_triton)


def set_form(model: nn.Module, form: Form | None) -> nn.Module:
    """Set the form of all locality feed-forward networks of ``model``; None restores the default."""
    for module in model.modules():
        if isinstance(module, LocalityFeedForward):
            if form is None:
                vars(module).pop("fast_form", None)
            else:
                module.fast_form = form
    return model
