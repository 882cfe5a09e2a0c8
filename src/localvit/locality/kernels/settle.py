"""Make compiled code compute a small tensor once, instead of again at every position of the map that uses it."""

from typing import Any

import torch
from torch import Tensor


def settle(x: Tensor) -> Tensor:
    """The same tensor, which on CPUs is materialized before its first use, as its gradient is.

    On GPUs, the call of an operator would take more time than it saves.
    """
    settled: Tensor = _settle(x) if x.device.type == "cpu" else x
    return settled


@torch.library.custom_op("localvit::settle", mutates_args=())
def _settle(x: Tensor) -> Tensor:
    return x.clone()


def _settle_gradient(ctx: Any, grad: Tensor) -> Tensor:
    settled: Tensor = _settle(grad)
    return settled


_settle.register_fake(torch.empty_like)
_settle.register_autograd(_settle_gradient)
