"""Folders of images, and the list of them that is kept for the next start."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from PIL import Image

from localvit.data import DataConfig, DataError
from localvit.data.sources import index, open_parts, open_val
from localvit.data.sources.folder import ImageFolder
from localvit.data.sources.index import index_folder

FILES = {
    "train/cat/img10.jpg": "red",
    "train/cat/img2.jpg": "green",
    "train/cat/night/a.png": "blue",
    "train/dog2/x.JPG": "white",
    "train/dog10/y.webp": "black",
    "val/cat/v.jpg": "red",
    "val/dog2/v.bmp": "red",
    "val/dog10/v.gif": "red",
}


def paint(root: Path, files: dict[str, str]) -> None:
    for name, color in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), color).save(root / name)


def age(root: Path, *, days: int = 1000) -> None:
    """Make every folder old enough for its list to be kept."""
    for folder, _, _ in os.walk(root):
        os.utime(folder, (86400 * days, 86400 * days))


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    paint(tmp_path / "set", FILES)
    return DataConfig(root=str(tmp_path / "set"), cache=str(tmp_path / "cache"))


def root_of(config: DataConfig) -> Path:
    return Path(str(config.root))


def test_classes_are_the_first_folders_in_natural_order(config: DataConfig) -> None:
    root = root_of(config)
    for ignored in ("train/cat/notes.txt", "train/cat/._img2.jpg", "train/list.csv", "train/.cache/z.jpg", "train/jpg"):
        (root / ignored).parent.mkdir(exist_ok=True)
        (root / ignored).write_text("no image")
    parts = open_parts(config, channels=3)
    assert parts.train.class_names == parts.val.class_names == ("cat", "dog2", "dog10")
    names = [Path(parts.train.name(i)).relative_to(root).as_posix() for i in range(len(parts.train.labels_M))]
    assert names == [
        "train/cat/img2.jpg",
        "train/cat/img10.jpg",
        "train/cat/night/a.png",
        "train/dog2/x.JPG",
        "train/dog10/y.webp",
    ]
    assert parts.train.labels_M.tolist() == [0, 0, 0, 1, 2]
    blue = parts.train.read(2)
    assert (blue.mode, blue.getpixel((0, 0))) == ("RGB", (0, 0, 255))
    assert open_val(config, channels=1).read(0).mode == "L"


def test_a_source_goes_to_other_processes(config: DataConfig) -> None:
    train = pickle.loads(pickle.dumps(open_parts(config, channels=3).train))  # noqa: S301
    assert train.read(2).getpixel((0, 0)) == (0, 0, 255)


@pytest.mark.parametrize(("train", "val"), [("training", "validation"), ("train", "test"), ("training", "valid")])
def test_other_names_of_the_parts(config: DataConfig, train: str, val: str) -> None:
    root = root_of(config)
    (root / "train").rename(root / "other")
    (root / "other").rename(root / train)
    (root / "val").rename(root / val)
    parts = open_parts(config, channels=3)
    assert (len(parts.train.labels_M), len(parts.val.labels_M)) == (5, 3)


def test_evaluation_needs_no_train_folder(config: DataConfig) -> None:
    shutil.rmtree(root_of(config) / "train")
    assert open_val(config, channels=3).class_names == ("cat", "dog2", "dog10")
    with pytest.raises(DataError, match="lacks bird"):
        open_val(config, channels=3, class_names=("bird", "cat", "dog2", "dog10"))


def test_classes_in_the_root(tmp_path: Path) -> None:
    paint(tmp_path, {f"{kind}/{i}.png": "red" for kind in ("cat", "dog") for i in range(5)})
    with pytest.raises(DataError, match=r"has cat, dog; expected train or training.*--data\.held_out 0\.2") as error:
        open_parts(DataConfig(root=str(tmp_path), cache=str(tmp_path / ".cache")), channels=3)
    assert str(tmp_path) in str(error.value)
    parts = open_parts(DataConfig(root=str(tmp_path), cache=str(tmp_path / ".cache"), held_out=0.2), channels=3)
    assert [Path(parts.val.name(i)).name for i in range(2)] == ["4.png", "4.png"]
    assert parts.train.labels_M.tolist() == [0] * 4 + [1] * 4


def test_a_mistyped_part_is_no_class(config: DataConfig) -> None:
    with pytest.raises(DataError, match="expected trian"):
        open_parts(DataConfig(root=config.root, cache=config.cache, held_out=0.2, train_split="trian"), channels=3)


@pytest.mark.parametrize("part", ["train", "val"])
def test_an_empty_class_is_named(config: DataConfig, part: str) -> None:
    (root_of(config) / part / "horse").mkdir()
    with pytest.raises(DataError, match=rf"{part} has no images in horse"):
        open_parts(config, channels=3)


@pytest.mark.parametrize(("part", "message"), [("train", "lacks horse"), ("val", "also has horse")])
def test_a_class_of_one_part_alone_is_named(config: DataConfig, part: str, message: str) -> None:
    paint(root_of(config), {f"{part}/horse/h.png": "red"})
    with pytest.raises(DataError, match=message):
        open_parts(config, channels=3)


def test_no_class_folders(tmp_path: Path) -> None:
    paint(tmp_path, {"train/a.png": "red"})
    with pytest.raises(DataError, match="has no folders; it must have one for each class"):
        open_parts(DataConfig(root=str(tmp_path), cache=str(tmp_path / "cache")), channels=3)


def test_links_are_followed_and_circles_left(config: DataConfig) -> None:
    root = root_of(config)
    (root / "train" / "cat").rename(root / "elsewhere")
    (root / "train" / "cat").symlink_to(root / "elsewhere")
    (root / "elsewhere" / "back").symlink_to(root / "train")
    assert open_parts(config, channels=3).train.labels_M.tolist() == [0, 0, 0, 1, 2]


def test_a_link_in_a_circle_is_one_broken_image(config: DataConfig) -> None:
    (root_of(config) / "train/cat/img3.jpg").symlink_to("img3.jpg")
    train = open_parts(config, channels=3).train
    assert Path(train.name(1)).name == "img3.jpg"
    with pytest.raises(DataError, match=r"train/cat/img3\.jpg: is a link in a circle of links"):
        train.read(1)


def test_names_that_are_no_unicode(config: DataConfig) -> None:
    folder = os.fsencode(root_of(config)) + b"/train/cat/"
    try:
        os.rename(folder + b"img2.jpg", folder + b"img\xff.jpg")  # noqa: PTH104
    except OSError:
        pytest.skip("this file system has Unicode names only")
    age(root_of(config))
    for _ in range(2):
        train = open_parts(config, channels=3).train
        assert [train.read(i).size for i in range(3)] == [(4, 4)] * 3
        names = [train.name(i) for i in range(3)]
        assert sum(name.endswith(r"img\xff.jpg") for name in names) == 1
        assert all(name.encode().decode() == name for name in names)  # a list of broken images can be written
    os.rename(folder, folder[:-5] + b"/c\xe9t")  # noqa: PTH104
    with pytest.raises(DataError, match=r"class folders whose names are not UTF-8: c\\xe9t; rename them"):
        open_parts(config, channels=3)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """2,000 files in 20 folders and one below each."""
    for label in range(20):
        for folder in (tmp_path / f"many/class{label}", tmp_path / f"many/class{label}/below"):
            folder.mkdir(parents=True)
            for number in range(50):
                (folder / f"{number}.jpg").touch()
    age(tmp_path / "many")
    return tmp_path / "many"


def rescans(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    scan = Mock(wraps=index.scan)
    with monkeypatch.context() as patched:
        patched.setattr(index, "scan", scan)
        table = index_folder(folder, cache)
    files = sum(len(names) for _, _, names in os.walk(folder))
    assert len(ImageFolder(folder, table, 3).labels_M) == files
    return scan.called


def test_the_second_start_lists_nothing(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rescans(many, tmp_path / "cache", monkeypatch)
    first = index_folder(many, tmp_path / "cache")
    assert not rescans(many, tmp_path / "cache", monkeypatch)
    shutil.rmtree(tmp_path / "cache")
    assert index_folder(many, tmp_path / "cache").equals(first)


CHANGES: dict[str, Callable[[Path], object]] = {
    "new file": lambda many: (many / "class3/new.jpg").touch(),
    "removed file": lambda many: (many / "class3/below/7.jpg").unlink(),
    "new class": lambda many: shutil.copytree(many / "class3", many / "class20"),
    "removed class": lambda many: shutil.rmtree(many / "class3"),
    "new folder below": lambda many: (many / "class3/below/more").mkdir(),
    "renamed": lambda many: (many / "class3/7.jpg").rename(many / "class3/seven.jpg"),
    "touched folder below": lambda many: os.utime(many / "class3/below"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_is_listed_anew(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    index_folder(many, tmp_path / "cache")
    CHANGES[change](many)
    assert rescans(many, tmp_path / "cache", monkeypatch)
    age(many, days=2000)
    assert rescans(many, tmp_path / "cache", monkeypatch)
    assert not rescans(many, tmp_path / "cache", monkeypatch)


def test_a_list_of_a_moment_ago_is_not_trusted(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (many / "class3/new.jpg").touch()
    assert rescans(many, tmp_path / "cache", monkeypatch)
    assert rescans(many, tmp_path / "cache", monkeypatch)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_list_is_made_anew(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    index_folder(many, tmp_path / "cache")
    (file,) = (tmp_path / "cache" / "indexes").iterdir()
    whole = bytearray(file.read_bytes())
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 0xFF
    damaged = {"cut": whole[: len(whole) // 2], "flipped": flipped, "empty": bytearray(), "other": bytearray(b"PAR1")}
    file.write_bytes(damaged[damage])
    assert rescans(many, tmp_path / "cache", monkeypatch)
    assert not rescans(many, tmp_path / "cache", monkeypatch)


def test_a_cache_that_cannot_be_written(many: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert len(ImageFolder(many, index_folder(many, tmp_path / "cache"), 3).labels_M) == 2000
    assert "could not be cached" in caplog.text


def test_the_default_cache(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    for number in range(20):
        (many / f"class{number}").rename(many / f"{number}")
    age(many)
    open_parts(DataConfig(root=str(many), held_out=0.5), channels=3)
    assert len(list((tmp_path / "xdg/localvit/indexes").glob("*.parquet"))) == 1


def test_a_long_listing_shows_its_count(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    index_folder(many, tmp_path / "cache1")
    assert not capfd.readouterr().err
    monkeypatch.setattr(index, "_QUIET_SECONDS", -1.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "400")
    index_folder(many, tmp_path / "cache2")
    shown = capfd.readouterr()
    assert "2,000 images" in shown.err
    assert not shown.out
