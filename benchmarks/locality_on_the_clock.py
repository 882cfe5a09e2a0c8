"""Time and memory that locality costs: each baseline and its LocalViT twin, side by side.

    python benchmarks/locality_on_the_clock.py                # all rows; one to two hours on 2 CPU cores
    python benchmarks/locality_on_the_clock.py --rows B C     # some rows; the others keep their earlier numbers
    python benchmarks/locality_on_the_clock.py --quick        # a trial with few rounds of small batches

Writes ``benchmarks/results/locality_on_the_clock.json`` with the numbers of every round, a Markdown table and an
offline page of charts. A ratio is the twin's images per second divided by the baseline's, paired by round, or its
memory divided by the baseline's. If both eager and compiled models are tried, the better one of each counts, and both
are shown. Row A is for GPUs: ``benchmarks/gpu.py`` measures it, and its latest numbers are shown here.
"""

import argparse
import functools
import importlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn
from twins import FAMILIES, TINY, Comparison, row_a, verdict, verdict_table

from localvit.benchmark import (
    PEERS,
    BenchmarkResult,
    Contestant,
    Section,
    Setting,
    provenance,
    run_each,
    sections,
    write_page,
)
from localvit.benchmark.look import BLUE, GREY, VERMILION, height_of_rows, label, rows_axis, style
from localvit.benchmark.setting import Precision
from localvit.system.files import write_text
from localvit.system.machine import keep_memory
from localvit.system.terminal import ERRORS, quiet

NAME = "locality_on_the_clock"
RESULTS = Path(__file__).parent / "results"
TITLES = {
    "A": "On a GPU",
    "B": "Inference, bf16, compiled",
    "C": "Inference, bf16, eager",
    "D": "Inference, fp32",
    "E": "Training",
    "F": "Memory of a training step",
    "G": "Other families",
    "H": "Inference, fp32, eager, one image",
    "peers": "Beside other small models",
}
ROUNDS_OF_ONE_IMAGE = 100  # its rounds are short, and scatter more than those of many images
MEASURED = [row for row in TITLES if row != "A"]
GPU = RESULTS / "gpu.json"
_LABEL = 46  # characters per line; labels then take at most three lines
LEAD = (
    "Each baseline and its LocalViT twin took turns in one process. A ratio is the twin's images per second divided by "
    "the baseline's, as the median over rounds. If both eager and compiled models were tried, the better one of each "
    "counts. For memory, the ratio compares peaks, and the smaller one of each counts. Fused twins are made by "
    "localvit.fuse."
)


def comparisons(row: str) -> list[Comparison]:
    """The comparisons of a row of the table."""
    inference = Setting(precision="bf16", fuse=True, batch_size=16)
    training = Setting("training", batch_size=32)
    both: tuple[bool, ...] = (False, True)
    precisions: tuple[Precision, ...] = ("fp32", "bf16-mixed")
    match row:
        case "B":
            return [Comparison(row, TINY, replace(inference, batch_size=size), (True,)) for size in (1, 16)]
        case "C":
            return [Comparison(row, TINY, inference)]
        case "D":
            return [Comparison(row, TINY, replace(inference, precision="fp32"), (one,)) for one in both]
        case "E":
            settings = [
                replace(training, precision=precision, fused_attention=fused)
                for precision in precisions
                for fused in both[::-1]
            ]
            return [Comparison(row, TINY, setting, both) for setting in settings]
        case "F":
            settings = [replace(training, precision=precision) for precision in precisions]
            return [Comparison(row, TINY, setting, both) for setting in settings]
        case "H":
            return [Comparison(row, TINY, replace(inference, precision="fp32", batch_size=1))]
        case _:
            mixed = replace(training, precision="bf16-mixed")
            pairs = [(twin, inference) for twin in FAMILIES]
            pairs += [(twin, replace(mixed, batch_size=size)) for twin, size in FAMILIES.items()]
            return [Comparison(row, twin, setting, both) for twin, setting in pairs]


def vit_pytorch_localvit(image_size: int) -> nn.Module:
    """The LocalViT of the package vit-pytorch, in the size of LocalViT-T."""
    module = importlib.import_module("vit_pytorch.local_vit")  # optional
    model: nn.Module = module.LocalViT(
        image_size=image_size, patch_size=16, num_classes=1000, dim=192, depth=12, heads=3, mlp_dim=768
    )
    return model


def peers(quick: bool) -> tuple[list[tuple[list[Contestant], Setting]], list[str]]:
    """LocalViT-T and other small models, with notes on missing ones."""
    contestants = [*map(Contestant, PEERS), Contestant(TINY, f"{TINY}, fused", {"fuse": True})]
    notes = []
    settings = [_smaller(Setting(precision=precision, batch_size=16), quick) for precision in ("fp32", "bf16")]
    if importlib.util.find_spec("vit_pytorch") is None:
        notes.append("vit-pytorch is not installed, so its LocalViT is missing.")
    else:
        build = functools.partial(vit_pytorch_localvit, settings[0].height_and_width[0])
        contestants.append(Contestant(build, "vit-pytorch LocalViT"))
    return [(contestants, setting) for setting in settings], notes


def _smaller(setting: Setting, quick: bool) -> Setting:
    return replace(setting, batch_size=min(2, setting.batch_size), image_size=64) if quick else setting


def measure_row(row: str, quick: bool, *, console: Console) -> dict[str, Any]:
    """Measure a row other than A. Returns its numbers and verdicts as JSON."""
    how: dict[str, Any] = {"rounds": 2, "seconds_a_turn": 0.02} if quick else {}
    if row == "peers":
        jobs, notes = peers(quick)
        found = run_each(jobs, **how, console=console)
        return {"benchmark": json.loads(found.to_json()), "notes": notes, "verdicts": []}
    asked = [replace(one, setting=_smaller(one.setting, quick)) for one in comparisons(row)]
    if asked[0].memory:
        how = {"rounds": 0, "memory": True}
    elif row == "H" and not quick:
        how = {"rounds": ROUNDS_OF_ONE_IMAGE}
    jobs = [(one.contestants(), replace(one.setting, compile=one.compiles[0])) for one in asked]
    found = run_each(jobs, **how, console=console)
    verdicts = [verdict(one, result) for one, result in zip(asked, found.results, strict=True)]
    return {"benchmark": json.loads(found.to_json()), "notes": [], "verdicts": verdicts}


def row_sections(row: str, values: dict[str, Any]) -> list[Section]:
    """The sections of a row."""
    heading = f"{row}. {TITLES[row]}"
    if "not_measured" in values:
        return [Section(heading, text=[f"Not measured: {values['not_measured']}."])]
    record = values["benchmark"]["record"]
    size = "in a trial with few rounds of small batches " if values["quick"] else ""
    source = [f"Measured {size}on {record['time'][:10]}: {record['machine']}, {record['threads']} threads."]
    if row == "peers":
        parts = sections(BenchmarkResult.from_json(json.dumps(values["benchmark"])))
        return [
            replace(part, heading=f"{TITLES[row]}: {part.heading}", text=[*source, *values["notes"], *part.text])
            for part in parts
        ]
    verdicts = values["verdicts"]
    headers, rows = verdict_table(row, verdicts)
    errors = [f"{one['comparison']}: {error}" for one in verdicts for error in one["errors"]]
    caption = "Ratios with quartiles, blue if the bound is met. Dashed lines are bounds, dotted lines are aims."
    return [Section(heading, headers, rows, [*source, *errors], _chart(verdicts), caption)]


def _chart(verdicts: Sequence[dict[str, Any]]) -> go.Figure:
    figure = go.Figure()
    for kind, dash in (("bound", "dash"), ("aim", "dot")):
        figure.add_scatter(
            x=[end for one in verdicts for end in (one[kind], one[kind], None)],
            y=[end for place in range(len(verdicts)) for end in (place - 0.4, place + 0.4, None)],
            mode="lines",
            line={"color": GREY, "dash": dash},
            hoverinfo="skip",
            showlegend=False,
        )
    for place, one in enumerate(verdicts):
        if (found := one["ratio"]) is None:
            continue
        colour = BLUE if one["met"] else VERMILION
        figure.add_scatter(
            x=[found["median"]],
            y=[place],
            error_x={
                "symmetric": False,
                "array": [found["high"] - found["median"]],
                "arrayminus": [found["median"] - found["low"]],
                "color": colour,
            },
            mode="markers",
            marker={"color": colour, "size": 12, "symbol": "circle" if one["met"] else "circle-open"},
            hovertemplate="%{x:.3f}<extra></extra>",
            showlegend=False,
        )
    style(figure, height=height_of_rows(len(verdicts)))
    figure.update_xaxes(title=f"{verdicts[0]['quantity']} of the twin divided by the baseline's", rangemode="tozero")
    names = [one["comparison"] for one in verdicts]
    figure.update_yaxes(**rows_axis(names) | {"ticktext": [label(name, _LABEL) for name in names]})
    return figure


def main() -> None:
    """Measure rows, print their verdicts and merge them into the earlier results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=MEASURED, default=MEASURED, metavar="ROW")
    parser.add_argument("--quick", action="store_true", help="a trial with few rounds of small batches")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    quiet()
    keep_memory()  # as the commands do
    record = provenance()  # before results change, which is no change of the code
    path = options.output / f"{NAME}.json"
    rows: dict[str, Any] = json.loads(path.read_text())["rows"] if path.exists() else {}
    rows["A"] = row_a(json.loads(GPU.read_text()) if GPU.exists() else None)
    for row in options.rows:
        ERRORS.print(f"{row}. {TITLES[row]}", highlight=False)
        found = measure_row(row, options.quick, console=ERRORS)
        rows[row] = {**found, "quick": options.quick}
        if rows[row].get("verdicts"):
            _print(row, rows[row]["verdicts"])
        rows = {name: rows[name] for name in TITLES if name in rows}
        write_text(path, json.dumps({"version": 1, "rows": rows}, indent=1) + "\n")
    write_page(
        "Locality on the clock",
        LEAD,
        [part for row, values in rows.items() for part in row_sections(row, values)],
        record,
        page=path.with_suffix(".html"),
        table=path.with_suffix(".md"),
    )


def _print(row: str, verdicts: Sequence[dict[str, Any]]) -> None:
    headers, lines = verdict_table(row, verdicts)
    table = Table(title=f"{row}. {TITLES[row]}", box=box.SIMPLE_HEAD)
    table.add_column(headers[0], overflow="fold")
    shown = (3, *range(5, len(headers)))  # fits a terminal
    for column in shown:
        table.add_column(headers[column], no_wrap=True)
    for cells in lines:
        table.add_row(cells[0], *(cells[column] for column in shown))
    Console().print(table)


if __name__ == "__main__":
    main()
