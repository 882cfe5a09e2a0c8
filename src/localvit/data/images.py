"""What people really have, as an upright image of 8 bits; training, evaluation and prediction all read images here."""

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

# Formats of pixels that a few bytes at their start tell apart. Others that PIL knows are left out: EPS starts
# Ghostscript, and some are recognised by nothing and take any file.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF")

# Images of more pixels are read smaller, if their shorter side stays at least so long: a random crop of 8 % of a square
# image is then still 290 pixels wide. Ordinary photographs are not touched.
LARGE_PIXELS = 25_000_000
SMALLEST_SHORTER_SIDE = 1024

# A transform that resizes the shorter side to 256 would make 5 million pixels of each 1 x 20,000.
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
    """Read an image of any common kind as upright RGB or grey.

    Transparent parts become white. Grey of 16 bits is scaled from 0..65535 to 0..255, numbers with a point from 0..1
    or 0..255, and either from its own smallest and largest number where it leaves that range. An animation gives its
    first image. EXIF says what is up.

    An image of more than 25 million pixels is reduced by a whole factor, its shorter side to no less than 1024; JPEG
    is decoded at that size at once. An image whose one side is more than 16 times the other is cut to its middle,
    which holds all that a central crop takes. The largest that is read at all has the 179 million pixels that PIL takes
    for the most that is no decompression bomb.

    Args:
        file: open for reading and seeking, or a path.
        name: what to call the image in an error.
        channels: 3 for RGB, 1 for grey.

    Raises:
        BrokenImageError: for whatever cannot be read as an image, with the reason; nothing else.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}; it must be 3 for colour or 1 for grey")
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
        decoded.info.clear()  # it told of the file: palette, profile, rotation
        return decoded


@contextmanager
def _broken_image_errors(name: str) -> Iterator[None]:
    """Whatever a decoder raises, and it can be anything for bytes made to hurt it, as a :class:`BrokenImageError`."""
    try:
        yield
    except BrokenImageError:
        raise
    except FileNotFoundError as error:
        raise BrokenImageError(name, "is not there") from error
    except IsADirectoryError as error:
        raise BrokenImageError(name, "is a folder, not an image") from error
    except PermissionError as error:
        raise BrokenImageError(name, "may not be read; its permissions forbid it") from error
    except MemoryError as error:
        raise BrokenImageError(name, "needs more memory than there is") from error
    except Exception as error:
        text = str(error) or type(error).__name__
        if isinstance(error, OSError) and error.errno in (errno.EIO, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ESTALE):
            raise BrokenImageError(name, f"cannot be read: {text}") from error
        if isinstance(error, EOFError) or "truncated" in text.lower():
            reason = "is truncated"
        elif isinstance(error, SyntaxError):
            reason = "is damaged where it should say its size and colours"  # PIL's word for bad headers
        else:
            reason = f"is damaged: {text}"
        raise BrokenImageError(name, reason) from error


@contextmanager
def _opened(file: BinaryIO | Path, name: str) -> Iterator[BinaryIO]:
    """The file, open; one that was open before stays so."""
    if not isinstance(file, Path):
        yield file
    elif not (stat.S_ISREG(mode := file.stat().st_mode) or stat.S_ISDIR(mode)):
        raise BrokenImageError(name, "is neither a file nor a folder")  # reading a pipe would wait for ever
    else:
        with file.open("rb") as opened:
            yield opened


def _open(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    """The image in ``file``, not decoded yet.

    It asks PIL's plugins itself, for ``Image.open`` warns of images above half its limit, and a warning can only be
    silenced for all threads of the process.
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
            f"{2 * Image.MAX_IMAGE_PIXELS / 1e6:,.0f} are not read, as they can exhaust the memory. Make it smaller",
        )


def _is_large(image: Image.Image) -> bool:
    return image.width * image.height > LARGE_PIXELS


def _orientation(image: Image.Image) -> int:
    """EXIF's number for how the camera was held, 1 for upright."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return 1  # its pixels are whole, and nothing says that they are turned
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
    """Grey in whole numbers of 16 or 32 bits, or with a point, as L."""
    values_HW = np.asarray(image)
    if image.mode == "F":
        values_HW = np.nan_to_num(values_HW, posinf=0, neginf=0)
    smallest, largest = float(values_HW.min()), float(values_HW.max())
    whites = (1, 255) if image.mode == "F" else (65535,)
    white = next((white for white in whites if smallest >= 0 and largest <= white), None)
    if white is not None:
        grey_HW = np.rint(np.multiply(values_HW, 255 / white, dtype=np.float32))
    else:
        grey_HW = np.rint((values_HW.astype(np.float64) - smallest) * (255 / ((largest - smallest) or 1)))
    if isinstance(transparent := image.info.get("transparency"), int):
        grey_HW[values_HW == transparent] = 255
    return Image.fromarray(grey_HW.astype(np.uint8))


def _reduce(image: Image.Image) -> Image.Image:
    """A large image a whole number of times smaller."""
    factor = min(image.size) // SMALLEST_SHORTER_SIDE
    return image.reduce(factor) if _is_large(image) and factor > 1 else image


def _cut(image: Image.Image) -> Image.Image:
    """The middle of an image that is too long; as much goes at either end."""
    width, height = image.size
    longest = LONGEST_RATIO * min(width, height)
    left, top = (max(0, -(-(side - longest) // 2)) for side in (width, height))
    return image.crop((left, top, width - left, height - top)) if left or top else image


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def image_endings() -> frozenset[str]:
    """Endings of file names, such as ".jpg", of the formats that are read."""
    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS)


def natural_key(text: str) -> tuple[list[str | int], str]:
    """Sorts "img2" before "img10", as timm does; names that differ in case alone keep one order."""
    parts = re.split(r"(\d+)", text.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], text
