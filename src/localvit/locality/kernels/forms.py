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
    """Few passes where ``torch.compile`` makes them the faster form, on CPUs; otherwise the modules in order."""
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


def set_form(model: nn.Module, form: Form | None) -> nn.Module:
    """Set the form of all locality feed-forward networks of ``model``; None restores the default."""
    for module in model.modules():
        if isinstance(module, LocalityFeedForward):
            if form is None:
                vars(module).pop("fast_form", None)
            else:
                module.fast_form = form
    return model
