"""Leave out the last feed-forward network where no logit depends on it.

Prefix tokens bypass a locality feed-forward network. Where the head reads the class token alone, the network of the
last block therefore changes no logit: it only changes patch tokens, which nothing reads any more. ``forward_features``
and the other ways to the patch tokens still compute it.
"""

import threading
from functools import partial
from typing import Any

from torch import Tensor, nn

from localvit.locality.families import layout_of
from localvit.locality.localize import LocalityMlp, localizations


def skip_unread(model: nn.Module) -> None:
    """Make calls of ``model``, and of localized models in it, leave out a last network that no logit depends on."""
    for part in list(model.modules()):
        if localizations(part):
            _skip_last(part)


def _skip_last(model: nn.Module) -> None:
    layout = layout_of(model)
    *_, block = layout.blocks(model)
    mlp = getattr(block, layout.mlp)
    if isinstance(mlp, LocalityMlp) and mlp.locality.num_prefix_tokens and hasattr(model, "global_pool"):
        last = _LastMlp(mlp)
        setattr(block, layout.mlp, last)
        model.register_forward_pre_hook(partial(_begin_logits, last))
        model.register_forward_hook(partial(_end_logits, last), always_call=True)


class _OfThread(threading.local):
    """Whether patch tokens are read by what this thread computes; others may run the same model at the same time."""

    is_read = True

    def __reduce__(self) -> tuple[type, tuple[()]]:  # otherwise, models with it are neither copied nor saved
        return _OfThread, ()


class _LastMlp(nn.Module):
    """The last block's MLP, which adds nothing while its patch tokens are not read."""

    def __init__(self, mlp: LocalityMlp) -> None:
        super().__init__()
        self.mlp = mlp
        self.of_thread = _OfThread()

    def forward(self, x_BND: Tensor, *grid: Any) -> Tensor:
        if not self.of_thread.is_read:
            return x_BND.new_zeros(())
        out_BND: Tensor = self.mlp(x_BND, *grid)
        return out_BND


def _begin_logits(last: _LastMlp, model: Any, args: tuple[Any, ...]) -> None:
    last.of_thread.is_read = model.global_pool != "token"


def _end_logits(last: _LastMlp, model: Any, args: tuple[Any, ...], output: Any) -> None:
    last.of_thread.is_read = True
