"""The locality index against counted neighbors and known Jacobians."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from toy_models import MixingModel, OnMap, Zero, convolution, images, tiny

from localvit.analysis import locality_index
from localvit.analysis.measures.locality_index import neighbors
from localvit.locality.config import LocalityConfig
from localvit.locality.localize import localize

BOX = torch.ones(3, 3)
SHOWN = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0)).double()


def index(feed_forward: Any, attention: Any = None, **options: Any) -> Any:
    model = MixingModel((attention or Zero(), feed_forward)).double()
    return locality_index(model, SHOWN, **{"tokens": 36, **options})


def counted(grid: tuple[int, int], radius: int) -> list[int]:
    """Number of neighbors of every token, one by one."""
    places = list(itertools.product(range(grid[0]), range(grid[1])))
    return [sum(0 < max(abs(a[0] - b[0]), abs(a[1] - b[1])) <= radius for b in places) for a in places]


@pytest.mark.parametrize(("grid", "radius"), [((4, 4), 1), ((3, 5), 2), ((1, 6), 1)])
def test_neighbors_are_those_within_the_larger_distance(grid: tuple[int, int], radius: int) -> None:
    found = [neighbors(grid, token, radius) for token in range(grid[0] * grid[1])]
    assert [int(near.sum()) for near, _ in found] == counted(grid, radius)
    assert all(own.nonzero().item() == token and not near[token] for token, (near, own) in enumerate(found))


def test_a_network_of_1_x_1_kernels_has_none() -> None:
    found = index(OnMap(lambda x: 3 * x))
    assert found.feed_forward_L.tolist() == [0]
    assert found.within_feed_forward_L.tolist() == [0]


def test_everything_but_the_token_is_near_in_a_3_x_3_box() -> None:
    """Of the 9 taps, 8 are neighbors; tokens at the border have fewer, but no others."""
    found = index(convolution(BOX), tokens=500)
    near = np.array(counted((6, 6), 1))
    assert found.feed_forward_L[0] == pytest.approx(near.sum() / (near + 1).sum(), abs=0.005)
    assert found.attention_L[0] == 0


def test_a_dilated_kernel_has_no_near_neighbor() -> None:
    kernel = torch.zeros(5, 5)
    kernel[::4, ::4] = 1
    assert index(convolution(kernel)).index[0] == 0
    assert index(convolution(kernel), radius=2).index[0] == pytest.approx(1, abs=1e-9)


def test_a_mean_over_all_tokens_has_the_uniform_index() -> None:
    mean = OnMap(lambda x: x.mean(dim=(2, 3), keepdim=True).expand_as(x))
    found = index(Zero(), attention=mean)
    assert found.attention_L[0] == pytest.approx(found.uniform_L[0], rel=1e-9)
    assert found.uniform_L[0] == pytest.approx(np.mean(counted((6, 6), 1)) / 36, rel=0.1)


def test_the_index_is_the_sum_of_its_branches_in_proportion_to_their_size() -> None:
    """A box twice as strong as the mean: their derivatives add up to 9 * 2 and 1."""
    mean = OnMap(lambda x: x.mean(dim=(2, 3), keepdim=True).expand_as(x))
    token = 14  # not at the border
    model = MixingModel((mean, convolution(2 * BOX))).double()
    near, _ = neighbors((6, 6), token, 1)
    expected = (near.sum().item() / 36 / 19, 8 * 2 / 19)
    found = [
        locality_index(model, SHOWN, tokens=1, seed=seed)
        for seed in range(400)
        if torch.randint(36, (1,), generator=torch.Generator().manual_seed(seed)).item() == token
    ]
    assert len(found) >= 3
    for one in found:
        assert (one.attention_L[0], one.feed_forward_L[0]) == pytest.approx(expected, rel=1e-9)


def test_the_permuted_control_has_no_more_than_chance_and_the_convolution_much_more() -> None:
    found = {}
    for name, permuted in (("local", False), ("permuted", True)):
        model = tiny("deit_tiny_patch16_224", img_size=64)
        localize(model, LocalityConfig(permuted=permuted)).double().eval()
        shown = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double()
        found[name] = locality_index(model, shown, tokens=16)
    uniform = found["local"].uniform_L[0]
    assert found["local"].within_feed_forward_L.min() > 5 * uniform
    assert found["permuted"].within_feed_forward_L.max() < 2.5 * uniform


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "tnt_tiny_patch16_224"])
def test_baselines_get_nothing_from_their_feed_forward_networks(name: str) -> None:
    model = tiny(name)
    found = locality_index(model, images(model), tokens=2)
    assert found.feed_forward_L.tolist() == [0] * len(found.layers)
    assert (found.attention_L > 0).all()


def test_a_layer_that_adds_nothing_has_no_index() -> None:
    assert np.isnan(index(Zero()).index[0])
    assert index(Zero()).series()["index"] == [None]


@pytest.mark.parametrize("wrong", [{"radius": 0}, {"tokens": 0}])
def test_wrong_arguments_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        index(Zero(), **wrong)
