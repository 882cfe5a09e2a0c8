"""Decodes the images people have into upright 8-bit ones, for training, evaluation and prediction alike."""

import errno
import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from PIL import ExifTags, Image, ImageFile

from localvit.data.decoding_memory import bytes_to_decode
from localvit.data.eight_bits import Box, in_8_bits
from localvit.data.source import BrokenImageError

# Raster formats that their first bytes identify. Other formats of PIL are excluded: EPS starts Ghostscript, and some
# have no signature and accept any file.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF")

# Decoders hold the files of these anyway. That of JPEG 2000 aborts the process if the file is shortened meanwhile.
_READ_AT_ONCE = ("WEBP", "JPEG2000", "AVIF")

# Larger images are reduced if their shorter side stays at least this long: a random crop of 8 % of a square image is
# then still 290 pixels wide. Ordinary photos are unaffected.
LARGE_PIXELS = 25_000_000
SMALLEST_SHORTER_SIDE = 1024

# A transform that resizes the shorter side to 256 would turn each 1 x 20,000 image into 5 million pixels.
LONGEST_RATIO = 16

# An image takes at most 1 GiB of memory: so much while it is decoded, and the rest to convert it.
MOST_BYTES = 950 * 2**20

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
    every center crop. The limit is 179 million pixels, PIL's for decompression bombs, or less where decoding would take
    more than 950 MiB of memory: 62 million for WebP and AVIF.

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
        decoded, orientation = _upright_or_not(opened, name)
        if orientation in _UPRIGHT:
            decoded = decoded.transpose(_UPRIGHT[orientation])
        if decoded.mode != (wanted := "RGB" if channels == 3 else "L"):
            decoded = decoded.convert(wanted)
        decoded.info.clear()  # palette, profile and rotation describe the file
        return decoded


def _upright_or_not(file: BinaryIO, name: str) -> tuple[Image.Image, int]:
    """A copy of the pixels in mode L or RGB, and their orientation. The pixels as they were decoded are freed."""
    image = _open(file, name)
    if _is_large(image):
        image.draft(None, (SMALLEST_SHORTER_SIDE, SMALLEST_SHORTER_SIDE))
    image.load()
    orientation = _orientation(image)
    decoded = in_8_bits(image, _middle(image), _factor(image))
    return decoded.copy() if decoded is image else decoded, orientation


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
        case OSError(errno=errno.ELOOP):
            return "is a link in a circle of links"
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
        return
    _require_file(file.stat().st_mode, name)
    with open(file, "rb", opener=_open_at_once) as opened:
        _require_file(os.fstat(opened.fileno()).st_mode, name)
        yield opened


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting, because a pipe may have taken its place since it was looked at."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _require_file(mode: int, name: str) -> None:
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise BrokenImageError(name, "is neither a file nor a folder")  # reading a pipe would block forever


def _open(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    """The image in ``file``, not decoded yet.

    This calls PIL's plugins directly, because ``Image.open`` warns about images above half its limit, and a warning can
    only be silenced for all threads of the process.
    """
    Image.init()
    start = file.read(16)
    if not start:
        raise BrokenImageError(name, "is empty")
    length = file.seek(0, os.SEEK_END)
    for kind in FORMATS:
        create, accepts = Image.OPEN[kind]
        accepted = accepts is not None and accepts(start.ljust(16, b"\0"))
        if isinstance(accepted, str):
            raise BrokenImageError(name, f"is a {kind} image, which the installed Pillow cannot read: {accepted}")
        if accepted:
            _require_not_too_long(kind, length, name)
            file.seek(0)
            if kind in _READ_AT_ONCE:
                file = io.BytesIO(file.read())
            # Without name and descriptor, by which PIL or libtiff would map the file into memory: a file that someone
            # shortens while it is mapped kills the process.
            image = create(cast(BinaryIO, _Unmapped(file)) if kind == "TIFF" else file, "")
            _require_not_too_large(image, name, held=_held(image, kind, length))
            return image
    raise BrokenImageError(name, f"is not an image, or none of {', '.join(FORMATS)}")


def _held(image: Image.Image, kind: str, length: int) -> int:
    """Bytes that copies of a file of ``length`` bytes take while it is decoded."""
    # libtiff gets the whole file; reading all of a buffered file joins the buffer and the rest.
    reads_all = kind in _READ_AT_ONCE or (kind == "TIFF" and image.info.get("compression") != "raw")
    return 2 * length if reads_all else 0


class _Unmapped:
    """A file without the descriptor by which a library in C could map it into memory."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def _require_not_too_long(kind: str, length: int, name: str) -> None:
    # Chunks of PNG are copied when they are read, and what is read at once is copied by decoders.
    most = MOST_BYTES // 4 if kind in ("PNG", *_READ_AT_ONCE) else MOST_BYTES
    if length > most:
        raise BrokenImageError(
            name, f"is {length / 2**20:,.0f} MiB long; {kind} files of more than {most / 2**20:,.0f} are not read"
        )


def _require_not_too_large(image: Image.Image, name: str, *, held: int) -> None:
    """Refuse an image by its dimensions and what decoding takes, in addition to ``held`` bytes of its file."""
    pixels = image.width * image.height
    if Image.MAX_IMAGE_PIXELS is not None and pixels > 2 * Image.MAX_IMAGE_PIXELS:
        raise BrokenImageError(
            name,
            f"has {pixels / 1e6:,.0f} megapixels ({image.width} x {image.height}); images of more than "
            f"{2 * Image.MAX_IMAGE_PIXELS / 1e6:,.0f} are not read, because they can exhaust the memory. Make it "
            "smaller",
        )
    if (needed := bytes_to_decode(image) + held) > MOST_BYTES:
        raise BrokenImageError(
            name,
            f"would take {needed / 2**20:,.0f} MiB of memory to decode ({image.format}, {image.width} x "
            f"{image.height}); images that take more than {MOST_BYTES / 2**20:,.0f} are not read. Make it smaller",
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


def _factor(image: Image.Image) -> int:
    """What a large image is reduced by; 1 for others."""
    return max(1, min(image.size) // SMALLEST_SHORTER_SIDE) if _is_large(image) else 1


def _middle(image: Image.Image) -> Box:
    """The middle of an image that is too long for its height, or too high for its width; or else all of it."""
    width, height = image.size
    longest = LONGEST_RATIO * min(width, height)
    left, top = (max(0, -(-(side - longest) // 2)) for side in (width, height))
    return left, top, width - left, height - top


def image_endings() -> frozenset[str]:
    """File extensions of the supported formats, such as ".jpg"."""
    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS)


def natural_key(text: str) -> tuple[list[str | int], str]:
    """A sort key that puts "img2" before "img10", as in timm; names that differ only in case keep a fixed order."""
    parts = re.split(r"(\d+)", text.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], text
