"""The costs of a model: parameters and multiply-accumulates, counted rather than quoted."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, including frozen ones."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, input_size: tuple[int, int, int]) -> int:
    """Multiply-accumulates for one image of ``input_size`` (channels, height, width), in evaluation mode.

    Half of what ``torch.utils.flop_counter`` counts: matrix products, convolutions and attention. A copy of the model
    on the meta device runs, so nothing is computed. The paper calls these numbers "FLOPs".
    """
    model = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, *input_size, device="meta"))
    return int(counter.get_total_flops()) // 2


def count_macs_if_possible(model: nn.Module, input_size: tuple[int, int, int]) -> int | None:
    """:func:`count_macs`, or None for a model that cannot run on the meta device."""
    try:
        return count_macs(model, input_size)
    except Exception:  # whatever a model meets there; whether it runs at all shows elsewhere
        return None
