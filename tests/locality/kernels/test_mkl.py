"""MKL's operations against PyTorch's public ones: they are private, and may change."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from localvit.locality.kernels import mkl


@given(
    tokens=st.integers(1, 40),
    other_tokens=st.integers(1, 40),
    channels=st.integers(1, 33),
    outputs=st.integers(1, 33),
    prefix=st.integers(0, 2),
)
def test_a_linear_layer_for_any_number_of_tokens(
    tokens: int, other_tokens: int, channels: int, outputs: int, prefix: int
) -> None:
    layer = nn.Linear(channels, outputs)
    with torch.no_grad():
        linear = mkl.linear(layer.weight, layer.bias, tokens)
        for count in (tokens, other_tokens):
            x_BMC = torch.randn(1, prefix + count, channels)[:, prefix:]
            torch.testing.assert_close(linear(x_BMC), layer(x_BMC), rtol=1e-5, atol=1e-5)


def test_tokens_and_weights_with_strides() -> None:
    layer, x_BMC = nn.Linear(24, 40), torch.randn(1, 24, 11).transpose(1, 2)
    layer.weight.data = layer.weight.data.t().contiguous().t()
    with torch.no_grad():
        linear = mkl.linear(layer.weight, layer.bias, 11)
        torch.testing.assert_close(linear(x_BMC), layer(x_BMC), rtol=1e-5, atol=1e-5)


def test_without_mkl_the_public_operator_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mkl, "IS_AVAILABLE", False)
    layer, x_BMC = nn.Linear(24, 40), torch.randn(1, 11, 24)
    with torch.no_grad():
        assert torch.equal(mkl.linear(layer.weight, layer.bias, 11)(x_BMC), layer(x_BMC))


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="this build of PyTorch is without MKL")
def test_mkl_is_used_where_pytorch_has_it() -> None:
    assert mkl.IS_AVAILABLE
