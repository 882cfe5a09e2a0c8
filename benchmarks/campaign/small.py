"""Images, recipes and studies so small that a command takes a second, with all that a large one has."""

import io
import os
import tarfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import timm
import torch
import yaml
from PIL import Image

from localvit.models.weights.checkpoints import save_checkpoint

Source = Literal["folder", "parquet", "webdataset"]
SOURCES: tuple[Source, ...] = ("folder", "parquet", "webdataset")

_CLASSES, _SIDE = 3, 12
_IMAGES = {"train": 24, "val": 8}  # of each class
_LONG_AGO = 1_600_000_000
_STUDY = {
    "name": "small",
    "question": "Does it help?",
    "baseline": "DeiT",
    "seeds": [0, 1],
    "variants": {"DeiT": {}, "no depth-wise": {"model.locality": {"depthwise": False}}},
}


def write_images(folder: Path) -> None:
    """The same images below ``folder`` as an image folder, as Parquet files and as WebDataset shards."""
    random = np.random.default_rng(0)
    for split, count in _IMAGES.items():
        labels = [label for _ in range(count) for label in range(_CLASSES)]
        images = [_png(random, label) for label in labels]
        for number, (label, image) in enumerate(zip(labels, images, strict=True)):
            path = folder / "folder" / split / f"class {label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
        (folder / "parquet").mkdir(exist_ok=True)
        cells = [{"bytes": image, "path": f"{number}.png"} for number, image in enumerate(images)]
        pq.write_table(pa.table({"image": cells, "label": labels}), folder / "parquet" / f"{split}.parquet")
        (folder / "webdataset").mkdir(exist_ok=True)
        with tarfile.open(folder / "webdataset" / f"{split}-000.tar", "w") as shard:
            for number, (label, image) in enumerate(zip(labels, images, strict=True)):
                _add(shard, f"{number:03}.png", image)
                _add(shard, f"{number:03}.cls", str(label).encode())
    for path in [*(folder / "folder").rglob("*/"), folder / "folder"]:
        os.utime(path, (_LONG_AGO, _LONG_AGO))  # an index of a folder that has just changed is not kept


def _png(random: np.random.Generator, label: int) -> bytes:
    pixels = random.integers(0, 128, (_SIDE, _SIDE, 3)) + 60 * label
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def _add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))


def recipe(data: dict[str, Any], *, workers: int = 0, minutes: float = 1e-6, epochs: int = 3) -> dict[str, Any]:
    """A training run of one or two seconds. All that is drawn at random is: order, crops, mixing, stochastic depth.

    Args:
        data: fields of the data.
        workers: number of loading processes.
        minutes: between checkpoints; by default, there is one after every step.
        epochs: besides one of cool-down.
    """
    arguments = {"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2, "drop_path_rate": 0.2}
    training = {"epochs": epochs, "cooldown_epochs": 1, "warmup_epochs": 1, "batch_size": 8, "accumulate": 2}
    return {
        "model": {"name": "deit_tiny_patch16_224", "arguments": arguments, "locality": {}},
        "data": data,
        "input": {"image_size": [12, 12], "channels": 3, "crop_fraction": 1.0},
        "augmentation": {"policy": None, "repeats": 1},
        "training": training | {"learning_rate": 3e-3, "ema_decay": 0.9, "checkpoint_minutes": minutes},
        "hardware": {"accelerator": "cpu", "threads": 1, "workers": workers},
        "logging": {"tensorboard": False},
    }


def source_of(images: Path, kind: Source, cache: Path) -> dict[str, Any]:
    """The fields of the data for images of :func:`write_images`."""
    return {"source": kind, "root": str(images / kind), "cache": str(cache)}


def evaluation(checkpoint: Path, data: dict[str, Any], output: Path) -> list[str]:
    """The words of the command that evaluates a checkpoint on the ``data`` of :func:`source_of`."""
    fields = [word for name, value in data.items() for word in (f"--data.{name}", value)]
    options = ["--hardware.accelerator", "cpu", "--hardware.threads", "1", "--hardware.workers", "0"]
    return ["eval", "--checkpoint", str(checkpoint), *fields, *options, "--output", str(output)]


def training_of_study(study: Path, scale: Path, output: Path) -> list[str]:
    """The words of the command that runs a study of :func:`write_study`."""
    options = ["--measure", "false", "--jobs", "2", "--output", str(output)]
    return ["study", str(study), "--scale", str(scale), *options]


def digits_recipe() -> dict[str, Any]:
    """A run on 72 digits, for studies."""
    values = recipe({"source": "digits", "held_out": 0.25, "train_images": 72, "val_images": 36})
    return values | {"input": {"image_size": [8, 8], "channels": 1, "mean": [0.3], "std": [0.37], "crop_fraction": 1.0}}


def write(path: Path, values: dict[str, Any]) -> Path:
    """Write a recipe as YAML."""
    path.write_text(yaml.safe_dump(values))
    return path


def write_study(folder: Path, values: dict[str, Any] | None = None) -> tuple[Path, Path]:
    """A study of two variants and two seeds, and its scale: a recipe, by default of digits."""
    return write(folder / "small.yaml", _STUDY), write(folder / "tiny.yaml", values or digits_recipe())


def save_paper_model(path: Path) -> None:
    """Weights of the smallest model of the paper, drawn at random, as its file."""
    torch.manual_seed(0)
    save_checkpoint(timm.create_model("localvit_tiny_patch16_224"), path)
