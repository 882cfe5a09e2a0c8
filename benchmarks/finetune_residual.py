"""Compares fine-tuning a pretrained transformer with and without residual locality.

    python benchmarks/finetune_residual.py

Takes about 2 minutes on 2 CPU cores. A small ViT learns the digits 0 to 4. Two runs start from its weights, one
unchanged and one localized with ``mode="residual"``, and learn the digits 5 to 9 from the same images in the same order
with the same recipe. The test images are other scans. Prints a table and writes ``benchmarks/finetune_residual.json``.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from scipy import stats

from localvit import LocalityConfig
from localvit.data import NO_AUGMENTATION, DataConfig, InputConfig
from localvit.data.sources import open_parts
from localvit.system.files import write_text
from localvit.system.terminal import quiet
from localvit.training import HardwareConfig, LoggingConfig, ModelConfig, RunConfig, TrainingConfig, run

RESULTS = Path(__file__).with_suffix(".json")
PRETRAINING = RunConfig(
    model=ModelConfig("deit_tiny_patch16_224", {"patch_size": 2, "embed_dim": 48, "depth": 3, "num_heads": 3}),
    data=DataConfig("folder"),
    input=InputConfig((8, 8), 1, (0.306,), (0.375,), crop_fraction=1.0),
    augmentation=replace(NO_AUGMENTATION, crop_scale=(0.8, 1.0), crop_ratio=(0.9, 1.1)),
    training=TrainingConfig(
        epochs=40,
        cooldown_epochs=0,
        batch_size=32,
        learning_rate=3e-3,
        learning_rate_images=None,
        gradient_clip=1.0,
        ema_decay=0.0,
    ),
    hardware=HardwareConfig(accelerator="cpu", threads=1, workers=0),
    logging=LoggingConfig(tensorboard=False),
)


def write_images(folder: Path) -> None:
    """Write the scans as image folders: digits 0 to 4 for pretraining, 5 to 9 for fine-tuning."""
    parts = open_parts(DataConfig("digits", held_out=0.25), channels=1)
    for name, part in (("train", parts.train), ("val", parts.val)):
        for index, label in enumerate(part.labels_M):
            path = folder / ("first" if label < 5 else "second") / name / str(label) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            part.read(index).save(path)


def compare(seeds: list[int], folder: Path, progress: Progress) -> dict[str, list[float]]:
    """Accuracy after fine-tuning with each seed, without and with locality."""
    write_images(folder)
    accuracies: dict[str, list[float]] = {"original": [], "residual": []}
    task = progress.add_task("Training", total=3 * len(seeds))
    for seed in seeds:
        data = DataConfig("folder", root=str(folder / "first"), cache=str(folder))
        run(replace(PRETRAINING, data=data, seed=seed), folder / f"pretrained-{seed}")
        progress.advance(task)
        model = replace(PRETRAINING.model, checkpoint=str(folder / f"pretrained-{seed}" / "last.safetensors"))
        fine_tuning = replace(
            PRETRAINING,
            data=replace(data, root=str(folder / "second")),
            training=replace(PRETRAINING.training, epochs=20, learning_rate=1e-3, warmup_epochs=2),
            seed=seed,
        )
        variants = {"original": model, "residual": replace(model, locality=LocalityConfig(), mode="residual")}
        for name, variant in variants.items():
            result = run(replace(fine_tuning, model=variant), folder / f"{name}-{seed}")
            accuracies[name].append(result.accuracy)
            progress.advance(task)
    return accuracies


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean and 95 % confidence interval from Student's t distribution."""
    test = stats.ttest_1samp(values, 0)
    low, high = test.confidence_interval(0.95)
    return {"mean": float(np.mean(values)), "low": float(low), "high": float(high)}


def main() -> None:
    """Compare over seeds, then print and write the result."""
    parser = argparse.ArgumentParser(description="Fine-tuning with and without residual locality.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    quiet()

    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        accuracies = compare(seeds, Path(folder), progress)
    summary = {name: interval(values) for name, values in accuracies.items()}
    pairs = zip(accuracies["residual"], accuracies["original"], strict=True)
    gain = interval([residual - original for residual, original in pairs])
    table = Table("fine-tuned", "test accuracy %", "gain")
    original, residual, gained = (
        "{mean:.2f} [{low:.2f}, {high:.2f}]".format(**each) for each in (*summary.values(), gain)
    )
    table.add_row("original", original, "")
    table.add_row("residual locality", residual, gained)
    Console().print(table)
    result = {"seeds": seeds, "per_seed": accuracies, "accuracy": summary, "gain": gain}
    write_text(RESULTS, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
