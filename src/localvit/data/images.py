"""Decodes the images people have into upright 8-bit ones, for training, evaluation and prediction alike."""

import errno
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageFile

from localvit.data.source import BrokenImageError

# Raster formats that their first bytes identify. Other formats of PIL are excluded: EPS starts Ghostscript, and some
# have no signature and accept any file.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF")

# Larger images are reduced if their shorter side stays at least this long: a random crop of 8 % of a square image is
# then still 290 pixels wide. Ordinary photos are unaffected.
LARGE_PIXELS = 25_000_000
SMALLEST_SHORTER_SIDE = 1024

# A transform that resizes the shorter side to 256 would turn each 1 x 20,000 image into 5 million pixels.
LONGEST_RATIO = 16

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(file: BinaryIO | Path, name: str, *, channels: int) -> Image.Image:
    """Decode an image of any common format as upright RGB or grayscale.

    Transparency is put on white. 16-bit grayscale is scaled from 0..65535 to 0..255, and floating point from 0..1 or
    0..255; values outside those ranges are scaled from their minimum and maximum. An animation gives its first frame.
    EXIF gives the orientation.

    An image of more than 25 million pixels is reduced by an integer factor, its shorter side to no less than 1024; JPEG
    is decoded at that size directly. An image with sides in a ratio above 16 is cropped to its middle, which contains
    every center crop. The limit is 179 million pixels, PIL's for decompression bombs.

    Args:
        file: a path, or a file open for reading and seeking.
        name: name of the image in errors.
        channels: 3 for RGB, 1 for grayscale.

    Raises:
        BrokenImageError: if the file cannot be decoded, with the reason. Nothing else is raised for any content.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}; it must be 3 for color or 1 for grayscale")
    with _broken_image_errors(name), _opened(file, name) as opened:
        image = _open(opened, name)
        if _is_large(image):
            image.draft(None, (SMALLEST_SHORTER_SIDE, SMALLEST_SHORTER_SIDE))
        image.load()
        orientation = _orientation(image)
        decoded = _cut(_reduce(_in_8_bits(image)))
        if decoded.mode == "RGBA":
            decoded = _on_white(decoded)
        if orientation in _UPRIGHT:
            decoded = decoded.transpose(_UPRIGHT[orientation])
        decoded = decoded.convert("RGB" if channels == 3 else "L")
        decoded.info.clear()  # palette, profile and rotation describe the file
        return decoded


@contextmanager
def _broken_image_errors(name: str) -> Iterator[None]:
    """Turn any error of a decoder, which hostile bytes can make anything, into a :class:`BrokenImageError`."""
    try:
        yield
    except BrokenImageError:
        raise
    except Exception as error:
        raise BrokenImageError(name, _reason(error)) from error


def _reason(error: Exception) -> str:
    """What is wrong with an image that could not be read."""
    text = str(error) or type(error).__name__
    match error:
        case FileNotFoundError():
            return "does not exist"
        case IsADirectoryError():
            return "is a folder, not an image"
        case PermissionError():
            return "cannot be read; its permissions forbid it"
        case MemoryError():
            return "needs more memory than is available"
        case OSError(errno=errno.EIO | errno.ENAMETOOLONG | errno.ENOTDIR | errno.ESTALE):
            return f"cannot be read: {text}"
        case EOFError():
            return "is truncated"
        case _ if "truncated" in text.lower():
            return "is truncated"
        case SyntaxError():  # PIL's error for malformed headers
            return "is damaged in its header"
    return f"is damaged: {text}"


@contextmanager
def _opened(file: BinaryIO | Path, name: str) -> Iterator[BinaryIO]:
    """The file, open. A file that was open before stays open."""
    if not isinstance(file, Path):
        yield file
    elif not (stat.S_ISREG(mode := file.stat().st_mode) or stat.S_ISDIR(mode)):
        raise BrokenImageError(name, "is neither a file nor a folder")  # reading a pipe would block forever
    else:
        with file.open("rb") as opened:
            yield opened


def _open(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    """The image in ``file``, not decoded yet.

    This calls PIL's plugins directly, because ``Image.open`` warns about images above half its limit, and a warning can
    only be silenced for all threads of the process.
    """
    Image.init()
    start = file.read(16)
    if not start:
        raise BrokenImageError(name, "is empty")
    for kind in FORMATS:
        create, accepts = Image.OPEN[kind]
        accepted = accepts is not None and accepts(start.ljust(16, b"\0"))
        if isinstance(accepted, str):
            raise BrokenImageError(name, f"is a {kind} image, which the installed Pillow cannot read: {accepted}")
        if accepted:
            file.seek(0)
            image = create(file, name)
            _require_not_too_large(image, name)
            return image
    raise BrokenImageError(name, f"is not an image, or none of {', '.join(FORMATS)}")


def _require_not_too_large(image: Image.Image, name: str) -> None:
    pixels = image.width * image.height
    if Image.MAX_IMAGE_PIXELS is not None and pixels > 2 * Image.MAX_IMAGE_PIXELS:
        raise BrokenImageError(
            name,
            f"has {pixels / 1e6:,.0f} megapixels ({image.width} x {image.height}); images of more than "
            f"{2 * Image.MAX_IMAGE_PIXELS / 1e6:,.0f} are not read, because they can exhaust the memory. Make it "
            "smaller",
        )


def _is_large(image: Image.Image) -> bool:
    return image.width * image.height > LARGE_PIXELS


def _orientation(image: Image.Image) -> int:
    """The orientation in EXIF; 1, upright, if there is none."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return 1  # the pixels are intact even if their EXIF is not
    return orientation if isinstance(orientation, int) else 1


def _in_8_bits(image: Image.Image) -> Image.Image:
    """The same pixels in mode L, RGB or, with transparency, RGBA."""
    if image.mode.startswith("I") or image.mode == "F":
        return _scale(image)
    if image.has_transparency_data:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _scale(image: Image.Image) -> Image.Image:
    """Grayscale of 16-bit or 32-bit integers or floating point as L."""
    values_HW = np.asarray(image)
    if image.mode == "F":
        values_HW = np.nan_to_num(values_HW, posinf=0, neginf=0)
    smallest, largest = float(values_HW.min()), float(values_HW.max())
    whites = (1, 255) if image.mode == "F" else (65535,)
    white = next((white for white in whites if smallest >= 0 and largest <= white), None)
    if white is not None:
        gray_HW = np.rint(np.multiply(values_HW, 255 / white, dtype=np.float32))
    else:
        gray_HW = np.rint((values_HW.astype(np.float64) - smallest) * (255 / ((largest - smallest) or 1)))
    if isinstance(transparent := image.info.get("transparency"), int):
        gray_HW[values_HW == transparent] = 255
    return Image.fromarray(gray_HW.astype(np.uint8))


def _reduce(image: Image.Image) -> Image.Image:
    """A large image, reduced by an integer factor."""
    factor = min(image.size) // SMALLEST_SHORTER_SIDE
    return image.reduce(factor) if _is_large(image) and factor > 1 else image


def _cut(image: Image.Image) -> Image.Image:
    """The middle of an image that is too long for its height, or too high for its width."""
    width, height = image.size
    longest = LONGEST_RATIO * min(width, height)
    left, top = (max(0, -(-(side - longest) // 2)) for side in (width, height))
    return image.crop((left, top, width - left, height - top)) if left or top else image


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def image_endings() -> frozenset[str]:
    """File extensions of the supported formats, such as ".jpg"."""
    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS)


def natural_key(text: str) -> tuple[list[str | int], str]:
    """A sort key that puts "img2" before "img10", as in timm; names that differ only in case keep a fixed order."""
    parts = re.split(r"(\d+)", text.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], text
