"""Random crops and flips of whole batches, drawn and computed as timm, torchvision and Pillow do it image by image.

Shape suffixes: B images, C channels, H x W pixels of a whole image, h x w pixels of a crop, U uniform numbers.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from localvit.data.config import AugmentationConfig, InputConfig

_TRIES = 10
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class Windows(NamedTuple):
    """The part of each image that its crop keeps, in pixels: four arrays (B,)."""

    top_B: Integers
    left_B: Integers
    height_B: Integers
    width_B: Integers


class BatchCrops:
    """The training transform of images in memory: random resized crop, or crop of the padded image; then flip.

    Everything that is drawn for an image follows from its seed alone, so batches may be composed in any way.

    Args:
        shown: gives image size and interpolation.
        augmentation: gives crops and flips.
    """

    def __init__(self, shown: InputConfig, augmentation: AugmentationConfig) -> None:
        self.shown, self.augmentation = shown, augmentation

    def __call__(self, pixels_BCHW: Tensor, seeds_B: Integers) -> Tensor:
        """Crop, resize and flip pixels (0 to 255, uint8)."""
        drawn_BU = uniforms(seeds_B, 2 * _TRIES + 3)
        flip_B = drawn_BU[:, 0] < self.augmentation.horizontal_flip
        if padding := self.augmentation.crop_padding:
            crops_BChw = _padded_crops(pixels_BCHW, padding, drawn_BU[:, 1:3])
            if flip_B.any():
                flipped_B = torch.from_numpy(np.flatnonzero(flip_B))
                crops_BChw[flipped_B] = crops_BChw[flipped_B].flip(-1)
            return crops_BChw
        _, _, height, width = pixels_BCHW.shape
        windows = draw_windows(drawn_BU[:, 1:], (height, width), self.augmentation)
        return resize_windows(pixels_BCHW, windows, self.shown, flip_B)


def uniforms(seeds_B: Integers, count: int) -> Floats:
    """Numbers (B, ``count``), uniform in [0, 1) and independent: a hash of each seed and the position of the number.

    The hash is SplitMix64 (Steele, Lea and Flood, 2014). Seeding a generator for every image takes longer than cropping
    a small one.
    """
    positions_U = np.arange(1, count + 1, dtype=np.uint64)
    state_BU = ((seeds_B.astype(np.uint64)[:, None] << np.uint64(32)) + positions_U).astype(np.uint64) * _GOLDEN
    state_BU = (state_BU ^ (state_BU >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state_BU = (state_BU ^ (state_BU >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state_BU = state_BU ^ (state_BU >> np.uint64(31))
    return np.asarray((state_BU >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def draw_windows(drawn_BU: Floats, size: tuple[int, int], augmentation: AugmentationConfig) -> Windows:
    """Windows as timm's ``RandomResizedCropAndInterpolation`` draws them: the first of ten tries that fits.

    Args:
        drawn_BU: 22 uniform numbers for each image.
        size: height and width of the images.
        augmentation: gives scale and ratio of the crops.
    """
    height, width = size
    (smallest, largest), (narrowest, widest) = augmentation.crop_scale, augmentation.crop_ratio
    area_BT = (smallest + (largest - smallest) * drawn_BU[:, :_TRIES]) * (height * width)
    log_ratio_BT = drawn_BU[:, _TRIES : 2 * _TRIES] * math.log(widest / narrowest) + math.log(narrowest)
    ratio_BT = np.exp(log_ratio_BT)
    width_BT = np.rint(np.sqrt(area_BT * ratio_BT)).astype(np.int64)
    height_BT = np.rint(np.sqrt(area_BT / ratio_BT)).astype(np.int64)
    fits_BT = (width_BT <= width) & (height_BT <= height)
    first_B = fits_BT.argmax(axis=1)
    image_B = np.arange(len(drawn_BU))
    width_B, height_B = width_BT[image_B, first_B], height_BT[image_B, first_B]
    top_B = (drawn_BU[:, -2] * (height - height_B + 1)).astype(np.int64)
    left_B = (drawn_BU[:, -1] * (width - width_B + 1)).astype(np.int64)
    if not (fits_B := fits_BT.any(axis=1)).all():
        # A center crop as large as the ratio allows.
        center_width = min(width, round(height * widest)) if width / height > widest else width
        center_height = min(height, round(width / narrowest)) if width / height < narrowest else height
        width_B[~fits_B], height_B[~fits_B] = center_width, center_height
        left_B[~fits_B], top_B[~fits_B] = (width - center_width) // 2, (height - center_height) // 2
    return Windows(top_B, left_B, height_B, width_B)


def resize_windows(pixels_BCHW: Tensor, windows: Windows, shown: InputConfig, flip_B: NDArray[np.bool_]) -> Tensor:
    """Resize the windows of a batch to the image size as Pillow does, each for itself, and flip some of them."""
    height, width = shown.image_size
    _, _, full_height, full_width = pixels_BCHW.shape
    if shown.interpolation == "nearest":
        rows_Bh = _nearest(windows.top_B, windows.height_B, height)
        columns_Bw = _nearest(windows.left_B, windows.width_B, width)
        columns_Bw[flip_B] = columns_Bw[flip_B, ::-1]
        rows_Bh1, columns_B1w = torch.from_numpy(rows_Bh)[:, :, None], torch.from_numpy(columns_Bw)[:, None, :]
        image_B11 = torch.arange(len(pixels_BCHW))[:, None, None]
        return pixels_BCHW.permute(0, 2, 3, 1)[image_B11, rows_Bh1, columns_B1w].permute(0, 3, 1, 2).contiguous()
    rows_BhH = _weights(windows.top_B, windows.height_B, full_height, height, shown.interpolation)
    columns_BwW = _weights(windows.left_B, windows.width_B, full_width, width, shown.interpolation)
    columns_BwW[flip_B] = columns_BwW[flip_B, ::-1]
    columns_B1Ww = torch.from_numpy(columns_BwW).transpose(1, 2)[:, None]
    rows_B1hH = torch.from_numpy(rows_BhH)[:, None]
    # Pillow rounds to whole numbers after each of its two passes.
    wide_BCHw = _round(pixels_BCHW.float() @ columns_B1Ww)
    return _round(rows_B1hH @ wide_BCHw).to(torch.uint8)


def _padded_crops(pixels_BChw: Tensor, padding: int, drawn_B2: Floats) -> Tensor:
    """Windows of the image size, anywhere in the images with a black border."""
    _, _, height, width = pixels_BChw.shape
    padded_BCHW = functional.pad(pixels_BChw, [padding] * 4)
    top_B, left_B = torch.from_numpy((drawn_B2 * (2 * padding + 1)).astype(np.int64)).T
    windows_BCHWhw = padded_BCHW.unfold(2, height, 1).unfold(3, width, 1)
    return windows_BCHWhw[torch.arange(len(padded_BCHW)), :, top_B, left_B]


def _round(values: Tensor) -> Tensor:
    return values.add_(0.5).floor_().clamp_(0, 255)


def _nearest(start_B: Integers, length_B: Integers, size: int) -> Integers:
    """Index of the pixel nearest to each of ``size`` pixels of the resized window."""
    within_Bn = (np.arange(size) + 0.5) * (length_B / size)[:, None]
    return start_B[:, None] + within_Bn.astype(np.int64)


def _weights(start_B: Integers, length_B: Integers, full: int, size: int, interpolation: str) -> NDArray[np.float32]:
    """How much each of ``full`` pixels weighs in each of ``size`` pixels of the resized window: (B, size, full).

    The filter widens with the reduction, so that every pixel counts (antialiasing), and ends at the window.
    """
    step_B11 = (length_B / size)[:, None, None]
    center_Bn1 = (np.arange(size)[:, None] + 0.5) * step_B11
    pixel_B1N = np.arange(full) - start_B[:, None, None]
    distance_BnN = np.abs(pixel_B1N + 0.5 - center_Bn1) / np.maximum(step_B11, 1)
    weights_BnN = _bicubic(distance_BnN) if interpolation == "bicubic" else np.maximum(1 - distance_BnN, 0)
    weights_BnN *= (pixel_B1N >= 0) & (pixel_B1N < length_B[:, None, None])
    weights_BnN /= weights_BnN.sum(axis=2, keepdims=True)
    return np.asarray(weights_BnN, dtype=np.float32)


def _bicubic(distance: Floats) -> Floats:
    """Keys' cubic kernel with a = -0.5, as in Pillow."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance < 1, near, np.where(distance < 2, far, 0))
