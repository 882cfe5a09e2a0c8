"""The operations that compiled training has in place of PyTorch's convolutions, against those."""

from functools import partial
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd

from localvit import LocalityFeedForward
from localvit.locality.kernels.convolve import convolve

SHAPES = [  # channels in, channels out, side of the kernel, grid
    (6, 24, 1, (5, 7)),
    (24, 6, 1, (5, 7)),
    (6, 1, 1, (4, 4)),
    (1, 6, 1, (1, 1)),
    (24, 24, 3, (5, 7)),
    (24, 24, 5, (2, 9)),
    (24, 24, 1, (5, 7)),
    (1, 1, 3, (4, 4)),
]


@pytest.mark.parametrize(("channels_in", "channels_out", "size", "grid"), SHAPES)
def test_outputs_and_gradients_are_those_of_the_convolution(
    channels_in: int, channels_out: int, size: int, grid: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    conv = _convolution(channels_in, channels_out, size).double()
    x_BCHW = torch.randn(3, *grid, channels_in, dtype=torch.float64).permute(0, 3, 1, 2)
    expected = _step(conv, conv, x_BCHW)
    torch.compiler.reset()
    compiled = torch.compile(partial(convolve, conv), fullgraph=True)
    for ours, theirs in zip(_step(compiled, conv, x_BCHW), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("size", [1, 3])
def test_the_operations_keep_what_they_promise_to_the_compiler(size: int) -> None:
    conv = _convolution(4, 4, size).double()
    x_BCHW = torch.randn(2, 5, 7, 4, dtype=torch.float64).permute(0, 3, 1, 2).requires_grad_()
    torch.library.opcheck(torch.ops.localvit.convolve.default, (x_BCHW, conv.weight))
    backward = torch.ops.localvit.convolve_backward.default
    torch.library.opcheck(backward, (x_BCHW.detach(), x_BCHW.detach(), conv.weight.detach()))


@pytest.mark.parametrize(
    ("given", "computed"), [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16), (torch.float64,) * 2]
)
def test_under_autocast_it_is_as_precise_as_the_convolution(given: torch.dtype, computed: torch.dtype) -> None:
    conv = _convolution(6, 24, 1).to(given)
    x_BCHW = torch.randn(2, 5, 7, 6, dtype=given).permute(0, 3, 1, 2)
    torch.compiler.reset()
    with torch.autocast("cpu", torch.bfloat16):
        expected = _step(conv, conv, x_BCHW)
        got = _step(torch.compile(partial(convolve, conv), fullgraph=True), conv, x_BCHW)
    assert [tensor.dtype for tensor in got] == [tensor.dtype for tensor in expected] == [computed, given, given]
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)


def test_the_compiler_sees_no_convolution_of_the_feed_forward_network() -> None:
    seen: list[Any] = []

    def note(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        seen.extend(node.target for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    torch.compiler.reset()
    model = torch.compile(LocalityFeedForward(8).train(), backend=aot_autograd(fw_compiler=note))
    model(torch.randn(2, 20, 8, requires_grad=True), (4, 5)).sum().backward()
    assert seen.count(torch.ops.localvit.convolve.default) >= 3
    assert seen.count(torch.ops.localvit.convolve_backward.default) == 3
    assert not {torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default} & set(seen)


def test_hooks_of_the_convolution_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    conv = _convolution(4, 4, 3)
    seen: list[Any] = []
    conv.register_forward_hook(lambda *arguments: seen.append(arguments))
    convolve(conv, torch.randn(1, 4, 3, 3))
    assert len(seen) == 1


def _convolution(channels_in: int, channels_out: int, size: int) -> nn.Conv2d:
    groups = channels_in if channels_in == channels_out else 1
    return nn.Conv2d(channels_in, channels_out, size, padding=size // 2, groups=groups, bias=False)


def _step(function: Any, conv: nn.Conv2d, x_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x_BCHW = x_BCHW.clone().requires_grad_()
    conv.weight.grad = None
    out_BEHW = function(x_BCHW)
    (out_BEHW * torch.linspace(-1, 2, out_BEHW.numel(), dtype=out_BEHW.dtype).view_as(out_BEHW)).sum().backward()
    assert x_BCHW.grad is not None
    assert conv.weight.grad is not None
    return out_BEHW.detach(), x_BCHW.grad, conv.weight.grad
