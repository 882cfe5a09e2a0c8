"""Make compiled code compute a small tensor once, instead of again at every position of the map that uses it."""

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("localvit::settle", mutates_args=())
def settle(x: Tensor) -> Tensor:
    """A copy that is materialized before its first use; its gradient is materialized too."""
    return x.clone()


def _settle_gradient(ctx: Any, grad: Tensor) -> Tensor:
    settled: Tensor = settle(grad)
    return settled


settle.register_fake(torch.empty_like)
settle.register_autograd(_settle_gradient)
