"""A fused feed-forward network on CPUs in eager mode, with its tensors looked up once instead of at each call.

With one image, finding modules, weights and their packed copies shows on the clock: large products have just displaced
Python's objects and code from the cache. So a model that gets one image checks all its networks before it runs, while
the code that checks is in the cache.

Shape suffixes: B images, M = H * W tokens, D channels of a token, E hidden channels, R channels of the bottleneck,
H x W the grid, P parts of an image.
"""

import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from functools import cached_property, lru_cache, partial
from operator import eq, is_
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from timm.layers import SqueezeExcite
from torch import Tensor, nn
from torch.nn import functional as F

from localvit.locality.kernels import mkl, onednn

_IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu6": partial(F.relu6, inplace=True),
    "hswish": partial(F.hardswish, inplace=True),
    "gelu": F.gelu,
    "silu": partial(F.silu, inplace=True),
}
_Layer = Callable[[Tensor], Tensor]
_KNOWN: MutableMapping[nn.Module, "FewCalls"] = WeakKeyDictionary()
# The networks of the model that runs in this thread, if it has checked them.
_CHECKED: ContextVar[Mapping[nn.Module, "FewCalls"]] = ContextVar("checked", default=MappingProxyType({}))


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


def checked(network: Any, image_BMD: Tensor) -> "FewCalls | None":
    """The network's branch, if the running model has checked it and ``image`` is one in single precision."""
    if torch.compiler.is_compiling() or len(image_BMD) != 1 or image_BMD.dtype != torch.float32:
        return None
    return _CHECKED.get().get(network)


def check_first(model: nn.Module, networks: Sequence[Any]) -> None:
    """Let ``model`` check its fused ``networks`` before it runs on one image, instead of each when its turn comes.

    A change in the middle of a run, by a hook, counts from the next run on.
    """
    if networks:
        model.register_forward_pre_hook(partial(_check, networks))
        model.register_forward_hook(_forget, always_call=True)


def _check(networks: Sequence[Any], model: nn.Module, args: tuple[Any, ...]) -> None:
    if torch.compiler.is_compiling() or not (args and isinstance(args[0], Tensor) and len(args[0]) == 1):
        return
    usable = [network for network in networks if onednn.fits(args[0], network.config.activation)]
    _CHECKED.set(
        {network: known for network in usable if (known := _KNOWN.get(network)) is not None and known.is_current()}
    )


def _forget(model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    if not torch.compiler.is_compiling():
        _CHECKED.set({})


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
        self._tables = [table for table in tables for _ in table]
        self._names = [name for table in tables for name in table]
        self._parts = [part for table in tables for part in table.values()]
        self._weights = [layer.weight for layer in layers]
        self._states = [*map(onednn.state, self._weights)]

        self._tokens, self._tokens_of_one = image_BMD.shape[:-1].numel(), image_BMD.shape[1]
        self._depthwise = onednn.pack_depthwise(network.depthwise.weight, len(image_BMD), grid)
        self._weight_RE, self._weight_ER = (layer.weight.flatten(1) for layer in (attention.fc1, attention.fc2))
        self._narrow_weights: dict[int, Tensor] = {}
        self._biases = [layer.bias for layer in layers]
        self._gate: nn.Module = attention.gate
        self._activation, self._kernel_size = network.config.activation, network.depthwise.kernel_size[0]

    def is_current(self) -> bool:
        """Whether the network still has the same modules and weights, and none of them has changed."""
        same = all(map(is_, map(dict.get, self._tables, self._names), self._parts))
        return same and all(map(eq, map(onednn.state, self._weights), self._states))

    def __call__(self, image_BMD: Tensor, grid: tuple[int, int]) -> Tensor:
        """Image tokens (B, M, D) to what is added to them."""
        alone = len(image_BMD) == 1 and image_BMD.dtype == torch.float32
        expand, project = self._layers_for_one if alone else self._layers_for_several
        hidden_BME = onednn.run_depthwise(
            expand(image_BMD), self._depthwise, self._biases[1], self._activation, self._kernel_size, grid
        )
        gates_BE = self._gates_of_one(hidden_BME) if alone else self._gates(hidden_BME)
        return project(hidden_BME.mul_(gates_BE.unsqueeze(-2)))

    @cached_property
    def _layers_for_one(self) -> tuple[_Layer, _Layer]:
        """The layers ``expand``, with its activation, and ``project``, for few tokens: there MKL beats oneDNN."""
        (expand_ED, _, project_DE, *_), (expand_E, _, project_D, *_) = self._weights, self._biases
        expand, project = (
            mkl.linear(weight, bias, self._tokens_of_one)
            for weight, bias in ((expand_ED, expand_E), (project_DE, project_D))
        )
        act = _IN_PLACE[self._activation]
        return lambda x_BMD: act(expand(x_BMD)), project

    @cached_property
    def _layers_for_several(self) -> tuple[_Layer, _Layer]:
        (expand_ED, _, project_DE, *_), (expand_E, _, project_D, *_) = self._weights, self._biases
        expand, project = (onednn.pack_linear(weight, self._tokens) for weight in (expand_ED, project_DE))
        return (
            lambda x_BMD: onednn.run_linear(x_BMD, expand, expand_E, self._activation),
            lambda x_BME: onednn.run_linear(x_BME, project, project_D, None),
        )

    def _gates(self, hidden_BME: Tensor) -> Tensor:
        """The factors (B, E) of the channels."""
        *_, narrow_R, gates_E = self._biases
        # A sum is faster than a mean, several times in half precision.
        sum_BE = hidden_BME.sum(1)
        narrow_BR = torch.addmm(narrow_R, sum_BE, self._weight_RE.t(), alpha=1 / hidden_BME.shape[1]).relu_()
        gates_BE: Tensor = self._gate(torch.addmm(gates_E, narrow_BR, self._weight_ER.t()))
        return gates_BE

    def _gates_of_one(self, hidden_1ME: Tensor) -> Tensor:
        """The factors (E,) of one image. Each thread adds up the rows that it convolved, which its cache still has."""
        *_, narrow_R, gates_E = self._biases
        _, tokens, hidden = hidden_1ME.shape
        parts = math.gcd(torch.get_num_threads(), tokens)
        sums_P1E = torch.bmm(_ones(parts, tokens // parts), hidden_1ME.view(parts, tokens // parts, hidden))
        narrow_R = torch.addmv(narrow_R, self._narrow_weight(parts), sums_P1E.flatten(), alpha=1 / tokens).relu_()
        opened_E: Tensor = self._gate(torch.addmv(gates_E, self._weight_ER, narrow_R))
        return opened_E

    def _narrow_weight(self, parts: int) -> Tensor:
        """The first weight of the channel attention (R, P * E), which also adds up the sums of P parts of the image."""
        if parts not in self._narrow_weights:
            self._narrow_weights[parts] = self._weight_RE.repeat(1, parts)
        return self._narrow_weights[parts]


@lru_cache
def _ones(parts: int, tokens: int) -> Tensor:
    return torch.ones(parts, 1, tokens)
