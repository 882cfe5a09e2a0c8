"""Images of every kind that people have, against their own pixels and plain formulas; and what is no image."""

import io
import os
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from localvit.data.images import decode_image
from localvit.data.source import BrokenImageError

Pixels = NDArray[Any]
RANDOM = np.random.default_rng(0)
COLOUR_HWC = RANDOM.integers(0, 256, (12, 17, 3), dtype=np.uint8)
GREY_HW = RANDOM.integers(0, 256, (12, 17), dtype=np.uint8)
ALPHA_HW = RANDOM.integers(0, 256, (12, 17), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def decoded(file: io.BytesIO | Path, channels: int = 3) -> Pixels:
    image = decode_image(file, "it", channels=channels)
    assert image.mode == {3: "RGB", 1: "L"}[channels]
    return np.asarray(image)


def luma(colour_HWC: Pixels) -> Pixels:
    """Grey of a colour, after ITU-R 601."""
    return np.asarray(colour_HWC @ np.array([0.299, 0.587, 0.114]))


def over_white(colour_HWC: Pixels, alpha_HW: Pixels) -> Pixels:
    alpha_HW1 = alpha_HW[..., None] / 255
    return np.asarray(colour_HWC * alpha_HW1 + 255 * (1 - alpha_HW1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM", "WEBP", "JPEG2000"])
def test_colour_stays_as_it_is_and_becomes_grey_by_luma(kind: str) -> None:
    options = {"WEBP": {"lossless": True}}.get(kind, {})
    file = encoded(Image.fromarray(COLOUR_HWC), kind, **options)
    np.testing.assert_array_equal(decoded(file), COLOUR_HWC)
    file.seek(0)
    np.testing.assert_allclose(decoded(file, channels=1), luma(COLOUR_HWC), atol=0.51)


def test_grey_gets_three_equal_channels() -> None:
    file = encoded(Image.fromarray(GREY_HW), "PNG")
    np.testing.assert_array_equal(decoded(file), np.stack([GREY_HW] * 3, axis=-1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_transparent_colour_lies_on_white(kind: str) -> None:
    rgba_HWC = np.dstack([COLOUR_HWC, ALPHA_HW])
    options = {"WEBP": {"lossless": True, "exact": True}}.get(kind, {})
    file = encoded(Image.fromarray(rgba_HWC), kind, **options)
    np.testing.assert_allclose(decoded(file), over_white(COLOUR_HWC, ALPHA_HW), atol=1)


def test_transparent_grey_lies_on_white() -> None:
    file = encoded(Image.fromarray(np.dstack([GREY_HW, ALPHA_HW])), "PNG")
    np.testing.assert_allclose(decoded(file, channels=1), over_white(GREY_HW[..., None], ALPHA_HW)[..., 0], atol=1)


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_palette_gives_its_colours(kind: str, transparent: bool) -> None:
    palette_NC = RANDOM.integers(0, 256, (4, 3), dtype=np.uint8)
    indices_HW = RANDOM.integers(0, 4, (9, 7), dtype=np.uint8)
    image = Image.fromarray(indices_HW)
    image.putpalette(palette_NC.tobytes())
    file = encoded(image, kind, **({"transparency": 2} if transparent else {}))
    expected_HWC = palette_NC[indices_HW]
    if transparent:
        expected_HWC[indices_HW == 2] = 255
    np.testing.assert_array_equal(decoded(file), expected_HWC)


def test_one_bit_is_black_and_white() -> None:
    bits_HW = GREY_HW > 127
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(bits_HW), "PNG"), channels=1), bits_HW * 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind: str) -> None:
    values_HW = RANDOM.integers(0, 65536, (12, 17), dtype=np.uint16)
    file = encoded(Image.fromarray(values_HW), kind)
    np.testing.assert_array_equal(decoded(file, channels=1), np.round(values_HW / 257))
    dark = encoded(Image.fromarray((values_HW // 256).astype(np.uint16)), kind)
    assert decoded(dark, channels=1).max() == 1  # 255 of 65535: scaled by what could be, not by what is there


def test_one_transparent_value_of_sixteen_bits_is_white() -> None:
    values_HW = np.array([[0, 1000, 40000]], dtype=np.uint16)
    file = encoded(Image.fromarray(values_HW), "PNG", transparency=1000)
    np.testing.assert_array_equal(decoded(file, channels=1), [[0, 255, round(40000 / 257)]])


def test_thirty_two_bits_in_the_range_of_sixteen_are_scaled_like_them() -> None:
    values_HW = RANDOM.integers(0, 65536, (12, 17), dtype=np.int32)
    np.testing.assert_array_equal(
        decoded(encoded(Image.fromarray(values_HW), "TIFF"), channels=1), np.round(values_HW / 257)
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.5, 1], [0, 128, 255]),
        ([0, 100, 254.6], [0, 100, 255]),
        ([-3, 0, 7], [0, 76, 255]),
        ([300, 300, 300], [0, 0, 0]),
        ([np.nan, 0.25, np.inf], [0, 64, 0]),
        ([-3e38, 0, 3e38], [0, 128, 255]),
    ],
)
def test_numbers_with_a_point_are_scaled(values: list[float], expected: list[int]) -> None:
    file = encoded(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")
    np.testing.assert_array_equal(decoded(file, channels=1), [expected])


def test_cmyk_is_ink_on_white() -> None:
    ink_HWC = np.repeat(RANDOM.integers(0, 256, (2, 2, 4), dtype=np.uint8), 8, axis=0).repeat(8, axis=1)
    expected_HWC = (1 - ink_HWC[..., :3] / 255) * (1 - ink_HWC[..., 3:] / 255) * 255
    image = Image.frombytes("CMYK", (16, 16), ink_HWC.tobytes())
    np.testing.assert_allclose(decoded(encoded(image, "TIFF")), expected_HWC, atol=1.5)
    jpeg = encoded(image, "JPEG", quality=100, subsampling=0)
    np.testing.assert_allclose(decoded(jpeg), expected_HWC, atol=5)


# How a camera turned by EXIF's number stores an image: what undoes its rotation, row for row of the standard's table.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: np.rot90(a, 2),
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_says_what_is_up(orientation: int, kind: str) -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](COLOUR_HWC)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}}.get(kind, {})
    np.testing.assert_array_equal(decoded(encoded(stored, kind, exif=exif, **options)), COLOUR_HWC)


def test_a_jpeg_from_a_camera_is_turned() -> None:
    colour_HWC = np.zeros((16, 32, 3), dtype=np.uint8)
    colour_HWC[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(colour_HWC)))
    np.testing.assert_allclose(decoded(encoded(stored, "JPEG", exif=exif, quality=95)), colour_HWC, atol=8)


@pytest.mark.parametrize("exif", [b"Exif\0\0broken", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0"])
def test_damaged_exif_leaves_a_whole_image_alone(exif: bytes) -> None:
    image = Image.new("RGB", (16, 8), "red")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert decoded(encoded(image, "JPEG", exif=exif)).shape == (8, 16, 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_image(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    file = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(decoded(file), np.broadcast_to([255, 0, 0], (8, 8, 3)), atol=3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_one_pixel_is_an_image(mode: str, channels: int) -> None:
    assert decoded(encoded(Image.new(mode, (1, 1)), "PNG"), channels).shape[:2] == (1, 1)


@pytest.mark.parametrize(("width", "height", "start"), [(20_000, 1, 9992), (1001, 3, 477), (160, 10, 0)])
@pytest.mark.parametrize("upright", [True, False])
def test_a_long_image_is_cut_to_its_middle(width: int, height: int, start: int, upright: bool) -> None:
    pixels_HW = (np.arange(width * height, dtype=np.uint32).reshape(height, width) * 7 % 251).astype(np.uint8)
    expected_HW = pixels_HW[:, start : width - start]
    assert height * 15 < expected_HW.shape[1] <= height * 16
    if upright:
        pixels_HW, expected_HW = pixels_HW.T, expected_HW.T
    file = encoded(Image.fromarray(np.ascontiguousarray(pixels_HW)), "PNG")
    np.testing.assert_array_equal(decoded(file, channels=1), expected_HW)


def broken(path: Path, name: str = "holiday.jpg") -> str:
    with pytest.raises(BrokenImageError) as raised:
        decode_image(path, name, channels=3)
    assert str(raised.value) == f"{name}: {raised.value.reason}"
    return raised.value.reason


def test_what_is_no_image_is_named_with_its_reason(tmp_path: Path) -> None:
    file = tmp_path / "holiday.jpg"
    assert broken(file) == "does not exist"
    assert broken(tmp_path) == "is a folder, not an image"
    os.mkfifo(tmp_path / "pipe")
    assert broken(tmp_path / "pipe") == "is neither a file nor a folder"
    file.write_bytes(b"")
    assert broken(file) == "is empty"
    for text in (b"P", b"a list of things to pack, renamed", b"<svg xmlns='http://www.w3.org/2000/svg'/>"):
        file.write_bytes(text)
        assert broken(file).startswith("is not an image, or none of JPEG, PNG")
    assert broken(file / "below").startswith("cannot be read: ")
    file.write_bytes(b"P6 0 7 255 ")
    assert broken(file) == "is damaged in its header"


def test_a_pipe_that_takes_the_place_of_an_image_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "holiday.jpg")
    before = os.stat_result((0o100644, *[0] * 9))
    monkeypatch.setattr(Path, "stat", lambda path: before)
    assert broken(tmp_path / "holiday.jpg") == "is neither a file nor a folder"


def test_a_postscript_file_is_not_run(tmp_path: Path) -> None:
    file = tmp_path / "figure.jpg"
    Image.new("RGB", (8, 8)).save(file, "EPS")
    assert broken(file).startswith("is not an image")


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "photo.png").touch()
    monkeypatch.setattr(os, "open", forbid)  # for the superuser, whom no permission stops
    assert broken(tmp_path / "photo.png") == "cannot be read; its permissions forbid it"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM"])
def test_half_a_file_is_broken(kind: str, tmp_path: Path) -> None:
    noise = Image.fromarray(RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    whole = encoded(noise, kind).getvalue()
    (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
    reason = broken(tmp_path / "half")
    assert reason == "is truncated" or (kind in ("WEBP", "TIFF") and reason.startswith("is damaged: "))


def test_an_error_survives_the_way_between_processes() -> None:
    import pickle

    copied = pickle.loads(pickle.dumps(BrokenImageError("a.jpg", "is empty")))  # noqa: S301
    assert (copied.name, copied.reason, str(copied)) == ("a.jpg", "is empty", "a.jpg: is empty")


def test_a_decompression_bomb_is_refused_and_less_gives_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decoded(encoded(Image.new("L", (100, 72)), "PNG"), 1).shape == (72, 100)
        with pytest.raises(BrokenImageError, match=r"bomb: has 0 megapixels \(101 x 72\); .* not read"):
            decode_image(encoded(Image.new("L", (101, 72)), "PNG"), "bomb", channels=1)


def test_pil_s_own_limit_holds() -> None:
    header = b"P5 20000 20000 255\n"
    with pytest.raises(BrokenImageError, match=r"wide: has 400 megapixels \(20000 x 20000\).* more than 179 are not"):
        decode_image(io.BytesIO(header), "wide", channels=3)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA", "I;16"])
def test_a_large_image_is_the_mean_of_its_squares(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localvit.data.images.LARGE_PIXELS", 60 * 40)
    monkeypatch.setattr("localvit.data.images.SMALLEST_SHORTER_SIDE", 16)
    small_HW = RANDOM.integers(0, 256, (21, 32), dtype=np.uint8)
    wide_HW = np.kron(small_HW, np.ones((2, 2), dtype=np.uint8))
    image = Image.fromarray(wide_HW.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(wide_HW)
    if mode in ("RGB", "P", "RGBA"):
        image = image.convert(mode)
    np.testing.assert_allclose(decoded(encoded(image, "PNG"), channels=1), small_HW, atol=1)


def resident(field: str) -> int:
    """Kilobytes of this process in memory: now (VmRSS), or the most since the count was reset (VmHWM)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets its count of memory")
def test_a_jpeg_20_000_wide_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "wide.jpg"
    Image.new("L", (20_000, 5_000), 200).save(path)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decode_image(path, "wide", channels=3)
    assert resident("VmHWM") - before < 60_000  # decoded whole it is 100 MB, and 400 MB more in colour
    assert image.size == (5000, 1250)
    assert image.getpixel((10, 10)) == (200, 200, 200)


def test_threads_decode_at_once() -> None:
    data = encoded(Image.fromarray(COLOUR_HWC), "PNG").getvalue()
    results: list[bool] = []

    def work() -> None:
        results.extend(bool((decoded(io.BytesIO(data)) == COLOUR_HWC).all()) for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 400


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="channels is 4; it must be 3 for color or 1 for grayscale"):
        decode_image(io.BytesIO(), "it", channels=4)


def _valid_files() -> list[bytes]:
    image = Image.fromarray(COLOUR_HWC)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (image, "JPEG", {"exif": exif}),
        (image, "JPEG", {"progressive": True}),
        (image.convert("CMYK"), "JPEG", {}),
        (image, "PNG", {"exif": exif}),
        (image.convert("P"), "PNG", {"transparency": 3}),
        (Image.fromarray(GREY_HW.astype(np.uint16)), "PNG", {}),
        (image, "GIF", {"save_all": True, "append_images": [image.rotate(90)]}),
        (image, "WEBP", {}),
        (image, "TIFF", {}),
        (image, "TIFF", {"compression": "tiff_lzw", "exif": exif}),
        (Image.fromarray(GREY_HW.astype(np.float32)), "TIFF", {}),
        (image, "BMP", {}),
        (image, "PPM", {}),
        (image, "JPEG2000", {}),
    ]
    return [encoded(image, kind, **options).getvalue() for image, kind, options in kinds]


VALID_FILES = _valid_files()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(data=st.data(), whole=st.sampled_from(VALID_FILES), channels=st.sampled_from([1, 3]))
def test_damage_gives_an_image_or_the_one_error(data: st.DataObject, whole: bytes, channels: int) -> None:
    bad = bytearray(whole)
    # Half of the damage goes to the head, where formats keep their structure.
    place = st.integers(0, 63) | st.integers(0, len(whole) - 1)
    for position, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), max_size=6)):
        bad[position] = value
    cut = data.draw(st.integers(0, len(whole)) | st.just(len(whole)))
    try:
        image = decode_image(io.BytesIO(bytes(bad[:cut])), "it", channels=channels)
    except BrokenImageError as error:
        assert error.reason  # noqa: PT017 - an image is as good an answer
    else:
        assert image.mode == {3: "RGB", 1: "L"}[channels]
        assert min(image.size) >= 1
        assert max(image.size) <= 16 * min(image.size)


def test_a_compressed_tiff_of_hundreds_of_megabytes_is_refused(tmp_path: Path) -> None:
    """The whole file is read, which takes two copies of it for a moment."""
    path = tmp_path / "long.tif"
    path.write_bytes(encoded(Image.new("RGB", (8, 8)), "TIFF", compression="tiff_lzw").getvalue())
    assert decode_image(path, "long.tif", channels=3).size == (8, 8)
    os.truncate(path, 500 * 2**20)  # zeros that take no room on disk
    assert broken(path).startswith("would take 1,000 MiB of memory to decode (TIFF, 8 x 8)")
