"""A fused feed-forward network on CPUs in eager mode, with its tensors looked up once instead of at each call.

With one image, finding modules, weights and their packed copies shows on the clock: large products have just displaced
Python's objects and code from the cache. So a model that gets one image checks all its networks before it runs, while
the code that checks is in the cache.

Shape suffixes: B images, M = H * W tokens, D channels of a token, E hidden channels, R channels of the bottleneck,
H x W the grid.
"""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from functools import lru_cache, partial
from operator import eq, is_
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from timm.layers import SqueezeExcite
from torch import Tensor, nn
from torch.nn import functional as F

from localvit.locality.kernels import onednn

_IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu6": partial(F.relu6, inplace=True),
    "hswish": partial(F.hardswish, inplace=True),
    "gelu": F.gelu,
    "silu": partial(F.silu, inplace=True),
}
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


def for_one_image(network: Any, image_BMD: Tensor, grid: tuple[int, int]) -> "FewCalls | None":
    """As :func:`few_calls`, where ``image`` is one in single precision on a CPU in eager mode; otherwise None."""
    if torch.compiler.is_compiling() or len(image_BMD) != 1 or image_BMD.dtype != torch.float32:
        return None
    if (known := _CHECKED.get().get(network)) is not None:
        return known
    return few_calls(network, image_BMD, grid) if onednn.fits(image_BMD, network.config.activation) else None


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

        tokens = image_BMD.shape[:-1].numel()
        self._expand = onednn.pack_linear(network.expand.weight, tokens)
        self._depthwise = onednn.pack_depthwise(network.depthwise.weight, len(image_BMD), grid)
        self._project = onednn.pack_linear(network.project.weight, tokens)
        products = network.expand, network.project, attention.fc1, attention.fc2
        self._weight_DE, self._weight_ED, self._weight_ER, self._weight_RE = (
            layer.weight.flatten(1).t() for layer in products
        )
        self._biases = [layer.bias for layer in layers]
        self._gate: nn.Module = attention.gate
        self._act_in_place = _IN_PLACE[network.config.activation]
        self._activation, self._kernel_size = network.config.activation, network.depthwise.kernel_size[0]

    def is_current(self) -> bool:
        """Whether the network still has the same modules and weights, and none of them has changed."""
        same = all(map(is_, map(dict.get, self._tables, self._names), self._parts))
        return same and all(map(eq, map(onednn.state, self._weights), self._states))

    def __call__(self, image_BMD: Tensor, grid: tuple[int, int]) -> Tensor:
        """Image tokens (B, M, D) to what is added to them."""
        expand_E, depthwise_E, project_D, *_ = self._biases
        hidden_BME = onednn.run_linear(image_BMD, self._expand, expand_E, self._activation)
        hidden_BME = onednn.run_depthwise(
            hidden_BME, self._depthwise, depthwise_E, self._activation, self._kernel_size, grid
        )
        # A sum is faster than a mean, several times in half precision.
        gates_BE = self._gates(hidden_BME.sum(1), hidden_BME.shape[1])
        return onednn.run_linear(hidden_BME.mul_(gates_BE.unsqueeze(1)), self._project, project_D, None)

    def of_one_image(self, image_MD: Tensor, grid: tuple[int, int], out_MD: Tensor) -> None:
        """Write what is added to the tokens of one image into ``out``.

        For so few tokens, PyTorch's own products in single precision are faster than oneDNN's.
        """
        expand_E, depthwise_E, project_D, *_ = self._biases
        hidden_ME = self._act_in_place(torch.addmm(expand_E, image_MD, self._weight_DE))
        hidden_ME = onednn.run_depthwise(
            hidden_ME.unsqueeze(0), self._depthwise, depthwise_E, self._activation, self._kernel_size, grid
        )[0]
        hidden_ME.mul_(self._gates(_sum_where_convolved(hidden_ME), len(hidden_ME)))
        torch.addmm(project_D, hidden_ME, self._weight_ED, out=out_MD)

    def _gates(self, sum_BE: Tensor, tokens: int) -> Tensor:
        """The factors (B, E) of the channels, given their sums over the tokens."""
        *_, narrow_R, gates_E = self._biases
        narrow_BR = torch.addmm(narrow_R, sum_BE, self._weight_ER, alpha=1 / tokens).relu_()
        gates_BE: Tensor = self._gate(torch.addmm(gates_E, narrow_BR, self._weight_RE))
        return gates_BE


def _sum_where_convolved(hidden_ME: Tensor) -> Tensor:
    """The sum over tokens (1, E). Each thread adds up the rows that it convolved, which its cache still has."""
    threads, (tokens, hidden) = torch.get_num_threads(), hidden_ME.shape
    if tokens % threads:
        return hidden_ME.sum(0, keepdim=True)
    hidden_TME = hidden_ME.view(threads, tokens // threads, hidden)
    return torch.bmm(_ones(threads, tokens // threads), hidden_TME).sum(0)


@lru_cache
def _ones(threads: int, tokens: int) -> Tensor:
    return torch.ones(threads, 1, tokens)
