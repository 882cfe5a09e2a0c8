"""Hooks that users have added to modules."""

from torch import nn


def is_watched(*modules: nn.Module) -> bool:
    """Whether calls of any of these modules are seen by a hook, so that they must be made."""
    # Hooks are added by public methods and seen in private dictionaries only.
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        for module in modules
    )
