"""torchvision's sets, downloaded from a small server on this machine: archives of the same form, a few images each."""

import hashlib
import io
import json
import pickle
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10, inaturalist

from localvit.data import DataConfig, DataError
from localvit.data.sources import open_parts, open_val


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as opened:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address it is served at."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def cifar(served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    folder, address = served
    pixels = {
        name: np.random.default_rng(seed).integers(0, 256, (4, 3072), np.uint8)
        for seed, name in enumerate(["data_batch_1", "test_batch"])
    }
    labels = {"data_batch_1": [1, 0, 1, 0], "test_batch": [0, 0, 1, 1]}
    batches = {name: pickle.dumps({"data": pixels[name], "labels": labels[name]}) for name in pixels}
    batches["batches.meta"] = pickle.dumps({"label_names": ["airplane", "automobile"]})
    content = archive({f"cifar-10-batches-py/{name}": batch for name, batch in batches.items()})
    (folder / CIFAR10.filename).write_bytes(content)
    monkeypatch.setattr(CIFAR10, "url", f"{address}/{CIFAR10.filename}")
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(content))
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", md5(batches["data_batch_1"])]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5(batches["test_batch"])]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(batches["batches.meta"])})
    return {"pixels": pixels, "labels": labels}


def test_cifar_downloads_and_reads(cifar: dict[str, Any], tmp_path: Path) -> None:
    config = DataConfig(source="torchvision", name="cifar10", root=str(tmp_path / "new"))
    with pytest.raises(DataError, match=r"cifar10 is missing or incomplete in .*--data\.download true"):
        open_parts(config, channels=3)
    parts = open_parts(
        DataConfig(source="torchvision", name="cifar10", root=str(tmp_path / "new"), download=True), channels=3
    )
    assert parts.train.class_names == ("airplane", "automobile")
    assert parts.val.labels_M.tolist() == cifar["labels"]["test_batch"]
    expected_HWC = cifar["pixels"]["data_batch_1"][2].reshape(3, 32, 32).transpose(1, 2, 0)
    np.testing.assert_array_equal(np.asarray(parts.train.read(2)), expected_HWC)
    assert open_val(config, channels=1).read(0).mode == "L"  # it is there now


def test_a_download_that_fails(cifar: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR10, "url", f"{CIFAR10.url}.gone")
    with pytest.raises(DataError, match="could not be downloaded"):
        open_val(DataConfig(source="torchvision", name="cifar10", root=str(tmp_path), download=True), channels=3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("CIFAR-10", r"here are cifar10.*\. Did you mean cifar10\?"),
        ("mnist", "here are cifar10, cifar100, inaturalist_2018"),
        (None, "is None"),
    ],
)
def test_unknown_names(name: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        open_val(DataConfig(source="torchvision", name=name, root=str(tmp_path)), channels=3)


PLACES = {"Aves": ["1", "2"], "Plantae": ["0", "3"]}


@pytest.fixture
def nature(served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three images of each of four species, in the archive of 2018."""
    folder, address = served
    files = {}
    for above, species in PLACES.items():
        for number in species:
            for place in range(3):
                image = io.BytesIO()
                Image.new("RGB", (8, 8), (int(number) * 10, place, 0)).save(image, "PNG")
                files[f"train_val2018/{above}/{number}/{place}.jpg"] = image.getvalue()
    content = archive(files)
    (folder / "train_val2018.tar.gz").write_bytes(content)
    monkeypatch.setitem(inaturalist.DATASET_URLS, "2018", f"{address}/train_val2018.tar.gz")
    monkeypatch.setitem(inaturalist.DATASET_MD5, "2018", md5(content))
    return list(files)


def inat(root: Path, **options: Any) -> DataConfig:
    return DataConfig(source="torchvision", name="inaturalist_2018", root=str(root), **options)


def test_inaturalist_without_its_lists(nature: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--data\.download true"):
        open_parts(inat(tmp_path / "new", held_out=0.3), channels=3)
    parts = open_parts(inat(tmp_path / "new", held_out=0.3, download=True), channels=3)
    assert parts.train.class_names == ("Plantae/0", "Aves/1", "Aves/2", "Plantae/3")
    assert parts.train.labels_M.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert parts.val.labels_M.tolist() == [0, 1, 2, 3]
    assert parts.val.read(3).getpixel((0, 0)) == (30, 2, 0)
    with pytest.raises(DataError, match=r"train2018\.json does not exist.*held_out"):
        open_parts(inat(tmp_path / "new"), channels=3)
    above = open_parts(inat(tmp_path / "new", held_out=0.3, category="super"), channels=3)
    assert above.train.class_names == ("Aves", "Plantae")
    assert {above.train.name(i).split("/")[-3] for i in np.flatnonzero(above.train.labels_M).tolist()} == {"Plantae"}


def test_inaturalist_with_its_lists(nature: list[str], tmp_path: Path) -> None:
    root = tmp_path / "new"
    open_parts(inat(root, held_out=0.3, download=True), channels=3)
    for part, ending in (("train", ("0.jpg", "2.jpg")), ("val", "1.jpg")):
        images = [{"file_name": name} for name in reversed(nature) if name.endswith(ending)]
        (root / f"{part}2018.json").write_text(json.dumps({"images": images}))
    parts = open_parts(inat(root), channels=3)
    assert parts.train.labels_M.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [parts.train.read(i).getpixel((0, 0)) for i in (0, 1)] == [(0, 0, 0), (0, 2, 0)]
    assert [parts.val.read(i).getpixel((0, 0)) for i in range(4)] == [(10 * i, 1, 0) for i in range(4)]
    (root / "train2018.json").unlink()
    assert len(open_val(inat(root), channels=3).labels_M) == 4
    (root / "2018/Aves/1/1.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of the 4 images of .*val2018\.json are not in .*Aves/1/1\.jpg"):
        open_val(inat(root), channels=3)
    (root / "val2018.json").write_text("[]")
    with pytest.raises(DataError, match="is not a list of images"):
        open_val(inat(root), channels=3)
