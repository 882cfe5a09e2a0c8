"""What training does to images, against NumPy and Pillow.

Shape suffixes: B images of a batch, C channels, H height, W width, K classes.
"""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from localvit.data.augmentation import BatchAugmentation, training_transform
from localvit.data.config import NO_AUGMENTATION, AugmentationConfig, InputConfig

COLOUR = InputConfig((8, 8), 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
GREY = InputConfig((8, 8), 1, (0.3,), (0.37,))
K = 5


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def noise(height: int, width: int, channels: int = 3) -> Image.Image:
    pixels_HWC = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels_HWC if channels == 3 else pixels_HWC[..., 0])


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    values = np.asarray(image)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


@pytest.mark.parametrize("shown", [COLOUR, GREY, replace(COLOUR, image_size=(6, 10))])
@pytest.mark.parametrize("augmentation", [AugmentationConfig(), AugmentationConfig(policy=None), NO_AUGMENTATION])
def test_every_image_becomes_bytes_of_the_size_the_model_wants(
    shown: InputConfig, augmentation: AugmentationConfig
) -> None:
    transform = training_transform(shown, augmentation)
    for number in range(60):  # among them all that the policy draws from
        seed(number)
        image_CHW = transform(noise(13, 9 + number % 7, shown.channels))
        assert image_CHW.dtype == torch.uint8
        assert image_CHW.shape == (shown.channels, *shown.image_size)


@pytest.mark.parametrize("shown", [COLOUR, GREY])
def test_with_everything_off_an_image_keeps_its_pixels(shown: InputConfig) -> None:
    image = noise(8, 8, shown.channels)
    assert np.array_equal(training_transform(shown, NO_AUGMENTATION)(image).numpy(), pixels(image))


@pytest.mark.parametrize(
    ("name", "resampling"),
    [
        ("bicubic", Image.Resampling.BICUBIC),
        ("bilinear", Image.Resampling.BILINEAR),
        ("nearest", Image.Resampling.NEAREST),
    ],
)
def test_with_everything_off_an_image_is_resized_as_pillow_does_and_nothing_else(
    name: str, resampling: Image.Resampling
) -> None:
    shown = InputConfig((8, 8), interpolation=name)  # type: ignore[arg-type]  # one of its literals
    image = noise(20, 20)
    assert np.array_equal(
        training_transform(shown, NO_AUGMENTATION)(image).numpy(), pixels(image.resize((8, 8), resampling))
    )


@pytest.mark.parametrize("change", [{"policy": "rand-m9-mstd0.5-inc1"}, {"color_jitter": 0.4}, {"horizontal_flip": 1}])
def test_each_step_of_the_recipe_changes_the_image_where_it_is_on(change: dict[str, float]) -> None:
    image = noise(8, 8)
    augmentation = replace(NO_AUGMENTATION, **change)  # type: ignore[arg-type]  # fields of it
    changed = 0
    for number in range(10):
        seed(number)
        changed += not np.array_equal(training_transform(COLOUR, augmentation)(image).numpy(), pixels(image))
    assert changed >= 8  # operations of the policy may do nothing


def test_mirroring_turns_left_and_right() -> None:
    image = noise(8, 8)
    flipped = training_transform(COLOUR, replace(NO_AUGMENTATION, horizontal_flip=1.0))(image)
    assert np.array_equal(flipped.numpy(), pixels(image)[:, :, ::-1])


def test_a_policy_takes_the_place_of_colour_jitter() -> None:
    with_jitter = training_transform(COLOUR, replace(NO_AUGMENTATION, policy="rand-m9-mstd0.5-inc1", color_jitter=0.4))
    without = training_transform(COLOUR, replace(NO_AUGMENTATION, policy="rand-m9-mstd0.5-inc1"))
    for number in range(10):
        seed(number)
        expected = without(noise(8, 8))
        seed(number)
        assert torch.equal(with_jitter(noise(8, 8)), expected)


def test_padded_crops_are_windows_of_the_image_with_a_black_border() -> None:
    image = noise(8, 8)
    padded_CHW = np.pad(pixels(image), ((0, 0), (2, 2), (2, 2)))
    windows = {
        (top, left): padded_CHW[:, top : top + 8, left : left + 8].tobytes() for top in range(5) for left in range(5)
    }
    transform = training_transform(COLOUR, replace(NO_AUGMENTATION, crop_padding=2, crop_scale=(0.08, 0.1)))
    seen = set()
    for number in range(400):
        seed(number)
        crop = transform(image).numpy().tobytes()
        places = [place for place, window in windows.items() if window == crop]
        assert len(places) == 1, number
        seen.add(places[0])
    assert seen == set(windows)  # all 25 places


def test_padded_crops_of_a_larger_image_are_resized_first() -> None:
    image = noise(24, 24)
    transform = training_transform(COLOUR, replace(NO_AUGMENTATION, crop_padding=1))
    padded_CHW = np.pad(pixels(image.resize((8, 8), Image.Resampling.BICUBIC)), ((0, 0), (1, 1), (1, 1)))
    windows = [padded_CHW[:, top : top + 8, left : left + 8].tobytes() for top in range(3) for left in range(3)]
    for number in range(20):
        seed(number)
        assert transform(image).numpy().tobytes() in windows


def test_crops_keep_between_the_smallest_and_the_largest_share() -> None:
    # A ramp from left to right: its range in the crop says how wide the crop was.
    ramp_HWC = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 200, axis=0).repeat(3, axis=2)
    transform = training_transform(COLOUR, replace(NO_AUGMENTATION, crop_scale=(0.25, 0.36)))
    widths = []
    for number in range(100):
        seed(number)
        row = transform(Image.fromarray(ramp_HWC))[0, 4].double()
        widths.append(float((row[-1] - row[0]) / 7 * 8))
    assert min(widths) > 0.5 * 200 * 0.9  # square roots of the shares, and what bicubic edges cost
    assert max(widths) < 0.6 * 200 * 1.1
    assert max(widths) - min(widths) > 10


def batch(size: int = 6, channels: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels_BCHW = torch.randint(0, 256, (size, channels, 8, 8), dtype=torch.uint8, generator=generator)
    return pixels_BCHW, torch.arange(size) % K


def normalised(pixels_BCHW: Tensor, shown: InputConfig) -> NDArray[np.float64]:
    mean, std = (np.array(values)[:, None, None] for values in (shown.mean, shown.std))
    result: NDArray[np.float64] = (pixels_BCHW.numpy().astype(np.float64) / 255 - mean) / std
    return result


@pytest.mark.parametrize("shown", [COLOUR, GREY])
def test_without_erasing_and_mixing_a_batch_is_normalised_and_keeps_its_labels(shown: InputConfig) -> None:
    pixels_BCHW, labels_B = batch(channels=shown.channels)
    augment = BatchAugmentation(shown, NO_AUGMENTATION, num_classes=K, label_smoothing=0.1)
    images_BCHW, targets = augment(pixels_BCHW, labels_B)
    assert images_BCHW.dtype == torch.float32
    np.testing.assert_allclose(images_BCHW.numpy(), normalised(pixels_BCHW, shown), rtol=0, atol=2e-6)
    assert torch.equal(targets, labels_B)


def test_the_weights_of_the_augmentation_are_no_part_of_a_checkpoint() -> None:
    assert not BatchAugmentation(COLOUR, AugmentationConfig(), num_classes=K, label_smoothing=0.1).state_dict()


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_erasing_replaces_one_rectangle_of_each_image_and_nothing_else(mode: str) -> None:
    pixels_BCHW, labels_B = batch(40)
    augmentation = replace(NO_AUGMENTATION, random_erasing=1.0, erasing_mode=mode)  # type: ignore[arg-type]  # one of its literals
    seed(0)
    images_BCHW, _ = BatchAugmentation(COLOUR, augmentation, num_classes=K, label_smoothing=0.1)(pixels_BCHW, labels_B)
    expected_BCHW = normalised(pixels_BCHW, COLOUR)
    for image_CHW, whole_CHW in zip(images_BCHW.numpy(), expected_BCHW, strict=True):
        erased_HW = (np.abs(image_CHW - whole_CHW) > 1e-5).any(axis=0)
        rows, columns = np.flatnonzero(erased_HW.any(axis=1)), np.flatnonzero(erased_HW.any(axis=0))
        if not len(rows):
            continue  # an area below half a pixel
        window = image_CHW[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert erased_HW.sum() == window[0].size <= 64 / 3 * 1.5
        if mode == "const":
            assert (window == 0).all()  # the mean, after normalisation
        elif mode == "rand":
            assert (window == window[:, :1, :1]).all()
        elif window[0].size > 1:
            assert len(np.unique(window)) == window.size
    assert np.mean([np.abs(a - b).max() > 1e-5 for a, b in zip(images_BCHW.numpy(), expected_BCHW, strict=True)]) > 0.9


def test_a_quarter_of_the_images_is_erased_where_the_recipe_says_a_quarter() -> None:
    pixels_BCHW, labels_B = batch(2000)
    augment = BatchAugmentation(
        COLOUR, replace(NO_AUGMENTATION, random_erasing=0.25), num_classes=K, label_smoothing=0.1
    )
    seed(0)
    images_BCHW = augment(pixels_BCHW, labels_B)[0].numpy()
    share = (np.abs(images_BCHW - normalised(pixels_BCHW, COLOUR)).reshape(2000, -1).max(axis=1) > 1e-5).mean()
    assert 0.2 < share < 0.3  # 5 standard deviations of a binomial


def mixed(augmentation: AugmentationConfig, number: int, smoothing: float) -> tuple[NDArray[np.float64], Tensor]:
    """Images of constant brightness, mixed: the share of each partner in each pixel (B, H, W), and the targets.

    Image b is b / 10 all over; it is mixed with image 9 - b, so a pixel x says the share (x - b) / (9 - 2b).
    """
    shown = InputConfig((8, 8), 1, (0.0,), (1.0,))
    pixels_BCHW = torch.arange(10, dtype=torch.uint8).mul(25).view(10, 1, 1, 1).expand(10, 1, 8, 8)
    augment = BatchAugmentation(shown, augmentation, num_classes=K, label_smoothing=smoothing)
    seed(number)
    images_BCHW, targets_BK = augment(pixels_BCHW, torch.arange(10) % K)
    own = np.arange(10)[:, None, None]
    share_BHW = (images_BCHW[:, 0].double().numpy() * 255 / 25 - own) / (9 - 2 * own)
    return share_BHW, targets_BK


def expected_targets(share: float, smoothing: float) -> NDArray[np.float64]:
    """(1 - share) y_b + share y_(9 - b), each y smoothed: 1 - s + s / K for its class, s / K for the others."""
    smooth_BK = np.full((10, K), smoothing / K)
    smooth_BK[np.arange(10), np.arange(10) % K] += 1 - smoothing
    result: NDArray[np.float64] = (1 - share) * smooth_BK + share * smooth_BK[::-1]
    return result


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("number", range(5))
def test_mixup_weights_targets_as_it_weights_pixels(number: int, smoothing: float) -> None:
    share_BHW, targets_BK = mixed(replace(NO_AUGMENTATION, mixup=0.8), number, smoothing)
    share = float(share_BHW.mean())
    assert 0 < share < 1
    np.testing.assert_allclose(share_BHW, share, atol=1e-5)
    np.testing.assert_allclose(targets_BK.numpy(), expected_targets(share, smoothing), atol=1e-5)
    np.testing.assert_allclose(targets_BK.sum(dim=1).numpy(), 1, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("number", range(5))
def test_cutmix_weights_targets_as_the_area_of_the_patch(number: int, smoothing: float) -> None:
    share_BHW, targets_BK = mixed(replace(NO_AUGMENTATION, cutmix=1.0), number, smoothing)
    patch_HW = share_BHW[0] > 0.5
    np.testing.assert_allclose(share_BHW, np.broadcast_to(patch_HW, share_BHW.shape), atol=1e-5)  # all or nothing
    rows, columns = patch_HW.any(axis=1).sum(), patch_HW.any(axis=0).sum()
    assert patch_HW.sum() == rows * columns  # a rectangle
    np.testing.assert_allclose(targets_BK.numpy(), expected_targets(float(patch_HW.mean()), smoothing), atol=1e-5)


def test_both_kinds_of_mixing_come_as_often_as_the_recipe_says() -> None:
    kinds = {"none": 0, "mixup": 0, "cutmix": 0}
    augmentation = replace(NO_AUGMENTATION, mixup=0.8, cutmix=1.0, mix_probability=0.8, mix_switch_probability=0.25)
    for number in range(1000):
        share_BHW, _ = mixed(augmentation, number, 0.0)
        parts = np.unique(np.round(share_BHW, 4))
        fractional = (parts > 0) & (parts < 1)
        kinds["mixup" if fractional.any() else "cutmix" if (parts == 1).any() else "none"] += 1
    # Patches and shares may come out as nothing, so there is a little less of both than drawn.
    assert 0.20 * 0.8 < kinds["none"] / 1000 < 0.20 + 0.07
    assert 0.60 - 0.07 < kinds["mixup"] / 1000 < 0.60 + 0.05
    assert 0.20 - 0.07 < kinds["cutmix"] / 1000 < 0.20 + 0.05


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_published_policy_works_on_every_image(mode: str) -> None:
    """Timm asks Pillow for a posterization to 0 bits now and then, which some versions refuse."""
    shown = InputConfig((16, 16)) if mode == "RGB" else InputConfig((16, 16), 1, (0.3,), (0.3,))
    transform = training_transform(shown, AugmentationConfig())
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)).convert(mode)
    random.seed(0)
    np.random.seed(0)
    for _ in range(600):
        assert transform(image).shape == (shown.channels, 16, 16)
