"""How many runs of a study an hour of one CPU core is good for: images decoded in every epoch, or once.

    python benchmarks/study_speed.py --data CIFAR10     # a folder with train*.parquet and test*.parquet
    python benchmarks/study_speed.py --scales digits    # without CIFAR-10

The contestants train the same LocalViT, one run after another in one process, as a study does, and take turns. Medians
over the turns count. CPU time is reported beside wall-clock time, because other processes affect it less. Prints a
table and writes ``benchmarks/results/study_speed.json``. ``--share`` shortens the runs, which puts the single decoding
at a disadvantage.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from localvit.benchmark import provenance
from localvit.studies.compose import compose
from localvit.system.files import write_text
from localvit.system.terminal import RESULTS, quiet
from localvit.training import RunConfig
from localvit.training.overrides import run_config, with_overrides
from localvit.training.run_folder import run

OUTPUT = Path(__file__).parent / "results" / "study_speed.json"
BEFORE, AFTER, ONCE = "decoded every epoch", "decoded once", "decoded once, evaluated once"


def contestants(scale: str, options: argparse.Namespace) -> dict[str, RunConfig]:
    """The runs that take turns at one scale."""
    values = compose({"name": "study_speed", "variants": {}}, scale)["recipe"]
    overrides: dict[str, Any] = {
        "model.locality": {"activation": "hswish"},
        "hardware.threads": 1,
        "hardware.precision": options.precision,
    }
    if values["data"]["source"] != "digits":
        overrides |= {"data.root": str(options.data), "data.cache": str(options.cache)}
    epochs = max(1, round(options.share * values["training"]["epochs"]))
    if epochs < values["training"]["epochs"]:
        overrides |= {"training.epochs": epochs, "training.warmup_epochs": 0}
    config = with_overrides(run_config(values), overrides)
    return {
        BEFORE: with_overrides(config, {"data.memory_gib": 0.0}),
        AFTER: config,
        ONCE: with_overrides(config, {"training.evaluate_every": config.training.total_epochs}),
    }


def train(config: RunConfig) -> dict[str, float]:
    """Train a run in a fresh folder: its wall-clock and CPU seconds, and the share of training that waited for data."""
    with tempfile.TemporaryDirectory() as folder:
        start, cpu_start = time.perf_counter(), time.process_time()
        result = run(config, Path(folder) / "run")
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    waited = statistics.mean(epoch["waited_for_data"] for epoch in result.timing)
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "waited_for_data": waited}


def measure(scale: str, options: argparse.Namespace) -> dict[str, Any]:
    """Let the contestants of one scale take turns, after a run that warms up the process and its caches."""
    configs = contestants(scale, options)
    train(with_overrides(configs[AFTER], {"training.epochs": 1, "training.warmup_epochs": 0}))
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in configs}
    for turn in range(options.turns):
        order = list(configs) if turn % 2 == 0 else list(reversed(configs))
        for name in order:
            turns[name].append(train(configs[name]))
    medians = {
        name: {field: statistics.median(turn[field] for turn in taken) for field in taken[0]}
        for name, taken in turns.items()
    }
    return {
        "epochs": configs[AFTER].training.total_epochs,
        "runs_per_hour": {name: 3600 / figures["seconds"] for name, figures in medians.items()},
        "runs_per_cpu_hour": {name: 3600 / figures["cpu_seconds"] for name, figures in medians.items()},
        "medians": medians,
        "turns": turns,
    }


def table(results: dict[str, Any]) -> Table:
    """A row for each scale and contestant."""
    rows = Table(title="Runs an hour on one core")
    for header in ("scale", "images", "runs/h", "runs/CPU h", "speedup (CPU)", "waited for data"):
        rows.add_column(header, justify="left" if header in ("scale", "images") else "right")
    for scale, result in results.items():
        rates = result["runs_per_cpu_hour"]
        for name, rate in rates.items():
            waited = result["medians"][name]["waited_for_data"]
            figures = (f"{result['runs_per_hour'][name]:.1f}", f"{rate:.1f}", f"{rate / rates[BEFORE]:.2f}")
            rows.add_row(scale, name, *figures, f"{100 * waited:.1f} %")
    return rows


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 as Parquet files")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "study_speed")
    parser.add_argument("--scales", nargs="+", default=["digits", "cifar10"])
    parser.add_argument("--precision", default="32-true", help="CPUs without bf16 instructions emulate bf16-mixed")
    parser.add_argument("--share", type=float, default=1.0, help="share of the epochs of the recipe")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    if options.data is None and options.scales != ["digits"]:
        parser.error("scale cifar10 needs --data, a folder of Parquet files; --scales digits goes without")
    quiet()
    torch.set_num_threads(1)
    record = provenance()
    record["command"] = record["command"].replace(str(options.data), "CIFAR10").replace(str(options.output), "OUTPUT")
    results = {scale: measure(scale, options) for scale in options.scales}
    RESULTS.print(table(results))
    figures = {"record": record, "precision": options.precision, "scales": results}
    write_text(options.output, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
