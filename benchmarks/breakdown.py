"""Where the time of DeiT-T and LocalViT-T goes: training and inference by kind of operation, on the CPU.

    python benchmarks/breakdown.py             # a few minutes on 2 CPU cores
    python benchmarks/breakdown.py --quick     # a trial: one step of two small images

Times are self CPU times from PyTorch's profiler in eager execution. They include the profiler's overhead, mostly in
*other*. LocalViT-T trains with and without ``save_memory``, and infers with and without ``fuse``. Writes
``benchmarks/results/breakdown.json``, a Markdown table and an offline page of charts.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from localvit.benchmark import Contestant, Section, Setting, Stepper, provenance, write_page
from localvit.benchmark.look import COLOURS, GREY, height_of_rows, label, rows_axis, style
from localvit.system.files import write_text
from localvit.system.machine import keep_memory
from localvit.system.terminal import ERRORS, quiet

NAME = "breakdown"
RESULTS = Path(__file__).parent / "results"
DEIT, LOCALVIT = "deit_tiny_patch16_224", "localvit_tiny_patch16_224"
ROUNDS = 5
OPTIMIZER, ATTENTION, OTHER = "optimizer", "attention", "other"
DEPTHWISE, POINTWISE, PATCHES = "depth-wise convolution", "1x1 convolution", "other convolution"
# Kinds of PyTorch's operations by parts of their names. The first match applies.
NAMES = {
    "reduction": ("log_softmax", "nll_loss", "sum", "mean", "amax", "linalg_vector_norm"),
    ATTENTION: ("softmax",),
    "matrix products": ("mm", "linear"),
    "norm": ("batch_norm", "layer_norm"),
    "activation": ("gelu", "hardswish", "hardsigmoid", "hardtanh", "relu", "silu", "sigmoid", "threshold", "clamp"),
    "copy": ("copy_", "clone", "cat", "stack", "fill_", "zero_", "slice_backward", "select_backward"),
    "elementwise": ("add", "mul", "sub", "div", "neg", "pow", "sqrt", "lerp", "where"),
}
KINDS = (
    "matrix products", ATTENTION, DEPTHWISE, POINTWISE, PATCHES, "norm", "activation", "elementwise", "reduction",
    "copy", OPTIMIZER, OTHER,
)  # fmt: skip
LEAD = (
    "Milliseconds per step by kind of operation: self CPU time from PyTorch's profiler in eager execution. Contestants "
    "took steps in turns; the table shows medians. A training step is forward, backward and AdamW."
)
TRIAL = "This is only a trial on small images."


@dataclass(frozen=True)
class Profiled:
    """A contestant to profile.

    Attributes:
        name: name in tables and charts.
        model: the model's name in timm.
        changes: fields of the setting that differ for it.
    """

    name: str
    model: str
    changes: dict[str, Any] = field(default_factory=dict)


CONTESTANTS = {
    "training": (
        Profiled("DeiT-T", DEIT),
        Profiled("LocalViT-T", LOCALVIT),
        Profiled("LocalViT-T, saving memory", LOCALVIT, {"save_memory": True}),
    ),
    "inference": (
        Profiled("DeiT-T", DEIT),
        Profiled("LocalViT-T", LOCALVIT),
        Profiled("LocalViT-T, fused", LOCALVIT, {"fuse": True}),
    ),
}


def kind(event: FunctionEvent) -> str:
    """Classify an event of the profiler."""
    names, parent = [event.name], event.cpu_parent
    while parent is not None:
        names.append(parent.name)
        parent = parent.cpu_parent
    if any(name.startswith("Optimizer.") for name in names):
        return OPTIMIZER
    if any("scaled_dot_product" in name for name in names):
        return ATTENTION
    library, _, operation = event.name.rpartition("::")
    if library not in ("aten", "mkldnn"):
        return OTHER
    if "conv" in operation:
        return _convolution(event)
    return next((found for found, parts in NAMES.items() if any(part in operation for part in parts)), OTHER)


def _convolution(event: FunctionEvent) -> str:
    """Classify by the shape of the weights: depth-wise (E, 1, k, k), or linear layer per position (E, D, 1, 1)."""
    place = 2 if "backward" in event.name else 1  # after the input and, in the backward pass, the gradient
    shape: Any = event.input_shapes[place] if len(event.input_shapes) > place else ()
    if len(shape) != 4:
        return OTHER
    if shape[1] == 1:
        return DEPTHWISE
    return POINTWISE if shape[2:] == [1, 1] else PATCHES


def milliseconds(step: Stepper) -> dict[str, float]:
    """Self CPU time of one step by kind of operation."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        step.step()
    found = dict.fromkeys(KINDS, 0.0)
    for event in profiler.events() or []:
        found[kind(event)] += event.self_cpu_time_total / 1000
    return found


def measure(contestants: Sequence[Profiled], setting: Setting, rounds: int) -> list[dict[str, Any]]:
    """Profile the contestants in turns: medians and rounds of each, in milliseconds by kind of operation."""
    steppers = {}
    for one in contestants:
        own = replace(setting, **one.changes)
        steppers[one.name] = Stepper(Contestant(one.model), own)
        steppers[one.name].timed().warm_up()
    found: dict[str, list[dict[str, float]]] = {one.name: [] for one in contestants}
    for _ in range(rounds):
        for one in contestants:
            found[one.name].append(milliseconds(steppers[one.name]))
    return [
        {
            "name": name,
            "milliseconds": {one: float(np.median([each[one] for each in steps])) for one in KINDS},
            "rounds": steps,
        }
        for name, steps in found.items()
    ]


def settings(quick: bool) -> list[Setting]:
    """Training with batch size 32 and inference with batch size 16, in two precisions."""
    found = [Setting("training", precision, batch_size=32, device="cpu") for precision in ("bf16-mixed", "fp32")]
    found += [Setting(precision=precision, batch_size=16, device="cpu") for precision in ("bf16", "fp32")]
    return [replace(setting, batch_size=2, image_size=32) for setting in found] if quick else found


def section(setting: Setting, rows: Sequence[dict[str, Any]]) -> Section:
    """A table with a row per kind of operation, and a chart with a bar per contestant."""
    sums = [sum(row["milliseconds"].values()) for row in rows]
    shown = [one for one in KINDS if any(row["milliseconds"][one] for row in rows)]
    lines = []
    for one in shown:
        spent = [row["milliseconds"][one] for row in rows]
        lines.append([one, *(f"{ms:,.4g} ({ms / total:.0%})" for ms, total in zip(spent, sums, strict=True))])
    lines.append(["all", *(f"{total:,.4g}" for total in sums)])
    headers = ["milliseconds", *(row["name"] for row in rows)]
    return Section(setting.words(), headers, lines, figure=_chart(rows, shown), caption="Milliseconds per step.")


def _chart(rows: Sequence[dict[str, Any]], shown: Sequence[str]) -> go.Figure:
    figure = go.Figure()
    for one in shown:
        place = KINDS.index(one)
        pattern = {"shape": "/" if place >= len(COLOURS) else "", "fgcolor": "white", "fillmode": "overlay"}
        colour = GREY if one == OTHER else COLOURS[place % len(COLOURS)]
        figure.add_bar(
            x=[row["milliseconds"][one] for row in rows],
            y=list(range(len(rows))),
            orientation="h",
            width=0.55,
            name=one,
            marker={"color": colour, "pattern": {} if one == OTHER else pattern},
            customdata=[label(row["name"]) for row in rows],
            hovertemplate=f"%{{customdata}}<br>{one}: %{{x:.3g}} ms<extra></extra>",
        )
    style(figure, height=height_of_rows(len(rows)) + 60)  # the legend takes several lines
    figure.update_layout(barmode="stack", legend_traceorder="normal")
    figure.update_xaxes(title="milliseconds")
    figure.update_yaxes(**rows_axis([row["name"] for row in rows]))
    return figure


def main() -> None:
    """Profile, then write numbers, table and charts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="steps per contestant")
    parser.add_argument("--quick", action="store_true", help="a trial: one step of two small images")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the results")
    options = parser.parse_args()
    quiet()
    keep_memory()  # as the commands do
    found = []
    for setting in settings(options.quick):
        ERRORS.print(setting.words(), highlight=False)
        rows = measure(CONTESTANTS[setting.mode], setting, 1 if options.quick else options.rounds)
        found.append((setting, rows))
    record = provenance()
    results = [{"setting": asdict(setting), "contestants": rows} for setting, rows in found]
    path = options.output / f"{NAME}.json"
    values = {"version": 1, "quick": options.quick, "results": results, "record": record}
    write_text(path, json.dumps(values, indent=1) + "\n")
    write_page(
        "Where the time goes",
        f"{LEAD} {TRIAL if options.quick else ''}".strip(),
        [section(setting, rows) for setting, rows in found],
        record,
        page=path.with_suffix(".html"),
        table=path.with_suffix(".md"),
    )
    ERRORS.print(f"Written: {path.with_suffix('.html')}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
