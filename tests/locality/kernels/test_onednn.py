"""oneDNN's operations against PyTorch's public ones: they are private, and may change."""

import pytest
import torch
from torch import Tensor, nn

from localvit.locality.feed_forward import ACTIVATIONS
from localvit.locality.kernels import onednn

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of PyTorch is without oneDNN"
)


def test_it_fits_on_a_cpu_where_nothing_is_recorded() -> None:
    x_BMC = torch.randn(1, 4, 8)
    assert not onednn.fits(x_BMC, "hswish")
    with torch.no_grad():
        assert onednn.fits(x_BMC, "hswish")
        assert not onednn.fits(x_BMC.double(), "hswish")
        assert not onednn.fits(x_BMC.half(), "hswish")
        assert not onednn.fits(x_BMC.to("meta"), "hswish")
        with torch.autocast("cpu", torch.bfloat16):
            assert not onednn.fits(x_BMC, "hswish")


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers(activation: str | None, bias: bool) -> None:
    layer = nn.Linear(24, 40, bias=bias)
    x_BMC = 4 * torch.randn(3, 11, 24)
    with torch.no_grad():
        torch.testing.assert_close(onednn.linear(x_BMC, layer, activation), _activated(layer(x_BMC), activation))


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
def test_a_linear_layer_and_a_depthwise_convolution(activation: str, kernel_size: int) -> None:
    linear = nn.Linear(24, 40)
    conv = nn.Conv2d(40, 40, kernel_size, padding=kernel_size // 2, groups=40)
    x_BMD = 4 * torch.randn(2, 45, 24)
    with torch.no_grad():
        out_BME = onednn.expand_and_mix(x_BMD, linear, conv, activation, (5, 9))
        expected_BME = _in_modules(x_BMD, linear, conv, activation, (5, 9))
    torch.testing.assert_close(out_BME, expected_BME, rtol=1e-5, atol=1e-5)
    assert out_BME.is_contiguous()


@pytest.mark.parametrize("compiled", [False, True])
def test_weights_that_change_are_packed_again(compiled: bool) -> None:
    linear, conv = nn.Linear(8, 16), nn.Conv2d(16, 16, 3, padding=1, groups=16)
    x_BMD = torch.randn(2, 15, 8)
    torch.compiler.reset()
    mix = torch.compile(onednn.expand_and_mix, fullgraph=True) if compiled else onednn.expand_and_mix
    outs: list[Tensor] = []
    with torch.no_grad():
        for change in (lambda _: None, lambda weight: weight.mul_(2), lambda weight: setattr(weight, "data", -weight)):
            for weight in (linear.weight, conv.weight):
                change(weight)
                outs.append(mix(x_BMD, linear, conv, "hswish", (3, 5)))
                expected_BME = _in_modules(x_BMD, linear, conv, "hswish", (3, 5))
                torch.testing.assert_close(outs[-1], expected_BME, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(outs[0], outs[-1])


def test_packed_weights_go_with_the_weights() -> None:
    layer = nn.Linear(8, 16)
    before = len(onednn._PACKED)
    with torch.no_grad():
        onednn.linear(torch.randn(2, 15, 8), layer)
        assert len(onednn._PACKED) == before + 1
    del layer
    assert len(onednn._PACKED) == before


def test_in_inference_mode_they_are_not_packed() -> None:
    with torch.inference_mode():
        layer, x_BMC = nn.Linear(8, 16), torch.randn(2, 15, 8)
        before = len(onednn._PACKED)
        for _ in range(2):
            torch.testing.assert_close(onednn.linear(x_BMC, layer), layer(x_BMC))
            layer.weight.mul_(2)
        assert len(onednn._PACKED) == before


def test_the_compiler_calls_them_as_they_are() -> None:
    expand, conv, project = nn.Linear(8, 16), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Linear(16, 8)

    def all_three(x_BMD: Tensor) -> Tensor:
        return onednn.linear(onednn.expand_and_mix(x_BMD, expand, conv, "gelu", (3, 5)), project)

    x_BMD = torch.randn(2, 15, 8)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(all_three, fullgraph=True)(x_BMD), all_three(x_BMD))


def test_parts_fit_the_cache_and_are_few_for_the_compiler() -> None:
    assert onednn.images_at_a_time(torch.empty(256, 196, 192, dtype=torch.bfloat16, device="meta"), 768) == 8
    assert onednn.images_at_a_time(torch.empty(256, 196, 192, device="meta"), 768) == 4
    assert onednn.images_at_a_time(torch.empty(2, 50176, 64, device="meta"), 512) == 1
    compiled = torch.compile(
        lambda x_BMC: x_BMC.new_zeros(onednn.images_at_a_time(x_BMC, 768)), fullgraph=True, backend="eager"
    )
    assert len(compiled(torch.zeros(256, 196, 1))) == 64


def _activated(x: Tensor, activation: str | None) -> Tensor:
    return x if activation is None else ACTIVATIONS[activation]()(x)


def _in_modules(x_BMD: Tensor, linear: nn.Linear, conv: nn.Conv2d, activation: str, grid: tuple[int, int]) -> Tensor:
    hidden_BME = _activated(linear(x_BMD), activation)
    hidden_BEHW = _activated(conv(hidden_BME.unflatten(1, grid).permute(0, 3, 1, 2)), activation)
    return hidden_BEHW.permute(0, 2, 3, 1).flatten(1, 2)
