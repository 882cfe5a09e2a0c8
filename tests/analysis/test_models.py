"""Every measure of every model of the paper and of its baseline: finite numbers, or a sentence."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from toy_models import TINY, images, tiny

from localvit.analysis import (
    NotMeasurableError,
    attention_distance,
    depthwise_kernels,
    effective_receptive_field,
    frequency_amplitudes,
    linear_cka,
    locality_index,
    robustness,
    token_similarity,
)
from localvit.analysis.table import MEASURES
from localvit.models.catalog import PUBLISHED

TAKE: dict[str, Callable[[Any, Tensor], Any]] = {
    "locality-index": lambda model, shown: locality_index(model, shown[:1], tokens=1),
    "attention-distance": attention_distance,
    "receptive-field": lambda model, shown: effective_receptive_field(model, shown[:1], projections=1),
    "frequencies": frequency_amplitudes,
    "token-similarity": token_similarity,
    "alignment": lambda model, shown: linear_cka(model, model, shown),
    "kernels": depthwise_kernels,
    "robustness": robustness,
}


def values(result: Any) -> list[float]:
    """All numbers of a result; layers without one are left out."""
    return [value for found in result.series().values() for value in found if value is not None]


def check(name: str, measure: str, model: Any, shown: Tensor) -> None:
    if measure == "kernels" and not name.startswith("localvit"):
        with pytest.raises(NotMeasurableError):
            TAKE[measure](model, shown)
        return
    result = TAKE[measure](model, shown)
    found = values(result)
    assert found
    assert all(map(math.isfinite, found))
    if measure == "alignment":
        assert torch.from_numpy(result.cka_LK).diag().numpy() == pytest.approx(1)


def test_all_measures_and_models_are_tried() -> None:
    assert set(TAKE) == set(MEASURES)
    assert set(TINY) == {published.name for published in PUBLISHED}


@pytest.mark.parametrize("measure", list(TAKE))
@pytest.mark.parametrize("name", list(TINY))
def test_small_models_of_the_paper_run_every_measure(name: str, measure: str) -> None:
    model = tiny(name)
    check(name, measure, model, images(model, 4))


@pytest.mark.parametrize(
    "name", ["deit_tiny_patch16_224", "localvit_tiny_patch16_224", "localvit_swin_tiny_patch4_window7_224"]
)
def test_rectangular_images_are_measured_too(name: str) -> None:
    size = (64, 96) if "swin" in name else (16, 40)
    model = tiny(name, img_size=size)
    shown = torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(0)).double()
    for measure in TAKE:
        check(name, measure, model, shown)


@pytest.mark.slow
@pytest.mark.parametrize("name", [published.name for published in PUBLISHED])
def test_the_models_of_the_paper_run_every_measure(name: str) -> None:
    torch.manual_seed(0)
    model, shown = timm.create_model(name).eval(), torch.randn(4, 3, 224, 224)
    for measure in TAKE:
        check(name, measure, model, shown)
