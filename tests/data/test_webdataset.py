"""WebDataset shards, written with tarfile."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from localvit.data import BrokenImageError, DataConfig, DataError
from localvit.data.sources import open_parts, open_val


def encoded(kind: str, value: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), value).save(file, kind)
    return file.getvalue()


def write(shard: Path, files: dict[str, bytes]) -> None:
    shard.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(shard, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def config(folder: Path, **options: Any) -> DataConfig:
    return DataConfig(source="webdataset", root=str(folder / "set"), cache=str(folder / "cache"), **options)


def test_kinds_of_images_may_mix(tmp_path: Path) -> None:
    write(
        tmp_path / "set/train-000.tar",
        {
            "a/0.jpg": encoded("jpeg", 10),
            "a/0.cls": b"0\n",
            "a/1.png": encoded("png", 20),
            "a/1.cls": b"1",
            "a/1.json": b'{"by": "someone"}',
        },
    )
    write(tmp_path / "set/train-001.tar", {"b.JPEG": encoded("jpeg", 30), "b.cls": b"2", "b.txt": b"a note"})
    write(
        tmp_path / "set/val-000.tar", {"c.cls": b"1", "c.webp": encoded("webp", 40), "d.jpg": b"broken", "d.cls": b"0"}
    )
    parts = open_parts(config(tmp_path), channels=1)
    assert parts.train.labels_M.tolist() == [0, 1, 2]
    assert parts.train.class_names == parts.val.class_names == ("0", "1", "2")
    values = [parts.train.read(i).getpixel((0, 0)) for i in range(3)] + [parts.val.read(0).getpixel((0, 0))]
    assert values == pytest.approx([10, 20, 30, 40], abs=2)
    assert "train-001.tar" in parts.train.name(2)
    with pytest.raises(BrokenImageError, match=r"val-000.tar.*d.jpg"):
        parts.val.read(1)


@pytest.mark.parametrize(("values", "names"), [(["dog", "cat"], ("cat", "dog")), ([1, 0], ("0", "1"))])
def test_labels_in_json(tmp_path: Path, values: list[Any], names: tuple[str, ...]) -> None:
    files = {}
    for place, value in enumerate(values):
        files[f"{place}.jpg"] = encoded("jpeg", 0)
        files[f"{place}.json"] = json.dumps({"width": place, "kind": value}).encode()
    write(tmp_path / "set/val.tar", files)
    source = open_val(config(tmp_path, label_key="kind"), channels=1)
    assert source.class_names == names
    assert source.labels_M.tolist() == [1, 0]
    with pytest.raises(DataError, match=r"no field breed in the \.json of its first sample; it has kind, width"):
        open_val(config(tmp_path, label_key="breed"), channels=1)


def test_labels_in_text(tmp_path: Path) -> None:
    write(
        tmp_path / "set/val.tar",
        {"a.jpg": encoded("jpeg", 0), "a.txt": b"dog\n", "b.jpg": encoded("jpeg", 0), "b.txt": b"cat"},
    )
    source = open_val(config(tmp_path, label_key="txt"), channels=1)
    assert (source.class_names, source.labels_M.tolist()) == (("cat", "dog"), [1, 0])


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"a.jpg": b"", "a.cls": b"0", "b.jpg": b""}, {}, "no label in 1 of 2 rows, first in row 1"),
        ({"a.jpg": b"", "a.cls": b"dog"}, {}, "cannot be read: invalid literal.*dog"),
        ({"a.jpg": b"", "a.cls": b"-1"}, {}, "label -1"),
        ({"a.jpg": b"", "a.cls": b"0"}, {"label_key": "kind"}, "has cls, jpg in its first sample and no .json"),
        ({"a.jpg": b"", "a.json": b"{"}, {"label_key": "kind"}, ".json in its first sample that cannot be read"),
    ],
)
def test_labels_that_cannot_be(tmp_path: Path, files: dict[str, bytes], options: dict[str, Any], message: str) -> None:
    write(tmp_path / "set/val.tar", files)
    with pytest.raises(DataError, match=message):
        open_val(config(tmp_path, **options), channels=1)


def test_no_shards(tmp_path: Path) -> None:
    write(tmp_path / "set/other.tar", {})
    with pytest.raises(DataError, match=r"none of val.tar, .*; it has other.tar"):
        open_val(config(tmp_path), channels=1)
    (tmp_path / "set/val.tar").write_bytes(b"no archive at all")
    with pytest.raises(DataError, match="cannot be read"):
        open_val(config(tmp_path), channels=1)
