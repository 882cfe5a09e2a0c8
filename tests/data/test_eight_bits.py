"""Huge images: the same pixels band by band as at once, and memory for hardly more than the image itself."""

import io
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from localvit.data import eight_bits
from localvit.data.images import decode_image
from localvit.data.source import BrokenImageError

RANDOM = np.random.default_rng(0)
COLOUR = Image.fromarray(RANDOM.integers(0, 256, (50, 37, 4), dtype=np.uint8))
IMAGES = {
    **{mode: COLOUR.convert("RGB").convert(mode) for mode in ("1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB")},
    **{mode: COLOUR.convert(mode) for mode in ("LA", "RGBA")},
    "I;16": Image.fromarray(RANDOM.integers(0, 65_536, (50, 37), dtype=np.uint16)),
    "I": Image.fromarray(RANDOM.integers(-(2**31), 2**31, (50, 37), dtype=np.int32)),
    "F": Image.fromarray(RANDOM.normal(0, 9, (50, 37)).astype(np.float32)),
}


@pytest.mark.parametrize("mode", IMAGES)
@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("box", [(0, 0, 37, 50), (4, 3, 30, 47)])
def test_bands_give_what_the_whole_gives(
    mode: str, factor: int, box: eight_bits.Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = eight_bits.in_8_bits(IMAGES[mode], box, factor)
    assert whole.mode == ("L" if mode in ("1", "L", "I;16", "I", "F") else "RGB")
    assert whole.size == (-(-(box[2] - box[0]) // factor), -(-(box[3] - box[1]) // factor))
    monkeypatch.setattr(eight_bits, "_ORDINARY_PIXELS", 0)
    monkeypatch.setattr(eight_bits, "_BAND_PIXELS", 37 * 7)
    np.testing.assert_array_equal(np.asarray(eight_bits.in_8_bits(IMAGES[mode], box, factor)), np.asarray(whole))


_PEAK = """
import sys
from pathlib import Path
from PIL import Image
from localvit.data.images import decode_image
mode, path, width, height, options = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:]
Image.new(mode, (width, height)).save(path, compression="tiff_adobe_deflate")
def mib(name):
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith(name)).split()[1]) // 1024
Path("/proc/self/clear_refs").write_text("5")
before = mib("VmRSS")
decode_image(path, "it", channels=3)
print(mib("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets its count of memory")
@pytest.mark.parametrize("mode", ["LA", "F", "I;16"])
def test_a_huge_image_is_not_held_twice(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "huge.tif"
    command = [sys.executable, "-c", _PEAK, mode, str(path), "9000", "6000"]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert peak < 350  # the image takes 206 MiB, 103 in 16 bits; converted at once, it took 600 to 900


def header(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_what_would_take_more_than_a_gibibyte_is_not_decoded() -> None:
    small = header(Image.new("RGBA", (9, 9)), "WEBP", lossless=True)
    vp8l = small.index(b"VP8L") + 9
    wide = bytearray(small)
    wide[vp8l : vp8l + 4] = ((9999) | (8999 << 14) | (1 << 28)).to_bytes(4, "little")
    with pytest.raises(BrokenImageError, match=r"would take 1,373 MiB .* \(WEBP, 10000 x 9000\).* more than 950 are"):
        decode_image(io.BytesIO(bytes(wide)), "it", channels=3)


def test_a_tile_much_larger_than_its_image_is_not_decoded() -> None:
    entries = [
        (256, 16),
        (257, 16),
        (258, 8),
        (259, 8),
        (262, 1),
        (277, 1),
        (322, 60_000),
        (323, 60_000),
        (324, 8),
        (325, 8),
    ]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    tiled = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4)
    with pytest.raises(BrokenImageError, match=r"would take 13,733 MiB .* \(TIFF, 16 x 16\)"):
        decode_image(io.BytesIO(tiled), "it", channels=3)


@pytest.mark.parametrize(("kind", "most"), [("WEBP", 238), ("PNG", 238), ("TIFF", 950)])
def test_a_file_too_long_for_memory_is_not_read(kind: str, most: int, tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(header(Image.new("RGB", (9, 9)), kind))
    os.truncate(path, 3 * 2**30)  # takes no room on disk
    with pytest.raises(
        BrokenImageError, match=rf"it: is 3,072 MiB long; {kind} files of more than {most} are not read"
    ):
        decode_image(path, "it", channels=3)


def test_pixels_come_from_the_file_and_not_from_another_of_that_name(tmp_path: Path) -> None:
    other = tmp_path / "other.bmp"
    Image.new("L", (8, 8), 200).save(other)
    image = decode_image(io.BytesIO(header(Image.new("L", (8, 8), 7), "BMP")), str(other), channels=1)
    assert image.getpixel((0, 0)) == 7


_SHORTENED = """
import os, sys
from pathlib import Path
from PIL import Image
from localvit.data import images
path, known = Path(sys.argv[1]), getattr(images, sys.argv[2])
Image.effect_noise((300, 200), 90).save(path)
def shorten(image, *arguments, **options):
    os.truncate(path, 40)
    return known(image, *arguments, **options)
setattr(images, sys.argv[2], shorten)
print(images.decode_image(path, str(path), channels=3).size)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows does not shorten an open file")
@pytest.mark.parametrize(("ending", "before"), [("bmp", "_orientation"), ("jp2", "_require_not_too_large")])
def test_a_file_shortened_while_it_is_read_does_not_kill_the_process(ending: str, before: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _SHORTENED, str(tmp_path / f"photo.{ending}"), before]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "(300, 200)\n"), ended.stderr


_SHORTENED_TIFF = """
import os, sys, threading
from pathlib import Path
import numpy as np
from PIL import Image
from localvit.data import images
path, noise = Path(sys.argv[1]), np.random.default_rng(0).integers(0, 256, (3000, 3000, 3), dtype=np.uint8)
Image.fromarray(noise).save(path, compression="tiff_lzw")
threading.Timer(0.05, os.truncate, (path, 4096)).start()
print(images.decode_image(path, str(path), channels=3).size)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows does not shorten an open file")
def test_a_compressed_tiff_shortened_while_it_is_decoded_does_not_kill_the_process(tmp_path: Path) -> None:
    """Decoding takes several times as long as the timer, and libtiff would map the file for all of it."""
    command = [sys.executable, "-c", _SHORTENED_TIFF, str(tmp_path / "photo.tif")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode >= 0, f"killed by signal {-ended.returncode}"
