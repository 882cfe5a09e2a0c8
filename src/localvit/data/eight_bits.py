"""Decoded images of any mode as RGB or grayscale of 8 bits, band by band, so that a huge image is never held twice.

Shape suffix: H x W pixels.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Box = tuple[int, int, int, int]

# Ordinary photos are a single band, which is not copied. In float64, a band of a larger image takes 32 MB.
_ORDINARY_PIXELS = 25_000_000
_BAND_PIXELS = 4_000_000


def in_8_bits(image: Image.Image, box: Box, factor: int) -> Image.Image:
    """A part of an image in mode L or RGB, reduced by an integer factor, with transparency on white.

    Grayscale of 16-bit integers is scaled from 0..65535 to 0..255, and floating point from 0..1 or 0..255. Values
    outside those ranges are scaled from the minimum and maximum of the whole image.

    Args:
        image: a decoded image of any mode.
        box: left, upper, right and lower edge of the part.
        factor: its sides are divided by this and rounded up.
    """
    left, top, right, bottom = box
    extremes = _extremes(image) if _is_deep(image) else None
    result = None
    for start, band in _bands(image, box, factor):
        converted = _to_8_bits(band) if extremes is None else _scale(band, *extremes)
        reduced = converted.reduce(factor) if factor > 1 else converted
        shown = _on_white(reduced) if reduced.mode == "RGBA" else reduced
        if shown.size == (-(-(right - left) // factor), -(-(bottom - top) // factor)):
            return shown
        if result is None:
            result = Image.new(shown.mode, (shown.width, -(-(bottom - top) // factor)))
        result.paste(shown, (0, (start - top) // factor))
    assert result is not None
    return result


def _bands(image: Image.Image, box: Box, factor: int) -> Iterator[tuple[int, Image.Image]]:
    """The upper edge of each band and its pixels; the heights of all but the last are multiples of the factor."""
    left, top, right, bottom = box
    if image.width * image.height <= _ORDINARY_PIXELS:
        rows = bottom - top
    else:
        rows = factor * max(1, _BAND_PIXELS // (factor * (right - left)))
    for start in range(top, bottom, rows):
        band = (left, start, right, min(start + rows, bottom))
        yield start, image if band == (0, 0, *image.size) else image.crop(band)


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _to_8_bits(image: Image.Image) -> Image.Image:
    """The same pixels in mode L, RGB or, with transparency, RGBA."""
    if image.has_transparency_data:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _extremes(image: Image.Image) -> tuple[float, float]:
    """Minimum and maximum of the finite values of an image."""
    bands = (_values(band) for _, band in _bands(image, (0, 0, *image.size), 1))
    extremes = [(float(values_HW.min()), float(values_HW.max())) for values_HW in bands]
    return min(smallest for smallest, _ in extremes), max(largest for _, largest in extremes)


def _values(image: Image.Image) -> NDArray[Any]:
    values_HW = np.asarray(image)
    return np.nan_to_num(values_HW, posinf=0, neginf=0) if image.mode == "F" else values_HW


def _scale(image: Image.Image, smallest: float, largest: float) -> Image.Image:
    """Grayscale of 16-bit or 32-bit integers or floating point as L, by the extremes of the whole image."""
    values_HW = _values(image)
    whites = (1, 255) if image.mode == "F" else (65535,)
    white = next((white for white in whites if smallest >= 0 and largest <= white), None)
    if white is not None:
        gray_HW = np.rint(np.multiply(values_HW, 255 / white, dtype=np.float32))
    else:
        gray_HW = np.rint((values_HW.astype(np.float64) - smallest) * (255 / ((largest - smallest) or 1)))
    if isinstance(transparent := image.info.get("transparency"), int):
        gray_HW[values_HW == transparent] = 255
    return Image.fromarray(gray_HW.astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white
