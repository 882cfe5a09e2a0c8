"""Everything that only a GPU can show, in one command of under nine minutes, in order of worth.

    python benchmarks/gpu.py                                   # on a GPU
    python benchmarks/gpu.py --resume                          # what the time cut short before, on the same machine
    python benchmarks/gpu.py --steps clock --output DIR        # one step; the others keep their earlier numbers
    python benchmarks/gpu.py --data.root DIR                   # with CIFAR-10: train.parquet and test.parquet
    python benchmarks/gpu.py --device cpu --quick              # a dry run of every step on tiny models

Writes ``gpu.json`` and ``gpu.md`` after each item, so that a kill costs one. The project need not be installed; the
script names the packages that are missing before it starts. Ends with status 1 if something failed or was wrong.

1. ``correctness``: all models and forms in outputs and gradients against float64 on the CPU, and the kernels' tests.
2. ``clock``: row A of ``docs/clock.md``, each baseline beside its twin; then run ``python docs/clock.py``.
3. ``recipe``: ``recipes/cifar10.yaml`` as far as it gets.
4. ``precision``: float16, synchronized batch norms, memory of the forms of training.
"""

import argparse
import faulthandler
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

START = time.monotonic()
ROOT = Path(__file__).parents[1]
STEPS = ("correctness", "clock", "recipe", "precision")
MINUTES = 8.5
_GRACE = 25  # seconds after which a step that hangs where no exception reaches it is ended, with the process


def main() -> None:
    """Check what is needed, run the steps, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="a dry run on tiny models")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all steps together")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS, metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--resume", action="store_true", help="keep what is done, if machine and code are the same")
    parser.add_argument("--data.root", dest="data_root", type=Path, help="folder of CIFAR-10's Parquet files")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="folder for the results")
    options = parser.parse_args()
    if options.minutes <= 0:
        parser.error(f"--minutes is {options.minutes}; it must be more than 0")
    _require_packages(data=options.data_root is not None)
    # Before the kernels are imported: without a GPU they run in Triton's interpreter.
    if options.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    faulthandler.dump_traceback_later(60 * options.minutes + _GRACE, exit=True)
    results, failures = _run(options)
    print(f"{options.output / 'gpu.md'}: {_counted(results)}")
    for failure in failures:
        print(failure, file=sys.stderr)
    sys.exit(1 if failures else 0)


def _require_packages(*, data: bool) -> None:
    """Make the project importable, here and in processes started from here, or say what is missing and exit."""
    from gpu_steps import needs

    source = str(ROOT / "src")
    sys.path.insert(0, source)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    if lacking := needs.missing(needs.requirements(data=data)):
        sys.exit(needs.in_words(lacking))


def _run(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch finds no GPU here. --device cpu --quick is a dry run without one")
    from gpu_steps import clock, correctness, half_and_memory, recipe, report
    from gpu_steps.models import Place
    from gpu_steps.running import deadlines, run_step

    from localvit.system.terminal import ERRORS, quiet

    quiet()
    place = Place(options.device, options.quick)
    made = {
        "correctness": correctness.step(place),
        "clock": clock.step(place),
        "recipe": recipe.step(place, options.data_root),
        "precision": half_and_memory.step(place),
    }
    steps = [made[name] for name in STEPS if name in options.steps]
    results = _earlier(options.output / "gpu.json", place.device, quick=place.quick)
    ends = deadlines(steps, START, 60 * options.minutes)
    for step in steps:
        ERRORS.print(f"{step.title}, {len(step.items)} items", markup=False)
        run_step(
            step,
            results,
            ends[step.name],
            resume=options.resume,
            write=lambda: report.write(results, options.output),
        )
    return results, report.failures(results, [step.name for step in steps])


def _earlier(path: Path, device: str, *, quick: bool) -> dict[str, Any]:
    """The results in a file, if they are of the same kind of run; none otherwise."""
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        if (found["device"], found["quick"]) == (device, quick):
            return found
    return {"version": 1, "device": device, "quick": quick, "steps": {}}


def _counted(results: dict[str, Any]) -> str:
    """How many items there are of each outcome."""
    statuses = [item["status"] for step in results["steps"].values() for item in step["items"].values()]
    return ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))


if __name__ == "__main__":
    main()
