"""Damages bytes: anywhere, and where formats keep numbers."""

from collections.abc import Callable, Sequence

import numpy as np

Random = np.random.Generator

# Structure is denser at the head of a file, so half of the damage goes there.
_HEAD = 64


def _place(random: Random, size: int) -> int:
    return int(random.integers(min(size, _HEAD) if random.random() < 0.5 else size))


def flips(whole: bytes, other: bytes, random: Random) -> bytes:
    """Change one to eight bytes."""
    bad = bytearray(whole)
    for _ in range(int(random.integers(1, 9))):
        bad[_place(random, len(bad))] ^= int(random.integers(1, 256))
    return bytes(bad)


def cut(whole: bytes, other: bytes, random: Random) -> bytes:
    """Keep the beginning."""
    return whole[: int(random.integers(len(whole)))]


def insertion(whole: bytes, other: bytes, random: Random) -> bytes:
    """Insert some bytes."""
    place = _place(random, len(whole))
    return whole[:place] + random.bytes(int(random.integers(1, 200))) + whole[place:]


def removal(whole: bytes, other: bytes, random: Random) -> bytes:
    """Remove some bytes."""
    place = _place(random, len(whole))
    return whole[:place] + whole[place + int(random.integers(1, 200)) :]


def splice(whole: bytes, other: bytes, random: Random) -> bytes:
    """The beginning of one file, and the end of another."""
    return whole[: int(random.integers(len(whole)))] + other[int(random.integers(len(other))) :]


def zeros(whole: bytes, other: bytes, random: Random) -> bytes:
    """Set a run of bytes to zero, as a bad sector does."""
    place = _place(random, len(whole))
    count = min(int(random.integers(1, 513)), len(whole) - place)
    return whole[:place] + bytes(count) + whole[place + count :]


def ones(whole: bytes, other: bytes, random: Random) -> bytes:
    """Set a run of bytes to 255."""
    place = _place(random, len(whole))
    count = min(int(random.integers(1, 9)), len(whole) - place)
    return whole[:place] + b"\xff" * count + whole[place + count :]


def repetition(whole: bytes, other: bytes, random: Random) -> bytes:
    """Repeat a part many times."""
    place = _place(random, len(whole))
    return whole[:place] + whole[place : place + int(random.integers(1, 100))] * int(random.integers(2, 100))


def noise(whole: bytes, other: bytes, random: Random) -> bytes:
    """Keep a few bytes, enough to be taken for the format, before random ones."""
    return whole[: int(random.integers(2, 33))] + random.bytes(int(random.integers(1, 2000)))


BY_BYTES: dict[str, Callable[[bytes, bytes, Random], bytes]] = {
    "bytes changed": flips,
    "cut short": cut,
    "bytes inserted": insertion,
    "bytes removed": removal,
    "spliced from two files": splice,
    "zeroed run": zeros,
    "run of 255": ones,
    "part repeated": repetition,
    "noise after a true beginning": noise,
}


def extreme(size: int, now: int, places: Sequence[int], random: Random) -> int:
    """A number that programs forget: 0, the largest, powers of two and their neighbors, places in the file.

    Args:
        size: of the number in bytes.
        now: its present value.
        places: offsets in the file, which make loops of what refers to offsets.
        random: source of choice.
    """
    most: int = 256**size - 1
    found: list[int] = [
        0,
        1,
        2,
        most,
        most // 2,
        most // 2 + 1,
        most - 1,
        now + 1,
        now - 1,
        2 * now,
        16_384,
        65_500,
        100_000,
    ]
    found += [int(2 ** random.integers(8 * size)), int.from_bytes(random.bytes(size)), *places]
    return found[int(random.integers(len(found)))] & most
