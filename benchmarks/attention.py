"""Fused or step-by-step attention: which one trains and infers faster on this machine.

    python benchmarks/attention.py

Takes about two minutes on 2 CPU cores. Contestants take turns in one process, and medians are compared. Prints a table
and writes ``benchmarks/results/attention.json``.
"""

import dataclasses
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from localvit.data import InputConfig
from localvit.studies.running.costs import measure
from localvit.system.files import write_text
from localvit.system.machine import describe
from localvit.training import HardwareConfig, ModelConfig, RunConfig, TrainingConfig

RESULTS = Path(__file__).parent / "results" / "attention.json"
SIZES = {
    "32 x 32, 65 tokens": (
        InputConfig((32, 32)),
        ModelConfig(arguments={"patch_size": 4, "embed_dim": 96, "depth": 6, "num_heads": 4}),
        64,
    ),
    "224 x 224, 197 tokens": (InputConfig(), ModelConfig(), 16),
}


def main() -> None:
    """Measure, print the table and write the results."""
    rows = []
    for size, (shown, model, batch_size) in SIZES.items():
        for precision in ("32-true", "bf16-mixed"):
            configs = {
                name: RunConfig(
                    model=dataclasses.replace(model, name="deit_tiny_patch16_224"),
                    input=shown,
                    training=TrainingConfig(batch_size=batch_size),
                    hardware=HardwareConfig(accelerator="cpu", precision=precision, fused_attention=name == "fused"),
                )
                for name in ("fused", "step by step")
            }
            for name, costs in measure(configs, 1000).items():
                rows.append({"images": size, "precision": precision, "attention": name, **dataclasses.asdict(costs)})
    table = Table("images", "precision", "attention", "training images/s", "inference images/s", title=describe())
    for row in rows:
        rates = (f"{row[f'{kind}_images_per_second']:,.0f}" for kind in ("training", "inference"))
        table.add_row(row["images"], row["precision"], row["attention"], *rates)
    Console().print(table)
    write_text(RESULTS, json.dumps({"machine": describe(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
