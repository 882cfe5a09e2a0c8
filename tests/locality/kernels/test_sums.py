"""Sums over positions against NumPy's in float64, for grids of any size, as they are and compiled."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from localvit.locality.kernels.sums import over_images_and_positions, over_positions


@given(images=st.integers(1, 3), positions=st.integers(1, 70), channels=st.integers(1, 9), seed=st.integers(0, 99))
def test_all_positions_are_summed_once(images: int, positions: int, channels: int, seed: int) -> None:
    x_BMC = torch.randn(images, positions, channels, generator=torch.Generator().manual_seed(seed)) + 3
    exact_BMC = x_BMC.double().numpy()
    np.testing.assert_allclose(over_positions(x_BMC), exact_BMC.sum(1, keepdims=True), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(over_images_and_positions(x_BMC), exact_BMC.sum((0, 1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("positions", [196, 49, 13])
def test_compiled_they_are_the_same(positions: int) -> None:
    x_BMC = torch.randn(2, positions, 5, dtype=torch.float64)
    torch.compiler.reset()
    for function in (over_positions, over_images_and_positions):
        torch.testing.assert_close(torch.compile(function, fullgraph=True)(x_BMC), function(x_BMC))


def test_on_other_devices_they_have_the_same_shape() -> None:
    x_BMC = torch.empty(2, 9, 5, device="meta")
    assert over_positions(x_BMC).shape == (2, 1, 5)
    assert over_images_and_positions(x_BMC).shape == (5,)
