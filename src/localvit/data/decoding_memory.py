"""The memory that an image takes while it is decoded, known before it is. The numbers are those of Pillow 12.

``benchmarks/campaign/fuzz_images.py`` measures them.
"""

from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, ROWSPERSTRIP, TILELENGTH, TILEWIDTH, TiffImageFile

# Bytes of a pixel in memory. All other modes take 4.
_SMALL = {"1": 1, "L": 1, "P": 1, "I;16": 2}


def bytes_to_decode(image: Image.Image) -> float:
    """Memory to decode an image that is open and not decoded, in bytes, rounded up for its format."""
    pixels, layers = image.width * image.height, len(image.getbands())
    match image.format:
        case "JPEG":
            return pixels * 2 * layers  # a progressive one is held as coefficients of 16 bits
        case "WEBP" | "AVIF":
            return pixels * 16
        case "JPEG2000":
            return pixels * (2 + 5 * layers)
    own = pixels * _SMALL.get(image.mode, 4)
    return own + (_strip(image) if isinstance(image, TiffImageFile) else 0)


def _strip(image: TiffImageFile) -> float:
    """Bytes of a strip or tile, which is decoded at once. A strip may be the whole image, and a tile much larger."""
    tags = image.tag_v2
    bits = max(32, sum(tags.get(BITSPERSAMPLE, (1,))))  # JPEG in TIFF is decoded to 32 bits
    if TILEWIDTH in tags:
        return float(tags[TILEWIDTH]) * float(tags.get(TILELENGTH, 1)) * bits / 8
    return float(image.width * min(image.height, tags.get(ROWSPERSTRIP, image.height)) * bits / 8)
