"""A fused feed-forward network on CPUs in eager mode, with its tensors looked up once instead of at each call.

With one image, finding modules, weights and their packed copies shows on the clock: large products have just displaced
Python's objects from the cache.

Shape suffixes: B images, M = H * W tokens, D channels of a token, E hidden channels, R channels of the bottleneck,
H x W the grid.
"""

from collections.abc import MutableMapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from timm.layers import SqueezeExcite
from torch import Tensor, nn

from localvit.locality.kernels import onednn

_KNOWN: MutableMapping[nn.Module, "FewCalls"] = WeakKeyDictionary()


def few_calls(network: Any, image_BMD: Tensor, grid: tuple[int, int]) -> "FewCalls | None":
    """The network's branch in few calls, with its modules and weights as they are now; None if it has another form.

    Args:
        network: a fused network with ``expand``, ``depthwise``, ``channel_attention`` and ``project``.
        image_BMD: tokens such as it will see, for which the layout of its weights is chosen.
        grid: their grid (H, W).
    """
    known = _KNOWN.get(network)
    if known is None or not known.is_current():
        if not isinstance(network.depthwise, nn.Conv2d) or not isinstance(network.channel_attention, SqueezeExcite):
            return None
        if not all(_tracks_changes(layer) for layer in _layers(network)):
            return None
        known = _KNOWN[network] = FewCalls(network, image_BMD, grid)
    return known


def _layers(network: Any) -> tuple[Any, ...]:
    attention = network.channel_attention
    return network.expand, network.depthwise, network.project, attention.fc1, attention.fc2


def _tracks_changes(layer: Any) -> bool:
    """Whether the layer keeps its weights as parameters, which are no inference tensors."""
    kept = layer._parameters.get("weight"), layer._parameters.get("bias")
    return all(weight is not None and not weight.is_inference() for weight in kept)


class FewCalls:
    """What a fused network with squeeze-and-excitation adds to its image tokens. See :func:`few_calls`."""

    def __init__(self, network: Any, image_BMD: Tensor, grid: tuple[int, int]) -> None:
        attention, layers = network.channel_attention, _layers(network)
        # Modules keep their parts in these private dictionaries, and finding a part by its name there is several
        # times as fast as by the public way. The network itself is not kept, which would then never be freed.
        tables = [network._modules, attention._modules, *(layer._parameters for layer in layers)]
        self._parts = [(table, name, part) for table in tables for name, part in table.items()]
        self._states = [(layer.weight, onednn.state(layer.weight)) for layer in layers]

        tokens = image_BMD.shape[:-1].numel()
        self._expand = onednn.pack_linear(network.expand.weight, tokens)
        self._depthwise = onednn.pack_depthwise(network.depthwise.weight, len(image_BMD), grid)
        self._project = onednn.pack_linear(network.project.weight, tokens)
        self._weight_ER, self._weight_RE = (layer.weight.flatten(1).t() for layer in (attention.fc1, attention.fc2))
        self._biases = [layer.bias for layer in layers]
        self._gate: nn.Module = attention.gate
        self._activation, self._kernel_size = network.config.activation, network.depthwise.kernel_size[0]

    def is_current(self) -> bool:
        """Whether the network still has the same modules and weights, and none of them has changed."""
        for table, name, part in self._parts:
            if table.get(name) is not part:
                return False
        return all(onednn.state(weight) == state for weight, state in self._states)

    def __call__(self, image_BMD: Tensor, grid: tuple[int, int]) -> Tensor:
        """Image tokens (B, M, D) to what is added to them."""
        expand_E, depthwise_E, project_D, narrow_R, gates_E = self._biases
        hidden_BME = onednn.run_linear(image_BMD, self._expand, expand_E, self._activation)
        hidden_BME = onednn.run_depthwise(
            hidden_BME, self._depthwise, depthwise_E, self._activation, self._kernel_size, grid
        )
        # A sum is faster than a mean, several times in half precision.
        sum_BE, share = hidden_BME.sum(1), 1 / hidden_BME.shape[1]
        narrow_BR = torch.addmm(narrow_R, sum_BE, self._weight_ER, alpha=share).relu_()
        gates_BE = self._gate(torch.addmm(gates_E, narrow_BR, self._weight_RE))
        hidden_BME.mul_(gates_BE.unsqueeze(1))
        return onednn.run_linear(hidden_BME, self._project, project_D, None)
