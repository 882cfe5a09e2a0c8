"""What a model costs: parameters and multiply-accumulates, counted rather than quoted."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, input_size: tuple[int, int, int]) -> int:
    """Multiply-accumulates of one image of ``input_size`` (channels, height, width), in evaluation mode.

    They are half of what ``torch.utils.flop_counter`` counts (matrix products, convolutions, attention), on a copy
    of the model without storage, so that no arithmetic is done. The paper prints them as "FLOPs".
    """
    model = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, *input_size, device="meta"))
    return int(counter.get_total_flops()) // 2
