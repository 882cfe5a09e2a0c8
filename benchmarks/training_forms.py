"""Training a locality feed-forward network module by module or in few passes: which form is faster in which setting.

    python benchmarks/training_forms.py

Takes about 40 minutes on 2 CPU cores with bfloat16 instructions; ``--precisions fp32`` leaves bfloat16 out, which is
emulated elsewhere. Each combination of eager or compiled, precision, and memory kept by the process
or returned to the system (``localvit.keep_memory``) runs in a fresh process. The forms take turns, and medians are
compared. Prints a table and writes ``benchmarks/results/training_forms.{json,md}``. ``localvit.locality.kernels.forms``
makes the faster form of each setting the default.
"""

import argparse
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from localvit.benchmark import Contestant, Setting, contestant_memory, measure, provenance
from localvit.benchmark.measurement import in_process
from localvit.data.config import InputConfig
from localvit.locality.feed_forward import LocalityFeedForward
from localvit.locality.kernels.few_passes import few_passes
from localvit.locality.kernels.forms import Form, set_form
from localvit.models.catalog import PUBLISHED
from localvit.models.weights.model_file import create_model
from localvit.system.files import write_text
from localvit.system.machine import describe, keep_memory

RESULTS = Path(__file__).parent / "results"
BASELINES = {model.name: model.baseline for model in PUBLISHED if model.baseline}
TINY = "localvit_tiny_patch16_224"
BATCH_SIZES = {TINY: 32, "localvit_pvt_tiny": 32, "localvit_swin_tiny_patch4_window7_224": 16}
PRECISIONS = ("fp32", "bf16-mixed")
HEADER = ("model", "precision", "mode", "memory", "baseline", "in order", "few passes", "few passes / in order")


@dataclass(frozen=True)
class Case:
    """One row: a model and how it trains."""

    model: str
    precision: str
    compiled: bool
    memory_kept: bool


def cases(precisions: Sequence[str]) -> list[Case]:
    """LocalViT-T in every combination; the models with the largest grids as the commands train them."""
    combinations = [
        Case(TINY, precision, compiled, kept)
        for precision in precisions
        for compiled in (False, True)
        for kept in (False, True)
    ]
    others = [
        Case(model, precisions[-1], compiled, True) for model in list(BATCH_SIZES)[1:] for compiled in (False, True)
    ]
    return combinations + others


def in_order(network: LocalityFeedForward, image_BDHW: Tensor) -> Tensor:
    """The modules one after the other, even when compiled."""
    return network.in_order(image_BDHW)


FORMS: dict[str, Form] = {"in order": in_order, "few passes": few_passes}


def build(model: str, form: str) -> nn.Module:
    """A model with fresh weights in one of the forms."""
    return set_form(create_model(model, InputConfig((224, 224)), num_classes=1000), FORMS[form])


def images_per_second(case: Case, rounds: int, batch_size: int, threads: int | None) -> dict[str, float | str]:
    """Median rate of the baseline and of both forms, measured in turns, or the error."""
    if case.memory_kept:
        keep_memory()
    setting = Setting(
        "training",
        case.precision,  # type: ignore[arg-type]
        compile=case.compiled,
        batch_size=batch_size,
        device="cpu",
        threads=threads,
    )
    contestants = [Contestant(BASELINES[case.model], "baseline")]
    contestants += [Contestant(functools.partial(build, case.model, form), form) for form in FORMS]
    found = measure(contestants, setting, rounds=rounds)
    return {one.name: one.error or float(torch.tensor(one.rates).median()) for one in found.measurements}


def peak_memory(precision: str) -> dict[str, int | None]:
    """Peak bytes of an eager training step of the baseline and of LocalViT-T in both of its forms."""
    setting = Setting("training", precision, batch_size=BATCH_SIZES[TINY], device="cpu")  # type: ignore[arg-type]
    saving = replace(setting, save_memory=True)
    return {
        "baseline": contestant_memory(Contestant(BASELINES[TINY]), setting),
        "in order": contestant_memory(Contestant(TINY), setting),
        "few passes": contestant_memory(Contestant(TINY), saving),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, help="by default as many as cores")
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--batch-size", type=int, help="by default 32, 16 for Swin")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    console = Console()
    rows = []
    for case in cases(options.precisions):
        size = options.batch_size or BATCH_SIZES[case.model]
        rates = in_process(images_per_second, case, options.rounds, size, options.threads)
        rows.append({**vars(case), "batch_size": size, "images_per_second": rates})
        console.print(rows[-1])
    memory = {precision: peak_memory(precision) for precision in options.precisions}
    origin = provenance()
    record = {"record": origin, "machine": describe(), "rows": rows, "peak_bytes": memory}
    write_text(options.output / "training_forms.json", json.dumps(record, indent=1) + "\n")
    table = Table(*HEADER, title=describe())
    cells = [_cells(row) for row in rows]
    for row in cells:
        table.add_row(*row)
    console.print(table)
    write_text(options.output / "training_forms.md", _markdown(cells, memory, origin["command"]))


def _cells(row: dict[str, object]) -> list[str]:
    rates = row["images_per_second"]
    assert isinstance(rates, dict)
    mode, kept = "compiled" if row["compiled"] else "eager", "kept" if row["memory_kept"] else "returned"
    numbers = [f"{rate:.1f}" if isinstance(rate, float) else rate for rate in rates.values()]
    both = isinstance(rates["few passes"], float) and isinstance(rates["in order"], float)
    ratio = f"{rates['few passes'] / rates['in order']:.2f}" if both else ""
    return [str(row["model"]), str(row["precision"]), mode, kept, *numbers, ratio]


def _markdown(rows: list[list[str]], memory: dict[str, dict[str, int | None]], command: str) -> str:
    lines = [
        "# Training module by module or in few passes",
        "",
        f"Images per second, {describe()}; written by `{command}`. *Memory* says whether the "
        "process keeps the memory it frees (`localvit.keep_memory`) or returns it to the system.",
        "",
        f"| {' | '.join(HEADER)} |",
        f"|{'---|' * len(HEADER)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        f"Peak memory of an eager training step of {TINY}, batch size {BATCH_SIZES[TINY]}, in MiB:",
        "",
        "| precision | baseline | in order | few passes |",
        "|---|---|---|---|",
    ]
    for precision, peaks in memory.items():
        mebibytes = ["unknown" if peak is None else f"{peak / 2**20:,.0f}" for peak in peaks.values()]
        lines.append(f"| {precision} | {' | '.join(mebibytes)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
