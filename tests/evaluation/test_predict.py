"""Predictions against the same computed by hand; a folder of everything that can be wrong; and many images."""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from rich.console import Console
from torch import nn

import localvit.evaluation.predict
from localvit.data.config import InputConfig
from localvit.evaluation.predict import ClassProbability, Prediction, Predictions, predict, print_predictions
from localvit.models.weights.model_file import ModelDescription, load_model, save_model
from localvit.system.errors import LocalViTError

NAME = "localvit_tiny_se4_patch16_224"
ARGUMENTS: dict[str, Any] = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
CLASSES = tuple(f"class {letter}" for letter in "abcdefg")
SHOWN = InputConfig(image_size=(32, 32), crop_fraction=0.8)
RANDOM = np.random.default_rng(0)


def small_model(**arguments: Any) -> Any:
    return timm.create_model(NAME, img_size=32, num_classes=7, **ARGUMENTS, **arguments)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, ModelDescription]:
    torch.manual_seed(0)
    model = small_model()
    nn.init.normal_(model.head.weight)  # so that the classes differ by more than rounding
    path = tmp_path_factory.mktemp("model") / "best.safetensors"
    save_model(model, ModelDescription(NAME, ARGUMENTS, CLASSES, SHOWN), path)
    return load_model(path)


def random_image(*size: int) -> Image.Image:
    height, width, *channels = size
    return Image.fromarray(RANDOM.integers(0, 256, (height, width, *channels), dtype=np.uint8))


def by_hand(model: nn.Module, path: Path) -> np.ndarray[Any, Any]:
    """Probabilities (K,): shorter side to 40 = 32 / 0.8, the middle 32 x 32, normalised, softmax in float64."""
    image = Image.open(path).convert("RGB")
    width, height = image.size
    scale = 40 / min(width, height)
    image = image.resize((int(width * scale), int(height * scale)), Image.Resampling.BICUBIC)
    left, top = round((image.width - 32) / 2), round((image.height - 32) / 2)
    pixels_HWC = np.asarray(image.crop((left, top, left + 32, top + 32))) / 255
    normal_HWC = (pixels_HWC - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.no_grad():
        logits_K = model(torch.from_numpy(normal_HWC.transpose(2, 0, 1)[None]).float())[0].double().numpy()
    exponentials_K = np.exp(logits_K - logits_K.max())
    return np.asarray(exponentials_K / exponentials_K.sum())


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_predictions_are_those_computed_by_hand(
    saved: tuple[nn.Module, ModelDescription], batch_size: int, tmp_path: Path
) -> None:
    model, description = saved
    paths = [tmp_path / f"{height}.png" for height in (32, 40, 64, 111)]
    for path in paths:
        random_image(int(path.stem), 64, 3).save(path)
    predictions = list(predict(model, description, paths, top=7, batch_size=batch_size, device="cpu"))
    assert [prediction.path for prediction in predictions] == paths
    for prediction in predictions:
        expected_K = by_hand(model, prediction.path)
        assert [item.name for item in prediction.classes] == [CLASSES[index] for index in np.argsort(-expected_K)]
        np.testing.assert_allclose(
            [item.probability for item in prediction.classes], np.sort(expected_K)[::-1], atol=1e-5
        )


def make_zoo(folder: Path) -> dict[str, str | None]:
    """Images of every kind and things that are none; what is wrong with each."""
    kinds: dict[str, str | None] = {}

    def add(name: str, image: Image.Image, **options: Any) -> None:
        image.save(folder / name, **options)
        kinds[name] = None

    exif = Image.Exif()
    exif[0x0112] = 6
    colour = random_image(30, 50, 3)
    add("colour.jpg", colour)
    add("turned.jpg", colour, exif=exif)
    add("grey.png", random_image(30, 50))
    add("alpha.png", random_image(30, 50, 4))
    add("alpha.webp", random_image(30, 50, 4))
    add("ink.jpg", colour.convert("CMYK"))
    add("palette.gif", colour.convert("P"))
    add("one bit.png", colour.convert("1"))
    add("sixteen.png", Image.fromarray(RANDOM.integers(0, 65536, (30, 50), dtype=np.uint16)))
    add("float.tiff", Image.fromarray(RANDOM.random((30, 50), dtype=np.float32)))
    add("animation.gif", colour, save_all=True, append_images=[colour.rotate(90)])
    add("animation.webp", colour, save_all=True, append_images=[colour.rotate(90)])
    add("one pixel.png", Image.new("RGB", (1, 1)))
    add("long.png", Image.new("L", (20_000, 1), 50))
    add("tall.bmp", Image.new("RGB", (2, 3000)))
    add("UPPER.JPG", colour)
    add("名前 [bold]\n.png", colour)

    def spoil(name: str, data: bytes, reason: str) -> None:
        (folder / name).write_bytes(data)
        kinds[name] = reason

    whole = (folder / "colour.jpg").read_bytes()
    spoil("half.jpg", whole[: len(whole) // 2], "is truncated")
    spoil("empty.png", b"", "is empty")
    spoil("text.jpg", b"Dear diary, today I took no photo.", "is not an image")
    spoil("head.png", (folder / "grey.png").read_bytes()[:20], "is ")
    spoil("bomb.ppm", b"P5 20000 20000 255\n", "has 400 megapixels")
    os.mkfifo(folder / "pipe.jpg")
    kinds["pipe.jpg"] = "is neither a file nor a folder"
    (folder / "link.jpg").symlink_to(folder / "nowhere.jpg")
    kinds["link.jpg"] = "does not exist"
    return kinds


@pytest.mark.parametrize("batch_size", [4, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_image_gets_a_row_or_a_named_error(
    saved: tuple[nn.Module, ModelDescription], batch_size: int, channels: Any, tmp_path: Path
) -> None:
    model, description = saved
    if channels == 1:
        shown = InputConfig(image_size=(32, 32), channels=1, mean=(0.5,), std=(0.5,))
        model = small_model(in_chans=1)
        description = ModelDescription(NAME, ARGUMENTS, CLASSES, shown)
    kinds = make_zoo(tmp_path)
    (tmp_path / "notes.txt").write_text("no image, and not called one")
    (tmp_path / ".hidden.jpg").write_bytes(b"")
    predictions = predict(model, description, [tmp_path], top=2, batch_size=batch_size, device="cpu")
    assert len(predictions) == len(kinds) == 24
    rows = list(predictions)
    assert [row.path.name for row in rows] == sorted(kinds, key=str.casefold)
    for row in rows:
        reason = kinds[row.path.name]
        if reason is None:
            assert row.error is None, row
            assert len(row.classes) == 2
            assert 1 >= row.classes[0].probability >= row.classes[1].probability >= 0
        else:
            assert row.error is not None
            assert row.error.startswith(reason)
            assert row.classes == ()


def test_order_is_that_of_the_arguments_and_natural_in_folders(
    saved: tuple[nn.Module, ModelDescription], tmp_path: Path
) -> None:
    image = random_image(32, 32, 3)
    for name in ("b/10.png", "b/2.png", "b/deep/1.png", "a/x.png", "b/²/1²3.png", "b/.cache/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / name)
    (tmp_path / "b" / "loop").symlink_to(tmp_path / "b")
    image.save(tmp_path / "photo", "PNG")
    (tmp_path / "empty").mkdir()
    names = ["photo", "nowhere.png", "b", "a/x.png", "empty", "a/x.png"]
    rows = list(predict(*saved, [tmp_path / name for name in names], top=1, device="cpu"))
    assert [(row.path.relative_to(tmp_path).as_posix(), row.error) for row in rows] == [
        ("photo", None),
        ("nowhere.png", "does not exist"),
        ("b/2.png", None),
        ("b/10.png", None),
        ("b/deep/1.png", None),
        ("b/²/1²3.png", None),
        ("a/x.png", None),
        ("empty", "there is no image in this folder"),
        ("a/x.png", None),
    ]


def test_a_folder_that_cannot_be_read_is_named(
    saved: tuple[nn.Module, ModelDescription], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def walk(top: Path, onerror: Any) -> Any:
        onerror(PermissionError(13, "Permission denied", str(top / "private")))
        return iter(())

    monkeypatch.setattr(os, "walk", walk)  # for the superuser, whom no permission stops
    rows = list(predict(*saved, [tmp_path], top=1, device="cpu"))
    assert rows == [Prediction(tmp_path / "private", error="the folder cannot be read: Permission denied")]


@pytest.mark.parametrize(("classes", "shown"), [(3, 3), (7, 5)])
def test_by_default_five_classes_are_shown_or_all_there_are(classes: int, shown: int, tmp_path: Path) -> None:
    random_image(8, 8, 3).save(tmp_path / "a.png")
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))
    description = ModelDescription(NAME, ARGUMENTS, tuple("abcdefg"[:classes]), SHOWN)
    (row,) = predict(model, description, [tmp_path], device="cpu")
    assert len(row.classes) == shown


def test_what_cannot_be_asked_for_is_refused(saved: tuple[nn.Module, ModelDescription]) -> None:
    with pytest.raises(ValueError, match="top is 8, and the model has 7 classes; it must be at most 7"):
        predict(*saved, [], top=8)
    with pytest.raises(ValueError, match="top is 0; it must be at least 1"):
        predict(*saved, [], top=0)
    with pytest.raises(ValueError, match="device is 'gpu', which cannot be used here"):
        predict(*saved, [], device="gpu")
    assert list(predict(*saved, [])) == []


def test_a_model_that_answers_nothing_finite_is_an_error_of_each_image(tmp_path: Path) -> None:
    model = small_model()
    nn.init.constant_(model.head.weight, float("nan"))
    random_image(32, 32, 3).save(tmp_path / "a.png")
    rows = list(predict(model, ModelDescription(NAME, ARGUMENTS, CLASSES, SHOWN), [tmp_path], device="cpu"))
    assert rows[0].error is not None
    assert "not finite" in rows[0].error


def test_too_little_memory_on_the_device_says_what_to_do(
    saved: tuple[nn.Module, ModelDescription], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    random_image(32, 32, 3).save(tmp_path / "a.png")
    monkeypatch.setattr(saved[0], "forward", run_out)
    with pytest.raises(LocalViTError, match="1 images at a time need more memory than cpu has; make --batch_size"):
        list(predict(*saved, [tmp_path], device="cpu"))


def test_images_are_read_no_further_ahead_than_two_batches(
    saved: tuple[nn.Module, ModelDescription], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_image(32, 32, 3).save(tmp_path / "a.png")
    read: list[str] = []
    original = localvit.evaluation.predict.decode_image

    def counted(path: Path, name: str, *, channels: int) -> Image.Image:
        read.append(name)
        return original(path, name, channels=channels)

    monkeypatch.setattr(localvit.evaluation.predict, "decode_image", counted)
    rows = iter(predict(*saved, [tmp_path / "a.png"] * 100, batch_size=8, workers=2, device="cpu"))
    for done in range(1, 101):
        next(rows)
        assert len(read) <= done + 2 * 8 + 2
    assert len(read) == 100


def printed(
    rows: list[Prediction], *, as_json: bool, terminal: bool = False, out_terminal: bool = False
) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    failures = print_predictions(
        Predictions(len(rows), iter(rows)),
        as_json=as_json,
        out=Console(file=out, width=40, force_terminal=out_terminal),
        err=Console(file=err, width=80, force_terminal=terminal),
    )
    return failures, out.getvalue(), err.getvalue()


GOOD = Prediction(
    Path("a [red].jpg"), (ClassProbability("tench, a fish\x1b[2J", 0.875), ClassProbability("ant", 1 / 8))
)
BAD = Prediction(Path("b\n.jpg"), error="is truncated")


def test_text_is_for_people() -> None:
    failures, out, err = printed([GOOD, BAD], as_json=False)
    assert failures == 1
    assert out == "a [red].jpg\n  87.50 %  tench, a fish\\x1b[2J\n  12.50 %  ant\n"
    error, summary = err.splitlines()
    assert error == "b\\n.jpg: is truncated"
    assert summary.startswith("2 images, 1 failed, ")
    assert summary.endswith(" images/s")
    assert "\x1b[31mb\\n.jpg" in printed([BAD], as_json=False, terminal=True)[2]


def test_json_is_a_line_for_each_image_and_nothing_else() -> None:
    failures, out, err = printed([GOOD, BAD, GOOD], as_json=True)
    assert failures == 1
    assert [json.loads(line) for line in out.splitlines()] == [
        {
            "path": "a [red].jpg",
            "predictions": [
                {"class": "tench, a fish\x1b[2J", "probability": 0.875},
                {"class": "ant", "probability": 0.125},
            ],
        },
        {"path": "b\n.jpg", "error": "is truncated"},
        {"path": "a [red].jpg", "predictions": json.loads(out.splitlines()[0])["predictions"]},
    ]
    assert err.startswith("3 images, 1 failed, ")


@pytest.mark.parametrize(("count", "terminal", "bar"), [(50, True, False), (51, True, True), (51, False, False)])
def test_a_bar_is_shown_for_many_images_on_a_terminal(count: int, terminal: bool, bar: bool) -> None:
    _, out, err = printed([GOOD] * count, as_json=True, terminal=terminal)
    assert ("━" in err) == bar
    assert (f"{count}/{count}" in err) == bar
    assert len(out.splitlines()) == count
    assert "\x1b" not in out


def test_rows_do_not_break_the_bar_where_both_go_to_a_terminal() -> None:
    _, out, err = printed([GOOD] * 60, as_json=False, terminal=True, out_terminal=True)
    assert out == ""
    assert err.count("87.50 %") == 60


def test_a_large_folder_is_predicted_whole_and_in_order(
    saved: tuple[nn.Module, ModelDescription], tmp_path: Path
) -> None:
    for index in range(300):
        Image.new("RGB", (40, 40), (index % 256, 90, 20)).save(tmp_path / f"{index}.png")
    (tmp_path / "150.png").write_bytes(b"")
    rows = list(predict(*saved, [tmp_path], device="cpu"))
    assert [int(row.path.stem) for row in rows] == list(range(300))
    assert [row.path.stem for row in rows if row.error] == ["150"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets its count of memory")
def test_ten_thousand_images_take_no_more_memory_than_a_thousand(
    saved: tuple[nn.Module, ModelDescription], tmp_path: Path
) -> None:
    image = random_image(400, 400, 3)  # 0.5 MB decoded: 5 GB for all of them
    for index in range(10_000):
        if index % 100 == 0:
            (tmp_path / str(index // 100)).mkdir()
            image.save(tmp_path / str(index // 100) / "0.jpg")
        else:
            os.link(tmp_path / str(index // 100) / "0.jpg", tmp_path / str(index // 100) / f"{index % 100}.jpg")

    def peak(folders: list[Path]) -> tuple[int, int]:
        Path("/proc/self/clear_refs").write_text("5")
        count = sum(row.error is None for row in predict(*saved, folders, device="cpu"))
        status = Path("/proc/self/status").read_text().splitlines()
        return count, next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

    few, few_kilobytes = peak([tmp_path / str(number) for number in range(10)])
    all_of_them, all_kilobytes = peak([tmp_path])
    assert (few, all_of_them) == (1000, 10_000)
    assert all_kilobytes < few_kilobytes + 100_000
