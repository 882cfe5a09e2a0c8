"""Small tensors that compiled code computes once, in place of at every position of the map that they are used on."""

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("localvit::settle", mutates_args=())
def settle(x: Tensor) -> Tensor:
    """A copy, which is finished before it is used; so is its gradient."""
    return x.clone()


def _settle_gradient(ctx: Any, grad: Tensor) -> Tensor:
    settled: Tensor = settle(grad)
    return settled


settle.register_fake(torch.empty_like)
settle.register_autograd(_settle_gradient)
