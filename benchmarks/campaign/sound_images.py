"""Sound images of every format and mode that damage starts from, and bombs: little files, huge images."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from damage import Random
from image_fields import png_chunk
from PIL import Image

_SIDE = 40
Image.init()


class Encoded(NamedTuple):
    """An image file.

    Attributes:
        kind: its format, in Pillow's terms.
        name: format and what is special about it.
        content: the file.
    """

    kind: str
    name: str
    content: bytes


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The file of an image."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def corpus() -> list[Encoded]:
    """Small images of every format and mode; AVIF and JPEG 2000 only if the installed Pillow writes them."""
    random = np.random.default_rng(0)
    rough = random.integers(0, 256, (_SIDE // 4, _SIDE // 4, 4), dtype=np.uint8)
    rgba = Image.fromarray(rough).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    rgb, gray = rgba.convert("RGB"), rgba.convert("L")
    deep = Image.fromarray(random.integers(0, 65_536, (_SIDE, _SIDE), dtype=np.uint16))
    real = Image.fromarray(random.random((_SIDE, _SIDE), dtype=np.float32))
    whole = Image.fromarray(random.integers(-(2**31), 2**31, (_SIDE, _SIDE), dtype=np.int32))
    palette, exif = rgb.quantize(16), Image.Exif()
    exif[0x0112] = 6
    moving: dict[str, Any] = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    files: list[tuple[str, str, Image.Image, dict[str, Any]]] = [
        ("JPEG", "color", rgb, {}),
        ("JPEG", "progressive", rgb, {"progressive": True}),
        ("JPEG", "gray", gray, {}),
        ("JPEG", "CMYK", rgb.convert("CMYK"), {}),
        ("JPEG", "EXIF", rgb, {"exif": exif}),
        ("PNG", "color", rgb, {"exif": exif}),
        ("PNG", "alpha", rgba, {}),
        ("PNG", "gray and alpha", rgba.convert("LA"), {}),
        ("PNG", "palette", palette, {"transparency": 3}),
        ("PNG", "16 bits", deep, {"transparency": 9}),
        ("PNG", "1 bit", gray.convert("1"), {}),
        ("PNG", "animated", rgb, moving),
        ("WEBP", "lossy", rgb, {}),
        ("WEBP", "lossless, alpha", rgba, {"lossless": True}),
        ("WEBP", "animated", rgb, moving),
        ("WEBP", "EXIF", rgb, {"exif": exif}),
        ("GIF", "still", palette, {}),
        ("GIF", "animated", rgb, moving),
        ("TIFF", "color", rgb, {}),
        ("TIFF", "LZW, EXIF", rgb, {"compression": "tiff_lzw", "exif": exif}),
        ("TIFF", "deflate, alpha", rgba, {"compression": "tiff_adobe_deflate"}),
        ("TIFF", "16 bits", deep, {}),
        ("TIFF", "32 bits", whole, {"compression": "tiff_deflate"}),
        ("TIFF", "floating point", real, {}),
        ("TIFF", "CMYK", rgb.convert("CMYK"), {}),
        ("TIFF", "1 bit, fax", gray.convert("1"), {"compression": "group4"}),
        ("TIFF", "palette", palette, {}),
        ("TIFF", "LAB", rgb.convert("LAB"), {}),
        ("TIFF", "JPEG inside", rgb, {"compression": "jpeg"}),
        ("TIFF", "pages", rgb, moving),
        ("BMP", "color", rgb, {}),
        ("BMP", "palette", palette, {}),
        ("BMP", "gray", gray, {}),
        ("BMP", "1 bit", gray.convert("1"), {}),
        ("JPEG2000", "color", rgb, {}),
        ("JPEG2000", "16 bits", deep, {}),
        ("JPEG2000", "alpha", rgba, {}),
        ("AVIF", "color", rgb, {}),
        ("AVIF", "alpha", rgba, {}),
        ("AVIF", "animated", rgb, moving),
    ]
    return [
        Encoded(kind, f"{kind}, {special}", encode(image, kind, **options))
        for kind, special, image, options in files
        if kind in Image.SAVE
    ]


def jpeg_with_exif(random: Random) -> bytes:
    """A sound JPEG whose EXIF is of any kind: any orientation, another type, or random bytes."""
    image = Image.fromarray(random.integers(0, 256, (16, 24, 3), dtype=np.uint8))
    tag, kind, value = 0x0112, int(random.integers(16)), int(random.integers(2**32))
    match int(random.integers(4)):
        case 0:
            exif = b"Exif\0\0" + random.bytes(int(random.integers(60)))
        case 1:  # a directory that goes on with itself
            entry = struct.pack("<HHII", tag, kind, int(random.integers(2**32)), value)
            exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + struct.pack("<I", 8)
        case 2:
            entry = struct.pack("<HHIHH", tag, 3, 1, int(random.integers(65_536)), 0)
            exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + struct.pack("<I", 0)
        case _:
            made = Image.Exif()
            made[tag] = int(random.integers(1, 9))
            exif = made.tobytes()
    return encode(image, "JPEG", exif=exif)


def png_bomb(width: int, height: int, depth: int, color: int, extra: bytes = b"") -> bytes:
    """A PNG of one color, written without holding its pixels."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    row = bytes(1 + -(-width * depth * channels // 8))
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    palette = png_chunk(b"PLTE", bytes(range(48))) if color == 3 else b""
    chunks = (png_chunk(b"IHDR", header), palette, extra, png_chunk(b"IDAT", packed), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def bombs() -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Formats, modes and options of one-color images that are small as files, by name; see :func:`bomb`."""
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        ("JPEG", "L", {}),
        ("JPEG", "RGB", {"subsampling": 0}),
        ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
        ("JPEG", "CMYK", {"progressive": True}),
        *(("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "RGB;16", "P;t")),
        ("GIF", "P", {}),
        *(("TIFF", mode, {"compression": "tiff_adobe_deflate"}) for mode in ("L", "RGB", "RGBA", "CMYK", "LAB")),
        *(("TIFF", mode, {"compression": "tiff_adobe_deflate"}) for mode in ("1", "I;16", "I", "F", "LA", "P")),
        ("TIFF", "RGB", {"compression": "tiff_lzw", "tiffinfo": {278: 2**31 - 1}}),
        ("WEBP", "RGB", {"lossless": True, "method": 0}),
        ("WEBP", "RGBA", {"lossless": True, "method": 0}),
        ("WEBP", "RGB", {"method": 0}),
        ("BMP", "run lengths", {}),
        ("JPEG2000", "L", {}),
        ("JPEG2000", "RGB", {}),
        ("AVIF", "RGB", {"speed": 10}),
        ("AVIF", "RGBA", {"speed": 10}),
    ]
    return {f"{kind} {mode} {options}": (kind, mode, options) for kind, mode, options in kinds if kind in Image.SAVE}


_PNG_BOMBS = {"RGB;16": (16, 2), "I;16": (16, 0), "LA": (8, 4), "L": (8, 0), "1": (1, 0), "RGB": (8, 2), "RGBA": (8, 6)}


def bomb(name: str, megapixels: float, shape: float) -> bytes:
    """A one-color image of so many megapixels, whose width is its height times ``shape``."""
    kind, mode, options = bombs()[name]
    height = max(1, round((megapixels * 1e6 / shape) ** 0.5))
    width = round(height * shape)
    if kind == "PNG":
        extra = png_chunk(b"tRNS", bytes(16)) if mode == "P;t" else b""
        return png_bomb(width, height, *_PNG_BOMBS.get(mode, (8, 3)), extra)
    if kind == "BMP":
        return bmp_bomb(width, height)
    return encode(Image.new(mode, (width, height)), kind, **options)


def bmp_bomb(width: int, height: int) -> bytes:
    """A gray BMP whose rows are packed as runs of 255 pixels."""
    row = b"\xff\x07" * (width // 255) + bytes((width % 255, 7)) * (width % 255 > 0) + b"\0\0"
    colors = b"".join(bytes((level, level, level, 0)) for level in range(256))
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(row) * height, 0, 0, 256, 0)
    start = 14 + len(header) + len(colors)
    return struct.pack("<2sIHHI", b"BM", start + len(row) * height, 0, 0, start) + header + colors + row * height


def text_bombs() -> Iterator[bytes]:
    """PNGs whose compressed texts and profile unpack to 64 MiB each."""
    packed = zlib.compress(bytes(2**26), 9)
    image = png_bomb(8, 8, 8, 2)
    for kind, content in ((b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")):
        yield image[:33] + png_chunk(kind, content + packed) * 40 + image[33:]
