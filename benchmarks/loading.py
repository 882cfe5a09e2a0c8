"""Does loading slow training down? Images per second of the loader alone, the training step alone, and both together.

    python benchmarks/loading.py                                    # synthetic photos of 500 x 375 pixels
    python benchmarks/loading.py --config src/localvit/recipes/cifar10_micro.yaml --data.root CIFAR10

The three take turns, so that a slow moment of the machine affects all of them; medians over the turns are reported.
"Together" is an ordinary run of the trainer. ``--output`` writes the figures as JSON.
"""

import dataclasses
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path

import lightning.pytorch as lightning
import numpy as np
import torch
from jsonargparse import ActionConfigFile, ArgumentParser
from lightning.pytorch.callbacks import Callback
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import Dataset

from localvit.benchmark import provenance
from localvit.data import DataConfig
from localvit.data.dataset import Batch, Sample
from localvit.data.module import ImageData, TrainingLoader
from localvit.data.order import Draw
from localvit.data.sources import open_parts
from localvit.system.files import write_text
from localvit.system.terminal import quiet
from localvit.training import RunConfig
from localvit.training.classifier import Classifier
from localvit.training.initial_model import build_model
from localvit.training.trainer import build_trainer


class _Memory(Dataset[Sample]):
    """One batch in memory, so that only the step takes time."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __getitems__(self, draws: list[Draw]) -> Batch:
        return self.batch


class _FromMemory(ImageData):
    """The same batches without any loading."""

    def train_dataloader(self) -> TrainingLoader:
        loader = super().train_dataloader()
        return TrainingLoader(_Memory(next(iter(loader))), loader.order, batch_size=self.batch_size)


class _Rate(Callback):
    """Images per second after the warm-up steps."""

    def __init__(self, warmup: int, steps: int) -> None:
        self.warmup, self.steps = warmup, steps

    def on_train_batch_start(self, trainer: lightning.Trainer, *args: object) -> None:
        self._settle()
        if trainer.global_step == self.warmup:
            self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: object) -> None:
        self._settle()
        if trainer.global_step == self.warmup + self.steps:
            self.seconds = time.perf_counter() - self.start
            trainer.should_stop = True
            trainer.limit_val_batches = 0

    def _settle(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def photographs(folder: Path, *, classes: int = 4, images: int = 60) -> None:
    """JPEGs of the size and statistics of ImageNet photos: smooth shapes and some grain."""
    rng = np.random.default_rng(0)
    for part, number in itertools.product(("train", "val"), range(classes)):
        place = folder / part / f"class{number}"
        place.mkdir(parents=True)
        for index in range(images if part == "train" else 4):
            coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((500, 375))
            grain_HWC = np.asarray(coarse, dtype=np.int16) + rng.integers(-12, 13, (375, 500, 3))
            Image.fromarray(grain_HWC.clip(0, 255).astype(np.uint8)).save(place / f"{index}.jpg", quality=90)


def loader_rate(data: ImageData, *, warmup: int, steps: int) -> float:
    """Images per second of the loader alone."""
    loader = data.train_dataloader()
    batches = itertools.chain.from_iterable(loader for _ in itertools.count())
    for _ in itertools.islice(batches, warmup):
        pass
    start = time.perf_counter()
    for _ in itertools.islice(batches, steps):
        pass
    return steps * data.batch_size / (time.perf_counter() - start)


def step_rate(config: RunConfig, data: ImageData, *, num_classes: int, warmup: int, steps: int) -> float:
    """Images per second of an ordinary run on ``data``."""
    torch.manual_seed(config.seed)
    classifier = Classifier(
        build_model(config.model, config.input, num_classes=num_classes), config, num_classes=num_classes
    )
    if config.hardware.compile:
        classifier.model.compile()
    rate = _Rate(warmup, steps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(config, Path(folder), [rate])
        trainer.fit(classifier, datamodule=data)
    return steps * data.batch_size / rate.seconds


def main() -> None:
    """Measure, print and write."""
    quiet()
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_class_arguments(RunConfig)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=3, help="steps before the clock starts")
    parser.add_argument("--steps", type=int, default=20, help="steps on the clock")
    parser.add_argument("--output", type=str | None, default=None)
    options = parser.instantiate(parser.parse_args())
    config = RunConfig(**{field.name: options[field.name] for field in dataclasses.fields(RunConfig)})
    config = dataclasses.replace(config, logging=dataclasses.replace(config.logging, tensorboard=False))
    with tempfile.TemporaryDirectory() as folder:
        if config.data == DataConfig():
            photographs(Path(folder))
            config = dataclasses.replace(config, data=DataConfig(root=folder, cache=folder))
        figures = measure(config, turns=options.turns, warmup=options.warmup, steps=options.steps)
    report(figures, options.output)


def measure(config: RunConfig, *, turns: int, warmup: int, steps: int) -> dict[str, object]:
    """Measure the three in turns."""
    parts = open_parts(config.data, channels=config.input.channels)
    num_classes = len(parts.train.class_names)

    def data(kind: type[ImageData]) -> ImageData:
        return kind(
            parts.val,
            config.data,
            config.input,
            batch_size=config.training.batch_size,
            workers=config.hardware.workers,
            train=parts.train,
            augmentation=config.augmentation,
        )

    how = {"warmup": warmup, "steps": steps}
    rates: dict[str, list[float]] = {"loader": [], "step": [], "together": []}
    for _ in range(turns):
        rates["loader"].append(loader_rate(data(ImageData), **how))
        rates["step"].append(step_rate(config, data(_FromMemory), num_classes=num_classes, **how))
        rates["together"].append(step_rate(config, data(ImageData), num_classes=num_classes, **how))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    shares = [
        both / min(loader, step)
        for loader, step, both in zip(rates["loader"], rates["step"], rates["together"], strict=True)
    ]
    return {
        "model": config.model.name,
        "image_size": list(config.input.image_size),
        "batch_size": config.training.batch_size,
        "precision": config.hardware.precision,
        "images_per_second": medians,
        "together_over_the_slower": statistics.median(shares),
        "turns": {name: [round(value, 1) for value in values] for name, values in rates.items()},
        "record": provenance(),
    }


def report(figures: dict[str, object], output: str | None) -> None:
    """Print a table, and write ``output`` if given."""
    medians = figures["images_per_second"]
    assert isinstance(medians, dict)
    table = Table(title=f"{figures['model']}, batches of {figures['batch_size']}")
    for name in ("loader alone", "step alone", "together", "together over the slower"):
        table.add_column(name, justify="right")
    table.add_row(*(f"{medians[name]:,.1f}/s" for name in medians), f"{figures['together_over_the_slower']:.1%}")
    Console().print(table)
    if output is not None:
        write_text(Path(output), json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
