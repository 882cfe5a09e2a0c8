"""oneDNN's operations against PyTorch's public ones: they are private, and may change."""

import pytest
import torch
from torch import Tensor, nn

from localvit.kernels import onednn
from localvit.locality import ACTIVATIONS

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
def test_depthwise_convolutions(activation: str, kernel_size: int) -> None:
    layer = nn.Conv2d(40, 40, kernel_size, padding=kernel_size // 2, groups=40)
    x_BEHW = 4 * torch.randn(2, 40, 5, 9).to(memory_format=torch.channels_last)
    with torch.no_grad():
        out_BEHW = onednn.depthwise(x_BEHW, layer, activation)
        torch.testing.assert_close(out_BEHW, _activated(layer(x_BEHW), activation), rtol=1e-5, atol=1e-5)
    assert out_BEHW.is_contiguous(memory_format=torch.channels_last)


def test_the_compiler_calls_them_as_they_are() -> None:
    linear, conv = nn.Linear(8, 16), nn.Conv2d(16, 16, 3, padding=1, groups=16)

    def both(x_BMC: Tensor) -> Tensor:
        hidden_BMC = onednn.linear(x_BMC, linear, "hswish")
        return onednn.depthwise(hidden_BMC.unflatten(1, (3, 5)).permute(0, 3, 1, 2), conv, "gelu")

    x_BMC = torch.randn(2, 15, 8)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(both, fullgraph=True)(x_BMC), both(x_BMC))


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
