"""Planted kernels are found."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from toy_models import tiny

from localvit.analysis import NotMeasurableError, depthwise_kernels
from localvit.analysis.measures.kernels import describe, kind_of

IDENTITY = np.zeros((3, 3))
IDENTITY[1, 1] = 1.0
BLUR = np.full((3, 3), 1 / 3)
EDGE = np.array([[1.0, 0, -1], [1, 0, -1], [1, 0, -1]]) / np.sqrt(6)
LAPLACE = 9 * IDENTITY - 1.0
GAUSS = np.outer([1.0, 2, 1], [1, 2, 1]) / 6


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        (IDENTITY, "identity"),
        (BLUR, "blur"),
        (EDGE, "edge"),
        (-BLUR, "blur"),
        (GAUSS, "blur"),
        (EDGE.T, "edge"),
        (LAPLACE, "edge"),
        (LAPLACE + 3 * IDENTITY, "edge"),
        (LAPLACE + 20 * IDENTITY, "identity"),
    ],
)
def test_every_pattern_has_its_kind(kernel: NDArray[np.float64], kind: str) -> None:
    assert kind_of(kernel) == kind
    noise = np.random.default_rng(0).normal(scale=0.03, size=(3, 3))
    assert kind_of(kernel + noise * np.linalg.norm(kernel)) == kind


def test_shares_and_the_middle_tap_are_counted() -> None:
    found = describe("blocks.0", 0, np.stack([IDENTITY, IDENTITY * 5, BLUR, EDGE]))
    assert found.kinds == {"identity": 0.5, "blur": 0.25, "edge": 0.25}
    assert found.middle_share == pytest.approx((1 + 1 + 1 / 9 + 0) / 4)


def test_principal_components_span_what_was_planted() -> None:
    weights = np.random.default_rng(0).normal(size=(200, 2))
    kernels = weights[:, :1, None] * IDENTITY + weights[:, 1:, None] * EDGE
    found = describe("blocks.0", 0, kernels)
    assert found.explained_T[:2].sum() == pytest.approx(1)
    assert (found.explained_T[2:] < 1e-12).all()
    for pattern in (IDENTITY, EDGE):
        held = sum((component * pattern).sum() ** 2 for component in found.components_TYX[:2])
        assert held == pytest.approx(1)


def test_spectra_of_identity_and_box() -> None:
    identity, box = (describe("blocks.0", 0, one[None]).spectrum_FF for one in (IDENTITY, BLUR * 3 / 9))
    assert identity == pytest.approx(np.ones((16, 16)))
    assert box[8, 8] == pytest.approx(1), "frequency 0 is in the middle"
    assert box[0, 0] == pytest.approx(1 / 9), "pi along both axes"


def test_kernels_of_a_model_are_those_of_its_convolutions() -> None:
    model = tiny("localvit_tiny_patch16_224")
    weight = model.blocks[1].mlp.locality.depthwise.conv.weight
    with torch.no_grad():
        weight.copy_(torch.from_numpy(BLUR).expand_as(weight))
    found = depthwise_kernels(model)
    assert [one.index for one in found.found] == [0, 1]
    assert found.found[1].kernels_EYX.shape == (64, 3, 3)
    assert found.found[1].kinds["blur"] == 1
    assert found.series()["middle tap"][1] == pytest.approx(1 / 9)


def test_kernels_that_are_still_zero_have_no_middle_tap() -> None:
    found = describe("blocks.0", 0, np.zeros((4, 3, 3)))
    assert np.isnan(found.middle_share)
    assert not found.explained_T.any()


def test_models_without_depthwise_kernels_say_so() -> None:
    with pytest.raises(NotMeasurableError, match="no depth-wise convolution"):
        depthwise_kernels(tiny("deit_tiny_patch16_224"))
