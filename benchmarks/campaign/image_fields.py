"""Where image formats keep their numbers: lengths, dimensions, offsets, tags. Damage goes exactly there."""

import re
import zlib
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from damage import Random, extreme


class Field(NamedTuple):
    """A number in a file."""

    place: int
    size: int
    order: Literal["big", "little"]


def with_damaged_fields(kind: str, whole: bytes, random: Random) -> bytes:
    """Set one to three numbers of an image to extreme values; a PNG gets valid checksums."""
    fields = list(FIELDS[kind](whole))
    offsets = [field.place for field in fields[:4]] + ([_first_directory(whole)] if kind == "TIFF" else [])
    bad = bytearray(whole)
    for _ in range(int(random.integers(1, 4))):
        place, size, order = fields[int(random.integers(len(fields)))]
        now = int.from_bytes(bad[place : place + size], order)
        bad[place : place + size] = extreme(size, now, offsets, random).to_bytes(size, order)
    return _with_checksums(bytes(bad), whole) if kind == "PNG" else bytes(bad)


def png_with_damaged_content(whole: bytes, random: Random) -> bytes:
    """Change bytes of a PNG's chunks, or drop, repeat or swap chunks. The checksums are valid."""
    chunks = [(kind, bytearray(content)) for kind, content in _chunks(whole)]
    index = int(random.integers(len(chunks)))
    match int(random.integers(4)):
        case 0:
            chunks.pop(index)
        case 1:
            chunks.insert(int(random.integers(len(chunks))), chunks[index])
        case _:
            content = chunks[index][1]
            for _ in range(int(random.integers(1, 6))):
                if content:
                    content[int(random.integers(len(content)))] = int(random.integers(256))
    return whole[:8] + b"".join(png_chunk(bytes(kind), bytes(content)) for kind, content in chunks)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def _chunks(whole: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place + 12 <= len(whole):
        length = int.from_bytes(whole[place : place + 4], "big")
        yield whole[place + 4 : place + 8], whole[place + 8 : place + 8 + length]
        place += 12 + length


def _with_checksums(bad: bytes, whole: bytes) -> bytes:
    """Chunks as they lie in the undamaged file, with the checksum of what is in them now."""
    fixed, place = bytearray(bad), 8
    for kind, content in _chunks(whole):
        end = place + 8 + len(content)
        fixed[end : end + 4] = zlib.crc32(fixed[place + 4 : end]).to_bytes(4, "big")
        place += 12 + len(content)
        assert len(kind) == 4
    return bytes(fixed)


def _png(whole: bytes) -> Iterator[Field]:
    yield from (Field(16, 4, "big"), Field(20, 4, "big"), *(Field(place, 1, "big") for place in range(24, 29)))
    place = 8
    for kind, content in _chunks(whole):
        yield Field(place, 4, "big")
        if kind in (b"acTL", b"fcTL"):
            yield from (Field(place + 8 + at, 4, "big") for at in range(0, len(content) - 3, 4))
        place += 12 + len(content)


def _jpeg(whole: bytes) -> Iterator[Field]:
    place = 2
    while place + 4 < len(whole) and whole[place] == 0xFF:
        length = int.from_bytes(whole[place + 2 : place + 4], "big")
        yield Field(place + 1, 1, "big")
        yield Field(place + 2, 2, "big")
        if 0xC0 <= whole[place + 1] <= 0xC2:
            yield from (Field(place + 5, 2, "big"), Field(place + 7, 2, "big"))  # height and width
            yield from (Field(place + at, 1, "big") for at in (4, *range(9, length + 2)))
        if whole[place + 1] == 0xDA:
            yield from (Field(at, 1, "big") for at in range(place + 4, place + 2 + length))
            return
        place += 2 + length


def _gif(whole: bytes) -> Iterator[Field]:
    yield from (Field(6, 2, "little"), Field(8, 2, "little"), Field(10, 1, "little"))
    for found in re.finditer(rb"\x00\x2c", whole):
        start = found.start() + 2
        if start + 10 < len(whole):
            yield from (Field(start + at, 2, "little") for at in range(0, 8, 2))
            yield from (Field(start + at, 1, "little") for at in (8, 9, 10))


def _bmp(whole: bytes) -> Iterator[Field]:
    yield from (Field(place, 4, "little") for place in (2, 10, 14, 18, 22, 30, 34, 46, 50))
    yield from (Field(place, 2, "little") for place in (26, 28))


def _webp(whole: bytes) -> Iterator[Field]:
    yield Field(4, 4, "little")
    place = 12
    while place + 8 <= len(whole):
        kind, length = whole[place : place + 4], int.from_bytes(whole[place + 4 : place + 8], "little")
        yield Field(place + 4, 4, "little")
        if kind == b"VP8X":
            yield from (Field(place + 8, 1, "little"), Field(place + 12, 3, "little"), Field(place + 15, 3, "little"))
        elif kind == b"VP8 ":
            yield from (Field(place + 14, 2, "little"), Field(place + 16, 2, "little"))
        elif kind == b"VP8L":
            yield Field(place + 9, 4, "little")
        elif kind == b"ANMF":
            yield from (Field(place + 8 + at, 3, "little") for at in range(0, 15, 3))
        place += 8 + length + length % 2


def _first_directory(whole: bytes) -> int:
    return int.from_bytes(whole[4:8], "little" if whole[:2] == b"II" else "big")


def _tiff(whole: bytes) -> Iterator[Field]:
    order: Literal["big", "little"] = "little" if whole[:2] == b"II" else "big"
    yield Field(4, 4, order)
    place = _first_directory(whole)
    while place and place + 2 <= len(whole):
        count = int.from_bytes(whole[place : place + 2], order)
        yield Field(place, 2, order)
        for entry in range(place + 2, place + 2 + 12 * count, 12):
            yield from (Field(entry, 2, order), Field(entry + 2, 2, order))
            yield from (Field(entry + 4, 4, order), Field(entry + 8, 4, order))
        place += 2 + 12 * count
        yield Field(place, 4, order)  # of the next directory; its own place makes a loop
        place = int.from_bytes(whole[place : place + 4], order)


def _boxes(whole: bytes, start: int = 0) -> Iterator[Field]:
    """Lengths of boxes of the ISO base media format, and what stands in those that give dimensions."""
    for found in re.finditer(
        rb"jP  |ftyp|jp2h|ihdr|colr|jp2c|meta|ispe|iloc|iinf|ipma|av1C|pixi|mdat|avis|stsz", whole
    ):
        if found.start() >= 4:
            yield Field(found.start() - 4, 4, "big")
        if found[0] in (b"ihdr", b"ispe", b"iloc", b"ipma", b"av1C"):
            yield from (Field(found.end() + at, 4, "big") for at in (0, 4, 8))
    size = whole.find(b"\xff\x4f\xff\x51")
    if size >= 0:  # the codestream of JPEG 2000
        yield from (Field(size + 8 + at, 4, "big") for at in range(0, 32, 4))
        yield from (Field(size + 4, 2, "big"), Field(size + 40, 2, "big"))
        yield from (Field(size + 42 + at, 1, "big") for at in range(9))


FIELDS: dict[str, Callable[[bytes], Iterator[Field]]] = {
    "PNG": _png,
    "JPEG": _jpeg,
    "GIF": _gif,
    "BMP": _bmp,
    "WEBP": _webp,
    "TIFF": _tiff,
    "JPEG2000": _boxes,
    "AVIF": _boxes,
}
