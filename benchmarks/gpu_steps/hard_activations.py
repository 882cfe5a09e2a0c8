"""PyTorch's hard activations in float64: how exact they are on a device, and what a model with them can be held to.

On GPUs, PyTorch's kernels of hard-swish and hard sigmoid, forward and backward, have a sixth in single precision,
``1.0f / 6.0f``, whatever the number format. It is off by 3e-8, so no model that contains them is exact to 1e-9 there,
in any form. On the CPU only the derivative of the hard sigmoid has it, the same in all forms. Models without these
activations are exact everywhere.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpu_steps.arithmetic import compared, distance
from gpu_steps.models import Place
from gpu_steps.running import Row

EXACT, SINGLE = 1e-9, 1e-6  # the second: a few times the rounding of a sixth in single precision
_NUMBERS = 100_000

Activation = Callable[[Tensor], Tensor]


def exact(model: nn.Module, place: Place) -> float:
    """The largest distance that float64 may be off by on a device, for a model as defined.

    timm's squeeze-and-excitation has the gate ``hard_sigmoid``, which is ``nn.Hardsigmoid``.
    """
    hard = any(isinstance(module, nn.Hardswish | nn.Hardsigmoid) for module in model.modules())
    return SINGLE if hard and place.device == "cuda" else EXACT


def float64_of_pytorch(place: Place) -> list[Row]:
    """PyTorch's activations on the device, in values and derivatives, beside their plain formulas on the CPU."""
    pairs: dict[str, tuple[Activation, Activation]] = {
        "hardswish": (F.hardswish, lambda y: y * (y + 3).clip(0, 6) / 6),
        "hardsigmoid": (F.hardsigmoid, lambda y: (y + 3).clip(0, 6) / 6),
    }
    return [_compared(name, found, formula, place) for name, (found, formula) in pairs.items()]


def _compared(name: str, activation: Activation, formula: Activation, place: Place) -> Row:
    inputs = 3 * torch.randn(_NUMBERS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found, expected = _curve(activation, inputs.to(place.device)), _curve(formula, inputs)
    values, slopes = (distance(one.cpu(), other) for one, other in zip(found, expected, strict=True))
    return compared(f"PyTorch's {name}", "plain formula", "float64", (values, SINGLE), (slopes, SINGLE))


def _curve(activation: Activation, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Values and derivatives."""
    inputs = inputs.clone().requires_grad_()
    values = activation(inputs)
    (slopes,) = torch.autograd.grad(values.sum(), inputs)
    return values.detach(), slopes
