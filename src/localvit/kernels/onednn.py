"""A fused locality feed-forward network on CPUs: few passes over the hidden map, and a few images at a time.

The layers are oneDNN's operations. PyTorch offers them to its own compiler only, under names that are private:
``tests/kernels/test_onednn.py`` compares them with the public ones. Where they are not there, or cannot be used, the
public ones run.

Shape suffixes: B images, M = H * W tokens, C channels, E of them hidden, H x W the grid.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

# Of the hidden map at a time. Larger ones leave the cache, and the C library returns their memory to the system after
# each layer, only to have it mapped and cleared again by the next.
_BYTES = 2.5 * 2**20
_MOST_PARTS = 4


class _PostOp(NamedTuple):
    """An activation in oneDNN's terms."""

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
_DTYPES: set[torch.dtype] = set()
if torch.backends.mkldnn.is_available() and hasattr(_OPERATIONS, "_linear_pointwise"):
    _DTYPES.add(torch.float32)
    if _OPERATIONS._is_mkldnn_bf16_supported():
        _DTYPES.add(torch.bfloat16)


def fits(x: Tensor, activation: str) -> bool:
    """Whether oneDNN can be used here: on a CPU, and where nothing is recorded.

    Nothing is recorded without gradients and outside of export, which is to keep the public operations.
    """
    return (
        x.device.type == "cpu"
        and x.dtype in _DTYPES
        and activation in _POST_OPS
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_exporting()
        and not torch.jit.is_tracing()
    )


def images_at_a_time(x_BMD: Tensor, hidden: int) -> int:
    """How many images' hidden maps stay in the cache; when compiling such that the compiler does not see many parts."""
    images = max(1, int(_BYTES // (x_BMD.shape[1] * hidden * x_BMD.element_size())))
    return max(images, -(-x_BMD.shape[0] // _MOST_PARTS)) if torch.compiler.is_compiling() else images


def linear(x_BMC: Tensor, layer: nn.Linear, activation: str | None = None) -> Tensor:
    """``activation(layer(x))`` (B, M, C) in one pass."""
    function = torch.ops.localvit.linear if torch.compiler.is_compiling() else _linear
    out_BMC: Tensor = function(x_BMC, layer.weight, layer.bias, activation)
    return out_BMC


def depthwise(x_BEHW: Tensor, layer: nn.Conv2d, activation: str) -> Tensor:
    """``activation(layer(x))`` of a channels-last map (B, E, H, W) in one pass; the convolution keeps the grid."""
    function = torch.ops.localvit.depthwise if torch.compiler.is_compiling() else _depthwise
    out_BEHW: Tensor = function(x_BEHW, layer.weight, layer.bias, activation)
    return out_BEHW


def _linear(x_BMC: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    post = _POST_OPS[activation]
    out_BMC: Tensor = _OPERATIONS._linear_pointwise(x_BMC, weight, bias, post.name, list(post.numbers), post.algorithm)
    return out_BMC


def _depthwise(x_BEHW: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    post = _POST_OPS[activation]
    padding = [side // 2 for side in weight.shape[2:]]
    out_BEHW: Tensor = _OPERATIONS._convolution_pointwise(
        *(x_BEHW, weight, bias, padding, [1, 1], [1, 1], len(weight), post.name, list(post.numbers), post.algorithm)
    )
    return out_BEHW


def _like_linear(x_BMC: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    return x_BMC.new_empty(*x_BMC.shape[:-1], len(weight))


def _like_map(x_BEHW: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    return torch.empty_like(x_BEHW, memory_format=torch.channels_last)


# Under names of their own for the compiler, which calls them as they are. Of oneDNN's it believes that their weights
# never change, and it chooses layouts for them.
for _name, _operation, _like, _type in (
    ("linear", _linear, _like_linear, "str?"),
    ("depthwise", _depthwise, _like_map, "str"),
):
    torch.library.define(f"localvit::{_name}", f"(Tensor x, Tensor weight, Tensor? bias, {_type} activation) -> Tensor")
    torch.library.impl(f"localvit::{_name}", "CPU", _operation)
    torch.library.register_fake(f"localvit::{_name}", _like)
