"""Effective receptive fields against convolved kernels, and the places of tokens in the image."""

import numpy as np
import pytest
import scipy.signal
import timm
import torch
from torch import Tensor, nn
from toy_models import MixingModel, OnMap, Zero, convolution, images, tiny

from localvit.analysis import NotMeasurableError, effective_receptive_field
from localvit.analysis.layers import LayerTokens, WatchedModel
from localvit.analysis.measures.receptive_field import gradient_map, half_radius
from localvit.analysis.positions import Spacing, SpacingWatch

BOX = torch.ones(3, 3) / 9


def boxes(count: int) -> MixingModel:
    """A stack of boxes without skip connections: each feed-forward branch takes its input away again."""
    return MixingModel(*((Zero(), convolution(BOX, skip=False)) for _ in range(count))).double()


@pytest.mark.parametrize("count", [1, 4])
def test_a_stack_of_boxes_has_the_field_of_their_product(count: int) -> None:
    found = effective_receptive_field(boxes(count), torch.randn(2, 1, 31, 31).double())
    expected_YX = np.ones((1, 1))
    for _ in range(count):
        expected_YX = scipy.signal.convolve2d(expected_YX, BOX.numpy())
    around = slice(15 - count, 16 + count)
    assert found.maps_LYX[-1][around, around] == pytest.approx(expected_YX, rel=1e-6)
    assert found.maps_LYX[-1].sum() == pytest.approx(1)
    assert found.centres_L2[-1].tolist() == [15.5, 15.5]


def test_a_stack_of_12_boxes_has_the_variance_of_the_closed_form() -> None:
    map_YX = effective_receptive_field(boxes(12), torch.randn(1, 1, 31, 31).double()).maps_LYX[-1]
    places = np.arange(31) - 15
    for axis in (0, 1):
        assert (map_YX.sum(axis=axis) * places**2).sum() == pytest.approx(12 * (3**2 - 1) / 12, rel=1e-6)
    assert np.sqrt(8) == pytest.approx(2.83, abs=0.002)


def test_the_field_of_one_convolution_ends_at_its_kernel() -> None:
    found = effective_receptive_field(boxes(1), torch.randn(1, 2, 9, 9).double())
    assert np.count_nonzero(found.maps_LYX[0]) == 9
    assert 0 < found.radius_L[0] < np.sqrt(2)


def test_attention_alone_reaches_every_pixel() -> None:
    model = tiny("deit_tiny_patch16_224", depth=1)
    model.blocks[0].mlp = Zero()
    shown = images(model, 1)
    assert np.count_nonzero(effective_receptive_field(model, shown).maps_LYX[0]) == 32 * 32
    model.blocks[0].attn = Zero()
    own = effective_receptive_field(model, shown)
    assert np.count_nonzero(own.maps_LYX[0]) == 8 * 8, "without attention, a token sees its own patch"
    assert own.centres_L2[0].tolist() == [20, 20]
    assert own.radius_L[0] < 4


def test_random_signs_estimate_the_norm_over_all_features() -> None:
    generator = torch.Generator().manual_seed(0)
    weight_DP = torch.randn(6, 3 * 4, generator=generator).double()
    image = torch.randn(1, 3, 2, 2, generator=generator).double().requires_grad_()
    found_BYX = gradient_map((weight_DP @ image.flatten())[None], image, 4000, generator)
    expected_P = weight_DP.unflatten(1, (3, 4)).norm(dim=(0, 1))
    assert found_BYX.flatten().numpy() == pytest.approx(expected_P.numpy(), rel=0.05)


def test_the_middle_of_a_rectangle_is_in_the_middle_of_both_sides() -> None:
    found = effective_receptive_field(boxes(1), torch.randn(1, 1, 7, 15).double())
    rows, columns = np.nonzero(found.maps_LYX[0])
    assert (rows.mean() + 0.5, columns.mean() + 0.5) == tuple(found.centres_L2[0]) == (3.5, 7.5)


def test_half_radius_of_a_uniform_disc_is_the_root_of_a_half() -> None:
    rows = np.arange(401) + 0.5
    disc = np.hypot(rows[:, None] - 200.5, rows[None] - 200.5) <= 200
    assert half_radius(disc.astype(float), (200.5, 200.5)) == pytest.approx(200 * np.sqrt(0.5), rel=0.005)


@pytest.mark.parametrize(
    ("windows", "step", "start"),
    [
        ([(16, 16, 0)], 16, 8.0),  # patches
        ([(7, 4, 2), (3, 2, 1), (3, 2, 1)], 16, 1.5),  # the soft splits of T2T
        ([(7, 4, 3), (4, 4, 0)], 16, 6.5),  # the pixels of TNT, and their patches
    ],
)
def test_spacing_follows_windows(windows: list[tuple[int, int, int]], step: float, start: float) -> None:
    spacing = Spacing()
    for window in windows:
        spacing = spacing.after(*window)
    assert (spacing.step, spacing.start) == (step, start)


def test_merged_patches_lie_in_the_middle_of_what_they_merge() -> None:
    assert Spacing(4, 2.0).parted(8) == Spacing(8, 4.0)


@pytest.mark.parametrize(
    "name",
    [
        "deit_tiny_patch16_224",
        "localvit_pvt_tiny",
        "localvit_tnt_tiny_patch16_224",
        "localvit_t2t_7",
        "localvit_swin_tiny_patch4_window7_224",
    ],
)
def test_tokens_lie_where_the_stem_alone_puts_them(name: str) -> None:
    """With every branch silenced, the gradient of a token is centered at the place of the token."""
    model = tiny(name)
    for layer in WatchedModel(model).layers:
        block = model.get_submodule(layer.name)
        for branch in ("attn", "attn_in", "attn_out", "mlp", "mlp_in"):
            if hasattr(block, branch):
                setattr(block, branch, Zero())
    if name.endswith("t2t_7"):
        for performer in (model.tokens_to_token.attention1, model.tokens_to_token.attention2):
            performer.proj = Zero()
    found = effective_receptive_field(model, images(model, 1), projections=64)
    sides = [np.arange(side) + 0.5 for side in found.maps_LYX.shape[1:]]
    for map_YX, centre_2 in zip(found.maps_LYX, found.centres_L2, strict=True):
        reached = [axis[np.flatnonzero(map_YX.sum(axis=1 - place))] for place, axis in enumerate(sides)]
        middle = [(axis[0] + axis[-1]) / 2 for axis in reached]
        assert middle == pytest.approx(centre_2.tolist(), abs=1e-9)


def test_a_stem_with_branches_and_pooling_blocks_are_refused() -> None:
    class Stem(MixingModel):
        def __init__(self) -> None:
            super().__init__((Zero(), OnMap(lambda x: x)))
            self.one, self.other = nn.Conv2d(1, 1, 2, 2), nn.Conv2d(1, 1, 2, 2)

        def forward(self, images_BCHW: Tensor) -> Tensor:
            return super().forward(self.one(images_BCHW) + self.other(images_BCHW))

    with pytest.raises(NotMeasurableError, match="side by side"):
        effective_receptive_field(Stem(), torch.randn(1, 1, 8, 8))
    with pytest.raises(NotMeasurableError, match="inside of its blocks"):
        effective_receptive_field(timm.create_model("mvitv2_tiny"), torch.randn(1, 3, 224, 224))


@pytest.mark.parametrize(
    ("stem", "start"),
    [(nn.MaxPool2d(3, 2, 1), 0.5), (nn.AvgPool2d(2), 1.0), (nn.Conv2d(1, 1, 5, padding="same"), None)],
)
def test_pooling_moves_tokens_and_uneven_padding_is_refused(stem: nn.Module, start: float | None) -> None:
    class Pooled(MixingModel):
        def __init__(self) -> None:
            super().__init__((Zero(), OnMap(lambda x: x)))
            self.stem = stem

        def forward(self, images_BCHW: Tensor) -> Tensor:
            return super().forward(self.stem(images_BCHW))

    if start is None:
        with pytest.raises(NotMeasurableError, match="pads"):
            effective_receptive_field(Pooled(), torch.randn(1, 1, 8, 8))
        return
    found = effective_receptive_field(Pooled(), torch.randn(1, 1, 8, 8))
    assert found.centres_L2[0].tolist() == [start + 2 * 2] * 2


def test_spacing_is_that_of_the_image_that_was_shown() -> None:
    watched = WatchedModel(boxes(1))
    spacing = SpacingWatch(watched)
    places: list[tuple[Spacing, Spacing]] = []

    def on_layer(tokens: LayerTokens) -> None:
        places.append(spacing.at(tokens.grid))

    watched.visit(torch.randn(1, 1, 6, 10).double(), on_layer)
    assert places == [(Spacing(1, 0.5), Spacing(1, 0.5))]
