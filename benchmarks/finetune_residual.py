"""Fine-tunes a pretrained transformer as it is and with residual locality, and compares the two.

    python benchmarks/finetune_residual.py

Takes about 2 minutes on 2 CPU cores. A small ViT learns the digits 0 to 4; copies of it, one plain and one localized
with ``mode="residual"``, then learn the digits 5 to 9 from the same images in the same order with the same recipe. The
test images are other scans, which no training saw. Prints a table and writes ``benchmarks/finetune_residual.json``.
"""

import argparse
import copy
import json
import logging
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import timm
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from localvit import LocalityConfig, localize
from localvit.data import DataConfig
from localvit.data.digits import Digits, Sample
from localvit.studies.statistics import Interval, interval
from localvit.training import TrainingConfig
from localvit.training.callbacks import ReseedEpochs
from localvit.training.classifier import Classifier

RESULTS = Path(__file__).with_suffix(".json")
IMAGES = DataConfig(train_fraction=0.75, crop_scale=(0.8, 1.0), crop_ratio=(0.9, 1.1))
PRETRAINING = TrainingConfig(epochs=40, batch_size=32, learning_rate=3e-3, gradient_clip=1.0)
FINE_TUNING = TrainingConfig(epochs=20, batch_size=32, learning_rate=1e-3, gradient_clip=1.0, warmup_epochs=2)


class HalfOfTheClasses(Dataset[Sample]):
    """The digits of some classes, numbered from 0."""

    def __init__(self, digits: Digits, classes: range) -> None:
        self.digits = digits
        self.classes = classes
        self.indices = [index for index, label in enumerate(digits.labels) if label in classes]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        image, label = self.digits[self.indices[index]]
        return image, label - self.classes.start


def train(model: nn.Module, classes: range, recipe: TrainingConfig, seed: int) -> float:
    """Train ``model`` on five digits and return its accuracy on held-out scans of them, in percent."""
    learned, held_out = (HalfOfTheClasses(Digits(IMAGES, train=part), classes) for part in (True, False))
    order: DistributedSampler[Sample] = DistributedSampler(learned, num_replicas=1, rank=0, seed=seed)
    batches = DataLoader(learned, recipe.batch_size, sampler=order, drop_last=True)
    classifier = Classifier(model, recipe, num_classes=len(classes), steps_per_epoch=len(batches))
    trainer = lightning.Trainer(
        max_epochs=recipe.epochs,
        accelerator="cpu",
        gradient_clip_val=recipe.gradient_clip,
        callbacks=[ReseedEpochs(seed)],
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(classifier, batches)
    metrics = trainer.validate(classifier, DataLoader(held_out, 256), verbose=False)
    return 100 * float(metrics[0]["test_accuracy"])


def compare(seeds: list[int], progress: Progress) -> dict[str, list[float]]:
    """Accuracy after fine-tuning for each seed, plain and localized."""
    accuracies: dict[str, list[float]] = {"original": [], "residual": []}
    task = progress.add_task("Training", total=3 * len(seeds))
    for seed in seeds:
        lightning.seed_everything(seed, verbose=False)
        body: dict[str, Any] = {
            "img_size": 8,
            "patch_size": 2,
            "in_chans": 1,
            "embed_dim": 48,
            "depth": 3,
            "num_heads": 3,
        }
        pretrained: Any = timm.create_model("deit_tiny_patch16_224", num_classes=5, **body)
        train(pretrained, range(5), PRETRAINING, seed)
        progress.advance(task)
        pretrained.reset_classifier(5)
        variants = {
            "original": copy.deepcopy(pretrained),
            "residual": localize(copy.deepcopy(pretrained), LocalityConfig(), mode="residual"),
        }
        for name, model in variants.items():
            accuracies[name].append(train(model, range(5, 10), FINE_TUNING, seed))
            progress.advance(task)
    return accuracies


def main() -> None:
    """Compare over seeds, print and write the result."""
    parser = argparse.ArgumentParser(description="Fine-tuning with and without residual locality.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)

    with Progress() as progress:
        accuracies = compare(seeds, progress)
    summary: dict[str, Interval] = {name: interval(values) for name, values in accuracies.items()}
    pairs = zip(accuracies["residual"], accuracies["original"], strict=True)
    gain = interval([residual - original for residual, original in pairs])
    table = Table("fine-tuned", "test accuracy %", "gain")
    table.add_row("original", summary["original"].short_text(), "")
    table.add_row("residual locality", summary["residual"].short_text(), gain.short_text(signed=True))
    Console().print(table)
    result = {"seeds": seeds, "per_seed": accuracies, "accuracy": {name: asdict(s) for name, s in summary.items()}}
    RESULTS.write_text(json.dumps({**result, "gain": asdict(gain)}, indent=2) + "\n")


if __name__ == "__main__":
    main()
