"""oneDNN operators for a fused locality feed-forward network on CPUs: few passes, a few images at a time.

PyTorch offers these operators only to its own compiler, under private names; ``tests/locality/kernels/test_onednn.py``
compares them with the public ones. ``fuse`` falls back to the public operators when these are unavailable.

Shape suffixes: B images, M = H * W tokens, C channels, E of them hidden, H x W the grid.
"""

from collections.abc import Callable, MutableMapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from localvit.locality.kernels.exporting import is_exporting

# Largest hidden map to process at once. A larger one leaves the cache, and the C library returns its memory to the
# system after each layer, only for the next layer to have it mapped and cleared again.
_BYTES = 2.5 * 2**20
_MOST_PARTS = 4


class _PostOp(NamedTuple):
    """An activation as oneDNN names it."""

    name: str
    numbers: tuple[float, ...] = ()
    algorithm: str = ""


_POST_OPS = {
    None: _PostOp("none"),
    "relu6": _PostOp("hardtanh", (0.0, 6.0)),
    "hswish": _PostOp("hardswish"),
    "gelu": _PostOp("gelu", algorithm="none"),
    "silu": _PostOp("swish"),
}
_OPERATIONS = torch.ops.mkldnn
# For each weight, its version and address when it was packed, and the packed copy.
_PACKED: MutableMapping[Tensor, tuple[tuple[int, int], Tensor]] = WeakIdKeyDictionary()
_DTYPES: set[torch.dtype] = set()
if torch.backends.mkldnn.is_available() and hasattr(_OPERATIONS, "_linear_pointwise"):
    _DTYPES.add(torch.float32)
    if _OPERATIONS._is_mkldnn_bf16_supported():
        _DTYPES.add(torch.bfloat16)


def fits(x: Tensor, activation: str) -> bool:
    """Whether these operators apply: on a CPU, without gradients or autocast.

    An exported model must contain only public operators, so they do not apply under export or tracing either.
    """
    return (
        x.device.type == "cpu"
        and x.dtype in _DTYPES
        and activation in _POST_OPS
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not is_exporting()
    )


def images_at_a_time(x_BMD: Tensor, hidden: int) -> int:
    """Number of images whose hidden maps fit the cache; when compiling, large enough that few parts are unrolled."""
    images = max(1, int(_BYTES // (x_BMD.shape[1] * hidden * x_BMD.element_size())))
    return max(images, -(-x_BMD.shape[0] // _MOST_PARTS)) if torch.compiler.is_compiling() else images


def linear(x_BMC: Tensor, layer: nn.Linear, activation: str | None = None) -> Tensor:
    """``activation(layer(x))`` (B, M, C) in one pass."""
    function = torch.ops.localvit.linear if torch.compiler.is_compiling() else _linear
    out_BMC: Tensor = function(x_BMC, layer.weight, layer.bias, activation)
    return out_BMC


def expand_and_mix(
    x_BMD: Tensor, expand: nn.Linear, depthwise: nn.Conv2d, activation: str, grid: tuple[int, int]
) -> Tensor:
    """``activation(depthwise(activation(expand(x))))`` (B, M, E) in two passes; the convolution keeps the grid size."""
    function = torch.ops.localvit.expand_and_mix if torch.compiler.is_compiling() else _expand_and_mix
    out_BME: Tensor = function(
        x_BMD, expand.weight, expand.bias, depthwise.weight, depthwise.bias, activation, grid[0], grid[1]
    )
    return out_BME


def run_linear(x_BMC: Tensor, packed: Tensor, bias_E: Tensor | None, activation: str | None) -> Tensor:
    """``activation(x @ weight.T + bias)`` (B, M, E), given what :func:`pack_linear` makes of the weight."""
    post = _POST_OPS[activation]
    out_BME: Tensor = _OPERATIONS._linear_pointwise(
        x_BMC, packed, bias_E, post.name, list(post.numbers), post.algorithm
    )
    return out_BME


def run_depthwise(
    x_BME: Tensor, packed: Tensor, bias_E: Tensor | None, activation: str, kernel_size: int, grid: tuple[int, int]
) -> Tensor:
    """``activation(depthwise(x))`` (B, M, E), given what :func:`pack_depthwise` makes of the kernel."""
    post = _POST_OPS[activation]
    images, positions, hidden = x_BME.shape
    out_BEHW: Tensor = _OPERATIONS._convolution_pointwise(
        x_BME.view(images, *grid, hidden).permute(0, 3, 1, 2),
        packed,
        bias_E,
        *_keeps_grid(kernel_size, hidden),
        post.name,
        list(post.numbers),
        post.algorithm,
    )
    return out_BEHW.permute(0, 2, 3, 1).view(images, positions, hidden)


def pack_linear(weight_ED: Tensor, tokens: int) -> Tensor:
    """The weight of a linear layer in oneDNN's layout, chosen for a number of tokens."""
    return _packed(weight_ED, lambda: _OPERATIONS._reorder_linear_weight(weight_ED, tokens))


def pack_depthwise(kernel_E1KK: Tensor, images: int, grid: tuple[int, int]) -> Tensor:
    """The kernel of a depth-wise convolution in oneDNN's layout, chosen for a number of images and their grid."""
    hidden, kernel_size = len(kernel_E1KK), kernel_E1KK.shape[-1]
    pack = _OPERATIONS._reorder_convolution_weight
    return _packed(kernel_E1KK, lambda: pack(kernel_E1KK, *_keeps_grid(kernel_size, hidden), (images, hidden, *grid)))


def state(weight: Tensor) -> tuple[int, int]:
    """What changes when a weight changes: its version and its address."""
    return weight._version, weight.data_ptr()


def _linear(x_BMC: Tensor, weight_ED: Tensor, bias_E: Tensor | None, activation: str | None) -> Tensor:
    return run_linear(x_BMC, pack_linear(weight_ED, x_BMC.shape[:-1].numel()), bias_E, activation)


def _expand_and_mix(
    x_BMD: Tensor,
    weight_ED: Tensor,
    bias_E: Tensor | None,
    kernel_E1KK: Tensor,
    kernel_bias_E: Tensor | None,
    activation: str,
    height: int,
    width: int,
) -> Tensor:
    grid = height, width
    hidden_BME = _linear(x_BMD, weight_ED, bias_E, activation)
    packed = pack_depthwise(kernel_E1KK, len(x_BMD), grid)
    return run_depthwise(hidden_BME, packed, kernel_bias_E, activation, kernel_E1KK.shape[-1], grid)


def _keeps_grid(kernel_size: int, channels: int) -> tuple[list[int], list[int], list[int], int]:
    """Padding, stride, dilation and groups of a depth-wise convolution that keeps the grid size."""
    return [kernel_size // 2] * 2, [1, 1], [1, 1], channels


def _packed(weight: Tensor, pack: Callable[[], Tensor]) -> Tensor:
    """The weight in oneDNN's own layout, cached until it changes; otherwise each call would convert it."""
    if weight.is_inference():  # inference tensors do not track changes
        return weight
    now = state(weight)
    kept = _PACKED.get(weight)
    if kept is None or kept[0] != now:
        kept = _PACKED[weight] = (now, pack())
    return kept[1]


def _like(x_BMC: Tensor, weight_EC: Tensor, *_: object) -> Tensor:
    return x_BMC.new_empty(*x_BMC.shape[:-1], len(weight_EC))


# Registered under our own names, so that the compiler calls them as they are. For oneDNN's names it assumes constant
# weights and chooses layouts itself.
for _name, _operation, _arguments in (
    ("linear", _linear, "Tensor weight, Tensor? bias, str? activation"),
    (
        "expand_and_mix",
        _expand_and_mix,
        "Tensor weight, Tensor? bias, Tensor kernel, Tensor? kernel_bias, str activation, int height, int width",
    ),
):
    torch.library.define(f"localvit::{_name}", f"(Tensor x, {_arguments}) -> Tensor")
    torch.library.impl(f"localvit::{_name}", "CPU", _operation)
    torch.library.register_fake(f"localvit::{_name}", _like)
