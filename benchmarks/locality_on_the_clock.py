"""Time and memory that locality costs: each baseline and its LocalViT twin, side by side.

    python benchmarks/locality_on_the_clock.py                # all rows; one to two hours on 2 CPU cores
    python benchmarks/locality_on_the_clock.py --rows B C     # some rows; the others keep their earlier numbers
    python benchmarks/locality_on_the_clock.py --quick        # a trial with few rounds of small batches

Writes ``benchmarks/results/locality_on_the_clock.json`` with the numbers of every round, a Markdown table and an
offline page of charts. A ratio is the twin's images per second divided by the baseline's, paired by round, or its
memory divided by the baseline's. If both eager and compiled models are tried, the better one of each counts, and both
are shown. A row that this machine cannot measure keeps its earlier numbers.
"""

import argparse
import dataclasses
import functools
import importlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from localvit.benchmark import (
    PEERS,
    BenchmarkResult,
    Contestant,
    Measurement,
    Section,
    Setting,
    SettingResult,
    Spread,
    memory_ratio,
    provenance,
    ratio,
    run_each,
    sections,
    write_page,
)
from localvit.benchmark.look import BLUE, GREY, VERMILION, height_of_rows, label, rows_axis, style
from localvit.benchmark.setting import Precision
from localvit.models.catalog import PUBLISHED
from localvit.system.files import write_text
from localvit.system.machine import keep_memory
from localvit.system.terminal import ERRORS, quiet

NAME = "locality_on_the_clock"
RESULTS = Path(__file__).parent / "results"
BASELINES = {model.name: model.baseline for model in PUBLISHED if model.baseline}
TINY = "localvit_tiny_patch16_224"
# Twins of other families, with the batch size of their training.
FAMILIES = {
    "localvit_t2t_7": 32,
    "localvit_pvt_tiny": 32,
    "localvit_tnt_small_patch16_224": 16,
    "localvit_swin_tiny_patch4_window7_224": 16,
}
TITLES = {
    "A": "On a GPU",
    "B": "Inference, bf16, compiled",
    "C": "Inference, bf16, eager",
    "D": "Inference, fp32",
    "E": "Training",
    "F": "Memory of a training step",
    "G": "Other families",
    "peers": "Beside other small models",
}
_LABEL = 46  # characters per line; labels then take at most three lines
LEAD = (
    "Each baseline and its LocalViT twin took turns in one process. A ratio is the twin's images per second divided by "
    "the baseline's, as the median over rounds. If both eager and compiled models were tried, the better one of each "
    "counts. For memory, the ratio compares peaks, and the smaller one of each counts. Fused twins are made by "
    "localvit.fuse."
)


# By row, or by row and precision: the lowest acceptable ratio (for memory, the highest), and one to aim for.
GOALS = {
    "A": {"bound": 0.85, "aim": 1.0},
    "B": {"bound": 0.90, "aim": 1.1},
    "C": {"bound": 0.80, "aim": 1.0},
    "D": {"bound": 0.95, "aim": 1.1},
    "E fp32": {"bound": 0.80, "aim": 1.0},
    "E bf16-mixed": {"bound": 0.70, "aim": 1.0},
    "F": {"bound": 1.15, "aim": 1.0},
    "G": {"bound": 0.80, "aim": 1.0},
}


@dataclass(frozen=True)
class Comparison:
    """A baseline and its twin in one setting.

    Attributes:
        row: row of the table.
        twin: a LocalViT model.
        setting: the shared setting.
        compiles: the values of ``compile`` to try. The best result counts.
    """

    row: str
    twin: str
    setting: Setting
    compiles: tuple[bool, ...] = (False,)

    @property
    def baseline(self) -> str:
        """The model that the twin localizes."""
        return BASELINES[self.twin]

    @property
    def goal(self) -> dict[str, float]:
        """The ratio to reach."""
        return GOALS.get(self.row) or GOALS[f"{self.row} {self.setting.precision}"]

    @property
    def memory(self) -> bool:
        """Whether it compares memory instead of speed."""
        return self.row == "F"

    def contestants(self) -> list[Contestant]:
        """The forms of the baseline, then those of the twin."""
        return [
            Contestant(model, f"{model}, {'compiled' if compiled else 'eager'}", {"compile": compiled})
            for model in (self.baseline, self.twin)
            for compiled in self.compiles
        ]

    def words(self) -> str:
        """The comparison as one line of text."""
        setting = replace(self.setting, compile=self.compiles[0]).words()
        if len(self.compiles) > 1:
            setting = setting.replace("eager", "better of eager and compiled")
        return setting if self.twin == TINY else f"{self.twin}: {setting}"


def comparisons(row: str) -> list[Comparison]:
    """The comparisons of a row of the table."""
    inference = Setting(precision="bf16", fuse=True, batch_size=16)
    training = Setting("training", batch_size=32)
    both: tuple[bool, ...] = (False, True)
    precisions: tuple[Precision, ...] = ("fp32", "bf16-mixed")
    match row:
        case "A":
            modes = (Setting("training", "bf16-mixed"), inference)
            settings = [replace(mode, device="cuda", batch_size=256) for mode in modes]
            return [Comparison(row, TINY, setting, (one,)) for setting in settings for one in both]
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
    """Measure a row. Returns its numbers and verdicts as JSON, or the reason why it was not measured."""
    how: dict[str, Any] = {"rounds": 2, "seconds_a_turn": 0.02} if quick else {}
    if row == "A" and not torch.cuda.is_available():
        return {"not_measured": "no GPU", "record": provenance()}
    if row == "peers":
        jobs, notes = peers(quick)
        found = run_each(jobs, **how, console=console)
        return {"benchmark": json.loads(found.to_json()), "notes": notes, "verdicts": []}
    asked = [replace(one, setting=_smaller(one.setting, quick)) for one in comparisons(row)]
    if asked[0].memory:
        how = {"rounds": 0, "memory": True}
    jobs = [(one.contestants(), replace(one.setting, compile=one.compiles[0])) for one in asked]
    found = run_each(jobs, **how, console=console)
    verdicts = [verdict(one, result) for one, result in zip(asked, found.results, strict=True)]
    return {"benchmark": json.loads(found.to_json()), "notes": [], "verdicts": verdicts}


def verdict(comparison: Comparison, result: SettingResult) -> dict[str, Any]:
    """The ratio of the better forms, whether it reaches the goal, and the ratio of each form."""
    number = len(comparison.compiles)
    baselines, twins = result.measurements[:number], result.measurements[number:]
    best = _pair(_better(baselines, comparison), _better(twins, comparison), comparison)
    forms = [_pair(baseline, twin, comparison) for baseline, twin in zip(baselines, twins, strict=True)]
    goal, sign = comparison.goal, -1 if comparison.memory else 1
    found = best["ratio"]
    return {
        "comparison": comparison.words(),
        "quantity": "memory" if comparison.memory else "speed",
        **best,
        "forms": forms if number > 1 else [],
        **goal,
        "met": found is not None and sign * found["median"] >= sign * goal["bound"],
        "aim_met": found is not None and sign * found["median"] >= sign * goal["aim"],
        "errors": [one.error or one.memory_error for one in result.measurements if one.error or one.memory_error],
    }


def _pair(baseline: Measurement | None, twin: Measurement | None, comparison: Comparison) -> dict[str, Any]:
    found = _ratio(twin, baseline, comparison) if baseline and twin else None
    return {
        "baseline": baseline and baseline.name,
        "twin": twin and twin.name,
        "figures": [_figure(one, comparison) for one in (baseline, twin)],
        "ratio": found and dataclasses.asdict(found),
    }


def _better(forms: Sequence[Measurement], comparison: Comparison) -> Measurement | None:
    known = {figure: form for form in forms if (figure := _figure(form, comparison)) is not None}
    return known[min(known) if comparison.memory else max(known)] if known else None


def _figure(measurement: Measurement | None, comparison: Comparison) -> float | None:
    """Images per second, or bytes."""
    if measurement is None:
        return None
    if comparison.memory:
        return measurement.memory
    return measurement.images_per_second.median if measurement.images_per_second else None


def _ratio(twin: Measurement, baseline: Measurement, comparison: Comparison) -> Spread | None:
    if not comparison.memory:
        return ratio(twin, baseline)
    return None if (times := memory_ratio(twin, baseline)) is None else Spread.of([times])


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


def verdict_table(row: str, verdicts: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The verdicts of a row as headers and lines of text, with one more line per form."""
    memory = verdicts[0]["quantity"] == "memory"
    unit = "MiB" if memory else "images/s"
    headers = ["row and setting", f"baseline, {unit}", f"twin, {unit}", "ratio", "quartiles"]
    headers += ["at most" if memory else "at least", "aim", "verdict"]
    lines = []
    for one in verdicts:
        met = "met, and the aim" if one["aim_met"] else "met" if one["met"] else "not met"
        verdict_cells = [f"{one['bound']:.2f}", f"{one['aim']:.2f}", met]
        lines.append([f"{row}. {one['comparison']}", *_cells(one, memory=memory), *verdict_cells])
        lines += [
            [f"… {form['baseline'].rpartition(', ')[2]}", *_cells(form, memory=memory), "", "", ""]
            for form in one["forms"]
        ]
    return headers, lines


def _cells(pair: dict[str, Any], *, memory: bool) -> list[str]:
    """Figures of baseline and twin, their ratio and its quartiles."""
    figures = ["–" if value is None else f"{value / (2**20 if memory else 1):,.4g}" for value in pair["figures"]]
    found = pair["ratio"]
    ratios = [f"{found['median']:.2f}", f"{found['low']:.2f}–{found['high']:.2f}"] if found else ["–", "–"]
    return [*figures, *ratios]


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
    parser.add_argument("--rows", nargs="+", choices=TITLES, default=list(TITLES), metavar="ROW")
    parser.add_argument("--quick", action="store_true", help="a trial with few rounds of small batches")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    quiet()
    keep_memory()  # as the commands do
    path = options.output / f"{NAME}.json"
    rows: dict[str, Any] = json.loads(path.read_text())["rows"] if path.exists() else {}
    for row in options.rows:
        ERRORS.print(f"{row}. {TITLES[row]}", highlight=False)
        found = measure_row(row, options.quick, console=ERRORS)
        if "not_measured" in found and row in rows:
            continue
        rows[row] = {**found, "quick": options.quick}
        if rows[row].get("verdicts"):
            _print(row, rows[row]["verdicts"])
        rows = {name: rows[name] for name in TITLES if name in rows}
        write_text(path, json.dumps({"version": 1, "rows": rows}, indent=1) + "\n")
    write_page(
        "Locality on the clock",
        LEAD,
        [part for row, values in rows.items() for part in row_sections(row, values)],
        provenance(),
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
