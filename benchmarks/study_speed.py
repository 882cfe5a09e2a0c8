"""How many runs of a study an hour is good for, compared with an earlier version of the project.

    git worktree add ../before 839ca20 && python -m venv ../before/.venv && ../before/.venv/bin/pip install -e ../before
    python benchmarks/study_speed.py --before ../before/.venv/bin/python --data CIFAR10    # a folder of Parquet files
    python benchmarks/study_speed.py --before ../before/.venv/bin/python --scales digits   # without CIFAR-10

Both versions train the same study from start to end, as a command, in turns: same variants, seeds, images, epochs and
processes. The earlier one decodes images in every epoch, evaluates after every epoch and starts a process for each run.
It trains in float32, as its scales do. Where the scale of now has another precision, ``--float32`` gives this version a
third turn in float32, which tells how much of the gain is the precision. Medians over the turns count. Prints a table
and writes ``benchmarks/results/study_speed.json``.
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from rich.progress import track
from rich.table import Table

from localvit.benchmark import provenance
from localvit.studies.compose import compose
from localvit.system.files import write_text
from localvit.system.machine import describe
from localvit.system.terminal import ERRORS, RESULTS

OUTPUT = Path(__file__).parent / "results" / "study_speed.json"
BEFORE, AFTER, AFTER_FLOAT32 = "before", "after", "after, float32"
FLOAT32 = "32-true"
UNKNOWN_BEFORE = (("training", "evaluate_every"), ("hardware", "fused_attention"))
STUDY = {
    "name": "speed",
    "question": "How long does it take?",
    "baseline": "DeiT",
    "seeds": [0, 1, 2],
    "variants": {"DeiT": {}, "depth-wise": {"model.locality": {"activation": "relu6"}}},
}
RUNS = 6


def recipe(scale: str, options: argparse.Namespace) -> dict[str, Any]:
    """The recipe of a scale, shortened to a share of its epochs."""
    values: dict[str, Any] = compose({"name": "speed", "variants": {}}, scale)["recipe"]
    if values["data"]["source"] != "digits":
        values["data"] |= {"root": str(options.data.resolve()), "cache": str(options.cache)}
    training = values["training"]
    training["epochs"] = max(2, round(options.share * training["epochs"]))
    training["warmup_epochs"] = 1
    return values


def seconds(python: str, recipe: dict[str, Any]) -> float:
    """Train the study in a fresh folder with the project that ``python`` has installed; seconds from start to end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        (folder / "speed.yaml").write_text(yaml.safe_dump(STUDY))
        command = [python, "-m", "localvit", "study", "speed.yaml", "--scale", "recipe.yaml", "--output", "runs"]
        start = time.perf_counter()
        ended = subprocess.run(
            [*command, "--jobs", "2", "--measure", "false"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        elapsed = time.perf_counter() - start
        if ended.returncode != 0 or len(list(folder.rglob("result.json"))) != RUNS:
            raise SystemExit(f"{python} did not train {RUNS} runs:\n{ended.stderr}")
    return elapsed


def measure(scale: str, options: argparse.Namespace) -> dict[str, Any]:
    """Let both versions take turns."""
    now = recipe(scale, options)
    in_float32 = copy.deepcopy(now)
    in_float32["hardware"]["precision"] = FLOAT32
    then = copy.deepcopy(in_float32)
    for group, field in UNKNOWN_BEFORE:
        then[group].pop(field, None)
    contestants = {BEFORE: (str(options.before), then), AFTER: (sys.executable, now)}
    if options.float32 and now["hardware"].get("precision", FLOAT32) != FLOAT32:
        contestants[AFTER_FLOAT32] = (sys.executable, in_float32)
    turns: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in track(range(options.turns), scale, console=ERRORS, transient=True):
        for name in list(contestants)[:: 1 if turn % 2 == 0 else -1]:
            turns[name].append(seconds(*contestants[name]))
    return {
        "epochs": now["training"]["epochs"],
        "seconds": turns,
        "runs_per_hour": {name: 3600 * RUNS / statistics.median(taken) for name, taken in turns.items()},
    }


def table(results: dict[str, Any]) -> Table:
    """A row for each scale."""
    rows = Table(title=f"Runs an hour; {describe()}")
    for header in ("scale", "epochs", "version", "runs an hour", "ratio"):
        rows.add_column(header, justify="left" if header in ("scale", "version") else "right")
    for scale, result in results.items():
        rates = result["runs_per_hour"]
        for name, rate in rates.items():
            rows.add_row(scale, str(result["epochs"]), name, f"{rate:.1f}", f"{rate / rates[BEFORE]:.2f}")
    return rows


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="Python that has the earlier version installed")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 as Parquet files")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "study_speed")
    parser.add_argument("--scales", nargs="+", default=["digits", "cifar10"])
    parser.add_argument("--share", type=float, default=1.0, help="share of the epochs of the recipe")
    parser.add_argument("--float32", action="store_true", help="time this version in float32 too")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    if options.data is None and options.scales != ["digits"]:
        parser.error("scale cifar10 needs --data, a folder of Parquet files; --scales digits goes without")
    results = {scale: measure(scale, options) for scale in options.scales}
    RESULTS.print(table(results))
    record = provenance()
    for path, name in ((options.data, "CIFAR10"), (options.before, "BEFORE"), (options.output, "OUTPUT")):
        record["command"] = record["command"].replace(str(path), name)
    known = json.loads(options.output.read_text())["scales"] if options.output.exists() else {}
    write_text(options.output, json.dumps({"record": record, "scales": known | results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
