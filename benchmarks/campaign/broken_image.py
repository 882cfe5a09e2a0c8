"""One broken image, drawn from the number of a trial."""

import functools
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

from campaign import randomness
from damage import BY_BYTES, Random
from image_fields import png_with_damaged_content, with_damaged_fields
from odd_files import ODD, changing
from sound_images import Encoded, bomb, bombs, corpus, jpeg_with_exif, text_bombs

SOUND = "sound.png"
_ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "TIFF": "tif", "BMP": "bmp", "JPEG2000": "jp2"}
# What a trial is, and how often of a hundred; bombs are rarer, because a huge image takes seconds.
_SHARES = {"bytes": 40, "fields": 33, "chunks": 6, "EXIF": 4, "odd": 14, "changing": 2.4, "bomb": 0.5, "text bomb": 0.1}
_MEGAPIXELS = (24.0, 60.0, 100.0, 178.0, 250.0)
_SHAPES = (1.0, 0.3, 15.0, 60.0)


class Made(NamedTuple):
    """What a trial puts into a folder.

    Attributes:
        kinds: what it is.
        predicted, listed, sound: see :class:`odd_files.Odd`.
        meanwhile: what happens to it while it is read.
        steady: whether it is the same each time it is read.
    """

    kinds: list[str]
    predicted: int = 1
    listed: int = 1
    sound: bool = False
    meanwhile: AbstractContextManager[None] = nullcontext()
    steady: bool = True


def make(trial: int, folder: Path) -> Made:
    """Put the broken image of a trial into an empty folder."""
    random = randomness(trial)
    whole, other = _choose(random), _choose(random)
    shares = list(_SHARES.values())
    chosen = list(_SHARES)[int(random.choice(len(shares), p=[share / sum(shares) for share in shares]))]
    path = folder / f"photo.{_ENDINGS.get(whole.kind, 'avif')}"
    match chosen:
        case "odd":
            kind = list(ODD)[int(random.integers(len(ODD)))]
            odd = ODD[kind](folder, whole.content, random)
            return Made([kind], odd.predicted, odd.listed, odd.sound, steady=kind != "device")
        case "changing":
            path.write_bytes(whole.content)
            meanwhile = changing(path, whole.content, random)
            return Made(["changes while it is read", whole.kind], meanwhile=meanwhile, steady=False)
        case "bomb":
            return _bomb(folder, random)
        case "text bomb":
            bad = list(_text_bombs())[int(random.integers(len(_text_bombs())))]
            (folder / "photo.png").write_bytes(bad)
            return Made(["text that unpacks to much", "PNG"])
        case "EXIF":
            (folder / "photo.jpg").write_bytes(jpeg_with_exif(random))
            return Made(["EXIF of any kind", "JPEG"], sound=True)
        case "chunks":
            png = _choose(random, "PNG")
            (folder / "photo.png").write_bytes(png_with_damaged_content(png.content, random))
            return Made(["damaged chunks with valid checksums", "PNG"])
        case "fields":
            path.write_bytes(with_damaged_fields(whole.kind, whole.content, random))
            return Made(["extreme numbers in the structure", whole.kind])
    kind = list(BY_BYTES)[int(random.integers(len(BY_BYTES)))]
    path.write_bytes(BY_BYTES[kind](whole.content, other.content, random))
    return Made([kind, whole.kind])


@functools.cache
def _corpus() -> list[Encoded]:
    return corpus()


@functools.cache
def _text_bombs() -> tuple[bytes, ...]:
    return tuple(text_bombs())


def _choose(random: Random, kind: str | None = None) -> Encoded:
    found = [encoded for encoded in _corpus() if kind in (None, encoded.kind)]
    return found[int(random.integers(len(found)))]


def _bomb(folder: Path, random: Random) -> Made:
    """A huge image of one color."""
    name = list(bombs())[int(random.integers(len(bombs())))]
    megapixels = _MEGAPIXELS[int(random.integers(len(_MEGAPIXELS)))]
    shape = _SHAPES[int(random.integers(len(_SHAPES)))]
    kind = name.partition(" ")[0]
    # The encoders take far more memory than the decoders, and have limits of their own.
    if kind in ("WEBP", "JPEG2000", "AVIF"):
        megapixels, shape = min(megapixels, 60.0), min(shape, 2.0)
    if kind in ("JPEG", "GIF"):  # their sides have 16 bits
        shape = min(shape, 15.0)
    (folder / f"photo.{_ENDINGS.get(kind, 'avif')}").write_bytes(bomb(name, megapixels, shape))
    return Made(["huge image in a small file", kind])
