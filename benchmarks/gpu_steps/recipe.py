"""Step 3: ``recipes/cifar10.yaml`` as far as it gets in its time, on CIFAR-10 if it is there."""

import math
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pandas as pd
import yaml
from lightning.pytorch.callbacks import Callback
from PIL import Image

from gpu_steps.models import Place
from gpu_steps.running import Item, OutOfTime, Row, Skipped, Step
from localvit.system.shipped import find
from localvit.training.overrides import run_config, with_overrides
from localvit.training.run_folder import METRICS, run

COLUMNS = ("recipe", "images", "precision", "epochs", "images/s", "waited for data, %", "train loss", "top-1, %")
SECONDS, SECONDS_SYNTHETIC = 60.0, 25.0
CLASSES = 10
TRIAL = {
    "model.arguments": {"patch_size": 4, "window_size": 4, "embed_dim": 16, "depths": [1], "num_heads": [2]},
    "training.epochs": 2,
    "training.warmup_epochs": 1,
    "training.batch_size": 16,
    "hardware.accelerator": "cpu",
}


def step(place: Place, root: Path | None) -> Step:
    """The step for a machine; ``root`` has the files of CIFAR-10, or is None."""
    return Step(
        "recipe",
        "The recipe of CIFAR-10",
        "`localvit train cifar10` as far as it got in its time; top-1 is that of the last full epoch. Synthetic images "
        "are noise of the same size: they show the speed, and nothing about accuracy.",
        COLUMNS,
        0.1,
        (
            Item("CIFAR-10", partial(_on_cifar10, place, root)),
            Item("synthetic images", partial(train_on_noise, place, {})),
        ),
    )


class Stop(Callback):
    """Ends training when its time is up: after the first full epoch that took all of it, or between two steps."""

    def __init__(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Raise :class:`OutOfTime` between two steps."""
        if time.monotonic() > self.deadline:
            raise OutOfTime


def _on_cifar10(place: Place, root: Path | None) -> list[Row]:
    if root is None:
        raise Skipped("there are no images; give the folder of train.parquet and test.parquet with --data.root")
    return [train(place, "CIFAR-10", {"data.root": str(root)}, SECONDS)]


def train_on_noise(place: Place, changes: Mapping[str, Any]) -> list[Row]:
    """Train the recipe, with ``changes`` of its fields, on noise."""
    with tempfile.TemporaryDirectory() as folder:
        _write_noise(Path(folder), 8 if place.quick else 1000)
        source: dict[str, Any] = {"data.source": "folder", "data.root": folder, "data.val_split": "val"}
        # A dry run has few steps, and may have to share a slow machine.
        seconds = math.inf if place.quick else SECONDS_SYNTHETIC
        return [train(place, "synthetic", source | dict(changes), seconds)]


def train(place: Place, images: str, changes: Mapping[str, Any], seconds: float) -> Row:
    """Train for so long. The line has the metrics of the last full epoch.

    A non-finite loss raises an error, as it does in every run.
    """
    recipe = run_config(yaml.safe_load(find("cifar10", "recipe").read_text()))
    shared = {"training.checkpoint_minutes": 60, "logging.tensorboard": False, **(TRIAL if place.quick else {})}
    config = with_overrides(recipe, shared | dict(changes))
    stopped = False
    with tempfile.TemporaryDirectory() as folder:
        run_folder = Path(folder) / "run"
        try:
            run(config, run_folder, callbacks=[Stop(seconds)])
        except OutOfTime:
            stopped = True
        if not (run_folder / METRICS).exists():
            raise RuntimeError(f"no epoch ended in {seconds:.0f} s")
        epochs = pd.read_csv(run_folder / METRICS).to_dict("records")
    last = epochs[-1]
    broken = [str(name) for name, value in last.items() if not math.isfinite(value)]
    return {
        "recipe": "cifar10",
        "images": images,
        "precision": config.hardware.precision,
        "epochs": f"{len(epochs)} of {config.training.total_epochs}{', then its time was up' if stopped else ''}",
        "images/s": last["images_per_second"],
        "waited for data, %": 100 * last["waited_for_data"],
        "train loss": last["train_loss"],
        "top-1, %": last["val_top1"] if images == "CIFAR-10" else None,
        "every epoch": epochs,
        "fault": f"not finite: {', '.join(broken)}" if broken else "",
    }


def _write_noise(folder: Path, images_a_class: int) -> None:
    """Noise of 32 x 32 pixels, as many images to train with as stated, and a tenth as many to validate on."""
    generator = np.random.default_rng(0)
    for part, count in (("train", images_a_class), ("val", max(1, images_a_class // 10))):
        for label in range(CLASSES):
            place = folder / part / str(label)
            place.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png", compress_level=1)
