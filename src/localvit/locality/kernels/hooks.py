"""Detect hooks that users have registered on modules."""

from torch import nn


def is_watched(*modules: nn.Module) -> bool:
    """Whether a hook observes calls of any of these modules, which therefore must not be bypassed."""
    # PyTorch registers hooks through public methods but lists them only in private dictionaries.
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        for module in modules
    )
