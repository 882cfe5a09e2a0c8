"""Parquet files and data sets of the hub, read through Hugging Face datasets without a network."""

import io
import pickle
import socket
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from localvit.data import BrokenImageError, DataConfig, DataError, ImageSource
from localvit.data.sources import open_parts, open_val


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a local set must not ask the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (3, 2), value).save(file, "PNG")
    return file.getvalue()


def write(file: Path, labels: list[Any], *, column: str = "label", kind: pa.DataType | None = None) -> None:
    """One image for each label, its pixels its row."""
    file.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": png(row), "path": f"{row}.png"} for row in range(len(labels))]
    pq.write_table(pa.table({"image": images, column: pa.array(labels, kind)}), file)


def grey(source: ImageSource, index: int) -> Any:
    return source.read(index).getpixel((0, 0))


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    return DataConfig(source="parquet", root=str(tmp_path / "set"), cache=str(tmp_path / "cache"))


def test_parquet(config: DataConfig, tmp_path: Path) -> None:
    write(tmp_path / "set/train.parquet", [2, 0, 1, 0])
    write(tmp_path / "set/val.parquet", [1, 0])
    parts = open_parts(config, channels=1)
    assert parts.train.class_names == parts.val.class_names == ("0", "1", "2")
    assert parts.train.labels_M.dtype == np.int64
    assert parts.train.labels_M.tolist() == [2, 0, 1, 0]
    assert parts.val.labels_M.tolist() == [1, 0]
    assert [grey(parts.train, i) for i in (3, 0, 2)] == [3, 0, 2]
    assert "row 3 (3.png)" in parts.train.name(3)
    assert open_val(config, channels=3).read(1).mode == "RGB"
    again = pickle.loads(pickle.dumps(parts.train))  # noqa: S301
    assert grey(again, 3) == 3


def test_a_file_that_changes_is_read_anew(config: DataConfig, tmp_path: Path) -> None:
    write(tmp_path / "set/val.parquet", [0, 1])
    assert len(open_val(config, channels=1).labels_M) == 2
    write(tmp_path / "set/val.parquet", [0, 1, 2])
    assert len(open_val(config, channels=1).labels_M) == 3


@pytest.mark.parametrize(
    "names", [["train-00000-of-2", "train-00001-of-2"], ["train2", "train10"], ["train/b2", "train/b10"], ["train"]]
)
def test_names_of_files(config: DataConfig, tmp_path: Path, names: list[str]) -> None:
    for place, name in enumerate(names):
        write(tmp_path / f"set/{name}.parquet", [place] * 2)
    if names == ["train"]:
        write(tmp_path / "set/train_small.parquet", [7])
    write(tmp_path / "set/val.parquet", [0])
    assert open_parts(config, channels=1).train.labels_M.tolist() == [p for p in range(len(names)) for _ in range(2)]


def test_no_file(config: DataConfig, tmp_path: Path) -> None:
    write(tmp_path / "set/test.parquet", [0])
    with pytest.raises(DataError) as error:
        open_val(config, channels=1)
    for said in ("val.parquet", "val-*.parquet", "val*.parquet", "val/*.parquet", "test.parquet", "--data.val_split"):
        assert said in str(error.value)


def test_a_path_with_signs_of_patterns(tmp_path: Path) -> None:
    root = tmp_path / "set [1]*"
    write(root / "val.parquet", [0])
    assert len(open_val(DataConfig(source="parquet", root=str(root), cache=str(tmp_path / "c")), channels=1).labels_M)


def test_a_damaged_file(config: DataConfig, tmp_path: Path) -> None:
    write(tmp_path / "set/val.parquet", [0])
    (tmp_path / "set/val.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="cannot be read"):
        open_val(config, channels=1)


def test_string_labels_are_sorted(config: DataConfig, tmp_path: Path) -> None:
    write(tmp_path / "set/train.parquet", ["dog", "ant", "cat", "ant"])
    write(tmp_path / "set/val.parquet", ["dog", "cat"])
    parts = open_parts(config, channels=1)
    assert parts.train.class_names == parts.val.class_names == ("ant", "cat", "dog")
    assert parts.train.labels_M.tolist() == [2, 0, 1, 0]
    assert parts.val.labels_M.tolist() == [2, 1]
    assert open_val(config, channels=1, class_names=("ant", "cat", "dog")).labels_M.tolist() == [2, 1]
    write(tmp_path / "set/val.parquet", ["dog", "emu"])
    with pytest.raises(DataError, match=r"not among the 3 training classes: emu \(1 images\)"):
        open_parts(config, channels=1)


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        ([0, 1, -1, -1], [0], r"label -1 \(2 images\); the 2 classes are 0 to 1"),
        (
            [0, 1],
            [0, 5, 5, 2],
            r"held-out .* has label 2 \(1 images\), label 5 \(2 images\); the 2 classes are 0 to 1",
        ),
        ([0, None, 1], [0], "no label in 1 of 3 rows, first in row 1"),
        ([0.0, 1.0], [0.0], "is of type double; labels must be integers or strings"),
        ([0, 2**40], [0], "number the classes from 0"),
        ([], [0], "train of .* has no images"),
    ],
)
def test_labels_that_cannot_be(
    config: DataConfig, tmp_path: Path, train: list[Any], val: list[Any], message: str
) -> None:
    write(tmp_path / "set/train.parquet", train, kind=None if train else pa.int64())
    write(tmp_path / "set/val.parquet", val)
    with pytest.raises(DataError, match=message):
        open_parts(config, channels=1)


def test_the_first_images_and_a_share_held_out(tmp_path: Path) -> None:
    write(tmp_path / "set/train.parquet", [0, 1] * 10)
    config = DataConfig(
        source="parquet", root=str(tmp_path / "set"), cache=str(tmp_path / "c"), held_out=0.3, train_images=5
    )
    parts = open_parts(config, channels=1)
    assert [grey(parts.train, i) for i in range(len(parts.train.labels_M))] == [0, 1, 2, 3, 4]
    assert [grey(parts.val, i) for i in range(len(parts.val.labels_M))] == [14, 15, 16, 17, 18, 19]


def test_broken_images_break_when_read(config: DataConfig, tmp_path: Path) -> None:
    images = [png(0), b"no image", None]
    (tmp_path / "set").mkdir()
    pq.write_table(pa.table({"photo": images, "label": [0, 0, 0]}), tmp_path / "set/val.parquet")
    with pytest.raises(DataError, match=r"no column image; name one of photo, label with --data\.image_key"):
        open_val(config, channels=1)
    named = DataConfig(source="parquet", root=config.root, cache=config.cache, image_key="photo")
    source = open_val(named, channels=1)
    assert grey(source, 0) == 0
    for row in (1, 2):
        with pytest.raises(BrokenImageError, match=f"row {row}"):
            source.read(row)
    with pytest.raises(DataError, match="column label, is of type int64; it must hold encoded images"):
        open_val(DataConfig(source="parquet", root=config.root, cache=config.cache, image_key="label"), channels=1)


def test_paths_start_in_the_root(config: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "set/photos").mkdir(parents=True)
    (tmp_path / "set/photos/a.png").write_bytes(png(9))
    pq.write_table(pa.table({"image": ["photos/a.png"], "label": [0]}), tmp_path / "set/val.parquet")
    assert grey(open_val(config, channels=1), 0) == 9


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A folder as the hub has it: split files and features in their metadata."""
    for split, labels in {"train": [1, 0, 1], "test": [0, 1]}.items():
        rows = {
            "img": [{"bytes": png(row), "path": None} for row in range(len(labels))],
            "fine": labels,
            "coarse": [0] * len(labels),
        }
        features = datasets.Features(
            {
                "img": datasets.Image(),
                "fine": datasets.ClassLabel(names=["zebra", "ape"]),
                "coarse": datasets.Value("int64"),
            }
        )
        folder = tmp_path / "hub/data"
        folder.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return tmp_path / "hub"


def test_a_set_of_the_hub(hub: Path, tmp_path: Path) -> None:
    config = DataConfig(source="huggingface", name=str(hub), val_split="test", cache=str(tmp_path / "cache"))
    parts = open_parts(config, channels=1)
    assert parts.train.class_names == ("zebra", "ape")
    assert parts.train.labels_M.tolist() == [1, 0, 1]
    assert grey(parts.train, 2) == 2
    with pytest.raises(DataError, match="has them in another order"):
        open_val(config, channels=1, class_names=("ape", "zebra"))
    coarse = DataConfig(
        source="huggingface", name=str(hub), val_split="test", cache=str(tmp_path / "cache"), label_key="coarse"
    )
    assert open_parts(coarse, channels=1).train.class_names == ("0",)


def test_what_the_hub_has_not(hub: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    with pytest.raises(DataError, match=r"--data\.name uoft-cs/cifar10"):
        open_val(DataConfig(source="huggingface"), channels=1)
    with pytest.raises(DataError) as error:
        open_val(DataConfig(source="huggingface", name=str(hub), cache=cache), channels=1)
    assert all(said in str(error.value) for said in ("split val", "train", "test"))
    with pytest.raises(DataError, match=r"no column breed; name one of img, fine, coarse with --data\.label_key"):
        open_val(
            DataConfig(source="huggingface", name=str(hub), val_split="test", cache=cache, label_key="breed"),
            channels=1,
        )
    with pytest.raises(DataError, match="nowhere cannot be read"):
        open_val(DataConfig(source="huggingface", name=str(tmp_path / "nowhere"), cache=cache), channels=1)
