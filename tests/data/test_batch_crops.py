"""Crops of whole batches, against timm, torchvision and Pillow on one image at a time.

Shape suffixes: B images of a batch, C channels, H height, W width, U uniform numbers.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as torchvision_functional

from localvit.data.batch_crops import BatchCrops, Windows, draw_windows, resize_windows, uniforms
from localvit.data.config import NO_AUGMENTATION, AugmentationConfig, InputConfig

INTERPOLATIONS = ("bicubic", "bilinear", "nearest")


def noise(count: int, height: int, width: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def as_image(pixels_CHW: Tensor) -> Image.Image:
    return Image.fromarray(pixels_CHW.permute(1, 2, 0).numpy() if len(pixels_CHW) == 3 else pixels_CHW[0].numpy())


def as_pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).view(image.height, image.width, -1).permute(2, 0, 1)


def on_edge(length: int, side: int) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Whether the center of each of ``side`` pixels lies between two of the ``length`` pixels that it covers."""
    centers = (np.arange(side) + 0.5) * length / side
    return np.isclose(centers, np.rint(centers), atol=1e-6)


def seeds(count: int, start: int = 0) -> np.ndarray:
    return np.random.default_rng(start).integers(2**32, size=count)


@settings(max_examples=150, deadline=None)
@given(
    interpolation=st.sampled_from(INTERPOLATIONS),
    full=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    channels=st.sampled_from([1, 3]),
    data=st.data(),
)
def test_a_window_is_resized_as_by_torchvision_on_pillow(
    interpolation: str, full: tuple[int, int], size: tuple[int, int], channels: int, data: st.DataObject
) -> None:
    windows = []
    for _ in range(3):
        height, width = (data.draw(st.integers(1, side)) for side in full)
        windows.append(
            (data.draw(st.integers(0, full[0] - height)), data.draw(st.integers(0, full[1] - width)), height, width)
        )
    pixels_BCHW = noise(3, *full, channels)
    gray = InputConfig(size, 1, (0.5,), (0.5,))
    shown = replace(InputConfig(size) if channels == 3 else gray, interpolation=interpolation)  # type: ignore[arg-type]
    flip_B = np.array([False, True, False])
    found_BCHW = resize_windows(pixels_BCHW, Windows(*np.array(windows).T), shown, flip_B)
    for pixels_CHW, window, flip, found_CHW in zip(pixels_BCHW, windows, flip_B, found_BCHW, strict=True):
        mode = InterpolationMode(interpolation)
        expected = torchvision_functional.resized_crop(as_image(pixels_CHW), *window, list(size), mode)
        expected_CHW = as_pixels(torchvision_functional.hflip(expected) if flip else expected).int()
        off_CHW = (found_CHW.int() - expected_CHW).abs()
        if interpolation == "nearest":
            # On the edge between two pixels, Pillow's sum of steps may round to either.
            rows_H, columns_W = (on_edge(length, side) for length, side in zip(window[2:], size, strict=True))
            certain_HW = ~(rows_H[:, None] | (columns_W[::-1] if flip else columns_W))
            assert not off_CHW[:, torch.from_numpy(certain_HW)].any()
        else:
            # Pillow's weights are integers, so either of the two passes may round a tie the other way.
            assert off_CHW.max() <= 2


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("window", [(3, 5, 21, 17), (0, 0, 32, 32), (10, 2, 11, 29)])
def test_few_pixels_of_an_ordinary_crop_are_rounded_otherwise(
    interpolation: str, window: tuple[int, int, int, int]
) -> None:
    pixels_BCHW = noise(8, 32, 32)
    shown = InputConfig((32, 32), interpolation=interpolation)  # type: ignore[arg-type]
    windows = Windows(*np.tile(window, (8, 1)).T)
    found_BCHW = resize_windows(pixels_BCHW, windows, shown, np.zeros(8, dtype=bool))
    mode = InterpolationMode(interpolation)
    expected_BCHW = torch.stack(
        [
            as_pixels(torchvision_functional.resized_crop(as_image(pixels_CHW), *window, [32, 32], mode))
            for pixels_CHW in pixels_BCHW
        ]
    )
    assert (found_BCHW.int() - expected_BCHW.int()).abs().float().mean() < 0.05


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", [(8, 8), (32, 32)])
def test_a_whole_image_of_the_image_size_keeps_its_pixels(interpolation: str, size: tuple[int, int]) -> None:
    pixels_BCHW = noise(4, *size)
    crops = BatchCrops(InputConfig(size, interpolation=interpolation), NO_AUGMENTATION)  # type: ignore[arg-type]
    assert torch.equal(crops(pixels_BCHW, seeds(4)), pixels_BCHW)


@pytest.mark.parametrize(
    ("scale", "ratio", "size"),
    [
        ((0.8, 1.0), (0.9, 1.1), (8, 8)),
        ((0.08, 1.0), (3 / 4, 4 / 3), (32, 32)),
        ((0.5, 1.0), (0.5, 2.0), (20, 33)),
        ((0.9, 1.0), (2.0, 3.0), (32, 32)),  # hardly any try fits
        ((0.9, 1.0), (0.2, 0.3), (16, 32)),
    ],
)
def test_windows_are_distributed_as_timm_s(
    scale: tuple[float, float], ratio: tuple[float, float], size: tuple[int, int]
) -> None:
    count = 6000
    augmentation = AugmentationConfig(crop_scale=scale, crop_ratio=ratio)
    found = np.stack(draw_windows(uniforms(seeds(count), 22), size, augmentation), axis=1)
    image = Image.new("L", size[::-1])
    timm_4 = [RandomResizedCropAndInterpolation.get_params(image, scale, ratio) for _ in range(count)]
    expected = np.array(timm_4)
    for column in range(4):
        assert stats.ks_2samp(found[:, column], expected[:, column]).pvalue > 1e-4
    for pair in ((0, 2), (1, 3), (2, 3)):  # positions depend on sizes, heights on widths
        product, expected_product = (values[:, pair[0]] * values[:, pair[1]] for values in (found, expected))
        assert stats.ks_2samp(product, expected_product).pvalue > 1e-4
    assert (found[:, 0] >= 0).all()
    assert (found[:, 0] + found[:, 2] <= size[0]).all()
    assert (found[:, 1] + found[:, 3] <= size[1]).all()


def test_padded_crops_are_windows_of_the_image_with_a_black_border_each_as_often() -> None:
    pixels_CHW = noise(1, 8, 8)[0]
    padded_CHW = np.pad(pixels_CHW.numpy(), ((0, 0), (2, 2), (2, 2)))
    windows = {
        padded_CHW[:, top : top + 8, left : left + 8].tobytes(): (top, left) for top in range(5) for left in range(5)
    }
    augmentation = replace(NO_AUGMENTATION, crop_padding=2)
    crops_BCHW = BatchCrops(InputConfig((8, 8)), augmentation)(pixels_CHW.expand(5000, -1, -1, -1), seeds(5000))
    counts = Counter(windows[crop_CHW.numpy().tobytes()] for crop_CHW in crops_BCHW)
    assert len(counts) == 25
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_images_are_flipped_as_often_as_the_recipe_says(padding: int, probability: float) -> None:
    pixels_BCHW = noise(1, 8, 8).expand(3000, -1, -1, -1)
    plain = replace(NO_AUGMENTATION, crop_padding=padding)
    shown = InputConfig((8, 8))
    straight_BCHW = BatchCrops(shown, plain)(pixels_BCHW, seeds(3000))
    found_BCHW = BatchCrops(shown, replace(plain, horizontal_flip=probability))(pixels_BCHW, seeds(3000))
    flipped_B = (found_BCHW == straight_BCHW.flip(-1)).flatten(1).all(dim=1)
    kept_B = (found_BCHW == straight_BCHW).flatten(1).all(dim=1)
    assert (flipped_B ^ kept_B).all()
    assert stats.binomtest(int(flipped_B.sum()), 3000, probability).pvalue > 1e-4


@pytest.mark.parametrize("augmentation", [AugmentationConfig(), AugmentationConfig(crop_padding=3)])
def test_a_seed_decides_its_image_whatever_else_is_in_the_batch(augmentation: AugmentationConfig) -> None:
    pixels_BCHW, crops = noise(12, 9, 9), BatchCrops(InputConfig((9, 9)), augmentation)
    torch.manual_seed(0)
    whole_BCHW = crops(pixels_BCHW, seeds(12))
    state = torch.get_rng_state()
    order_B = np.random.default_rng(1).permutation(12)
    torch.manual_seed(1)
    assert torch.equal(crops(pixels_BCHW[order_B], seeds(12)[order_B]), whole_BCHW[order_B])
    for index in range(12):
        alone = slice(index, index + 1)
        assert torch.equal(crops(pixels_BCHW[alone], seeds(12)[alone]), whole_BCHW[alone])
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn from the shared generator


def test_uniform_numbers_are_uniform_and_independent_of_each_other_and_of_their_seeds() -> None:
    for of_seeds in (np.arange(4000), seeds(4000), np.arange(4000) + 2**32 - 4000):
        drawn_BU = uniforms(of_seeds, 23)
        assert drawn_BU.shape == (4000, 23)
        assert drawn_BU.min() >= 0
        assert drawn_BU.max() < 1
        assert min(stats.kstest(drawn_BU[:, place], "uniform").pvalue for place in range(23)) > 1e-5
        together = np.corrcoef(np.vstack([drawn_BU.T, of_seeds[None]]))
        assert np.abs(together - np.eye(24)).max() < 6 / np.sqrt(4000)
        in_a_row = stats.pearsonr(drawn_BU[:-1, 0], drawn_BU[1:, 0]).statistic
        assert abs(in_a_row) < 5 / np.sqrt(4000)
    assert np.array_equal(uniforms(seeds(5), 30)[:, :23], uniforms(seeds(5), 23))
