"""How time and memory of DeiT-T and LocalViT-T, and of their parts, grow with image size and batch size.

    python benchmarks/scaling.py                                    # about half an hour on 2 CPU cores
    python benchmarks/scaling.py --sizes 112 224 --batches 1 16     # fewer sizes
    python benchmarks/scaling.py --quick                            # a trial with the smallest sizes

For growing images, a batch has one image in inference and two in training, which stops at size 448 and batch size 64.
Inference of LocalViT-T uses its fused copy. Attention, MLP and the locality feed-forward network are also timed alone,
with the exponent of time over tokens: 1 is linear, 2 is quadratic. Writes ``benchmarks/results/scaling.json``, a
Markdown table and an offline page of charts.
"""

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import nn

from localvit.benchmark import (
    BenchmarkResult,
    Contestant,
    Measurement,
    Section,
    Setting,
    SettingResult,
    Spread,
    provenance,
    ratio,
    run_each,
    write_page,
)
from localvit.benchmark.comparison import ROUNDS, SECONDS_A_TURN, in_words
from localvit.benchmark.look import BLUE, COLOURS, GREY, style
from localvit.benchmark.measurement import Timed, take_turns
from localvit.benchmark.report import FAILED, UNKNOWN, problems
from localvit.locality.feed_forward import LocalityFeedForward
from localvit.locality.kernels.fuse import fuse
from localvit.system.files import write_text
from localvit.system.machine import keep_memory
from localvit.system.terminal import ERRORS, quiet

NAME = "scaling"
RESULTS = Path(__file__).parent / "results"
CONTESTANTS = [
    Contestant("deit_tiny_patch16_224", "DeiT-T"),
    Contestant("localvit_tiny_patch16_224", "LocalViT-T"),
]
SIZES, BATCHES, GRIDS = (112, 224, 448, 896), (1, 4, 16, 64, 256), (7, 14, 28, 56, 80)
SIZE = 224
LARGEST_IN_TRAINING, MOST_IN_TRAINING, BATCH_IN_TRAINING = 448, 64, 2
PATCH = 16
FITTED = 3  # largest grids, where constant costs no longer matter
LEAD = (
    "The two models took turns in one process. Times are medians over rounds; memory is the peak of a step, measured "
    "in a new process. Everything is in fp32. Inference of LocalViT-T uses its fused copy (localvit.fuse). A training "
    "step is forward, backward and AdamW."
)
TRIAL = "This is a trial on small images."


@dataclass(frozen=True)
class Sweep:
    """Settings that differ in one quantity.

    Attributes:
        heading: heading of the section.
        axis: the quantity.
        settings: settings by its value.
    """

    heading: str
    axis: str
    settings: Mapping[int, Setting]


def sweeps(sizes: Sequence[int], batches: Sequence[int], size: int) -> list[Sweep]:
    """Inference and training over image sizes, and over batches of images of one size."""
    inference, training = Setting(fuse=True, batch_size=1), Setting("training", batch_size=BATCH_IN_TRAINING)
    found = []
    for setting, largest, most in (
        (inference, max(sizes), max(batches)),
        (training, LARGEST_IN_TRAINING, MOST_IN_TRAINING),
    ):
        name = "A training step" if setting.mode == "training" else "Inference"
        by_size = {side: replace(setting, image_size=side) for side in sizes if side <= largest}
        by_batch = {
            images: replace(setting, batch_size=images, image_size=size) for images in batches if images <= most
        }
        found.append(Sweep(f"{name} over image sizes, batch {setting.batch_size}", "image size", by_size))
        found.append(Sweep(f"{name} over batches, {size} x {size}", "batch", by_batch))
    return found


def measure_sweeps(asked: Sequence[Sweep], **how: Any) -> BenchmarkResult:
    """Measure every setting once, even if two sweeps share it."""
    settings = dict.fromkeys(setting for sweep in asked for setting in sweep.settings.values())
    return run_each([(CONTESTANTS, setting) for setting in settings], memory=True, console=ERRORS, **how)


def pieces(setting: Setting) -> dict[str, Callable[[torch.Tensor, tuple[int, int]], object]]:
    """Parts of the first blocks, as functions of tokens (B, 1 + H * W, D) and their grid (H, W)."""
    deit, localvit = (one.build(setting).eval().to(setting.torch_device) for one in CONTESTANTS)
    block: Any = deit.get_submodule("blocks.0")
    network = next(module for module in localvit.modules() if isinstance(module, LocalityFeedForward))
    locality: nn.Module = fuse(network)
    return {
        "attention": lambda x_BND, grid: block.attn(x_BND),
        "MLP": lambda x_BND, grid: block.mlp(x_BND),
        "locality feed-forward": locality,
    }


def measure_pieces(grids: Sequence[int], *, rounds: int, seconds_a_turn: float) -> dict[str, Any]:
    """Seconds of each part on each square grid in each round, and the exponent of the medians over tokens."""
    setting = Setting()
    parts = pieces(setting)
    wait = torch.cuda.synchronize if setting.torch_device.type == "cuda" else bool
    channels = int(parts["locality feed-forward"].expand.in_features)  # type: ignore[attr-defined]  # fused
    turns = {}
    for side in grids:
        x_BND = torch.randn(1, 1 + side**2, channels, device=setting.torch_device)
        for name, part in parts.items():
            turns[name, side] = Timed(_call(part, x_BND, (side, side)), 1, wait)
    outcomes = take_turns(turns, rounds, seconds_a_turn=seconds_a_turn)
    rows = []
    for (name, side), rates in outcomes.items():
        known: dict[str, Any] = (
            {"error": in_words(rates)} if isinstance(rates, Exception) else {"seconds": [1 / rate for rate in rates]}
        )
        rows.append({"piece": name, "grid": [side, side], "tokens": 1 + side**2, **known})
    return {
        "rows": rows,
        "exponents": {name: exponent([row for row in rows if row["piece"] == name]) for name in parts},
    }


def _call(
    part: Callable[[torch.Tensor, tuple[int, int]], object], x_BND: torch.Tensor, grid: tuple[int, int]
) -> Callable[[], object]:
    def step() -> object:
        with torch.inference_mode():
            return part(x_BND, grid)

    return step


def exponent(rows: Sequence[dict[str, Any]]) -> float | None:
    """The slope of a line through the logarithms of tokens and median seconds. None for fewer than two grids."""
    points = [(row["tokens"], np.median(row["seconds"])) for row in rows if "seconds" in row][-FITTED:]
    if len(points) < 2:
        return None
    tokens, seconds = np.log(points).T
    return float(np.polyfit(tokens, seconds, 1)[0])


def sweep_section(sweep: Sweep, found: BenchmarkResult) -> Section:
    """Table and chart of a sweep."""
    by_setting = {result.setting: result for result in found.results}
    results = {value: by_setting[setting.on_its_device()] for value, setting in sweep.settings.items()}
    names = [one.name for one in CONTESTANTS]
    headers = [sweep.axis, "tokens", *(f"{name}, ms/image" for name in names), "ratio", "quartiles"]
    headers += [*(f"{name}, MiB" for name in names), "MiB ratio"]
    rows = [[str(value), *_cells(result)] for value, result in results.items()]
    errors = [problem for result in results.values() for problem in problems(result)]
    return Section(sweep.heading, headers, rows, errors, _sweep_chart(sweep, results), "Both axes are logarithmic.")


def _cells(result: SettingResult) -> list[str]:
    baseline, twin = result.measurements
    tokens = 1 + (result.setting.height_and_width[0] // PATCH) ** 2
    seconds = [_milliseconds(one) for one in (baseline, twin)]
    times = ratio(baseline, twin)  # swapped, because rates are inverse to seconds
    memories = [one.memory for one in (baseline, twin)]
    return [
        str(tokens),
        *(FAILED if one is None else f"{one.median:,.4g}" for one in seconds),
        f"{times.median:.2f}" if times else UNKNOWN,
        f"{times.low:.2f}–{times.high:.2f}" if times else UNKNOWN,
        *(UNKNOWN if memory is None else f"{memory / 2**20:,.0f}" for memory in memories),
        f"{memories[1] / memories[0]:.2f}" if memories[0] and memories[1] else UNKNOWN,
    ]


def _milliseconds(measurement: Measurement) -> Spread | None:
    """Milliseconds per image."""
    return Spread.of([1000 / rate for rate in measurement.rates]) if measurement.rates else None


def _sweep_chart(sweep: Sweep, results: Mapping[int, SettingResult]) -> go.Figure:
    panels: dict[str, dict[str, dict[int, float]]] = {"milliseconds per image": {}, "peak memory, MiB": {}}
    for one in CONTESTANTS:
        measured = {value: result[one.name] for value, result in results.items()}
        speeds = {value: spread for value, each in measured.items() if (spread := _milliseconds(each))}
        panels["milliseconds per image"][one.name] = {value: spread.median for value, spread in speeds.items()}
        memories = {value: each.memory / 2**20 for value, each in measured.items() if each.memory}
        panels["peak memory, MiB"][one.name] = memories
    return lines(sweep.axis, panels, [GREY, BLUE])


def lines(axis: str, panels: Mapping[str, Mapping[str, Mapping[int, float]]], colours: Sequence[str]) -> go.Figure:
    """Draw lines on logarithmic axes, from values by panel title, line name and position on the axis."""
    figure = make_subplots(1, len(panels), horizontal_spacing=0.12)
    for column, (title, series) in enumerate(panels.items(), start=1):
        for (name, values), colour in zip(series.items(), colours, strict=False):
            figure.add_scatter(
                x=list(values),
                y=list(values.values()),
                name=name,
                mode="lines+markers",
                line={"color": colour, "dash": "dash" if colour == GREY else "solid"},
                marker={"size": 8},
                legendgroup=name,
                showlegend=column == 1,
                row=1,
                col=column,
            )
        places = sorted({place for values in series.values() for place in values})
        heights = [height for values in series.values() for height in values.values()]
        figure.update_xaxes(type="log", title=axis, **_ticks(places), row=1, col=column)
        figure.update_yaxes(type="log", title=title, **_ticks(_round_numbers(heights)), row=1, col=column)
    style(figure, height=420)
    return figure


def _ticks(places: Sequence[float]) -> dict[str, Any]:
    return {"tickvals": list(places), "ticktext": [f"{place:g}" for place in places]}


def _round_numbers(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 of each decade, within or near the range of the values."""
    if not values:
        return []
    decades = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    numbers = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    return [number for number in numbers if min(values) / 2 <= number <= 2 * max(values)]


def pieces_section(found: dict[str, Any]) -> Section:
    """Table and chart of the parts of a block."""
    exponents = found["exponents"]
    by_piece = {
        name: {row["tokens"]: row.get("seconds") for row in found["rows"] if row["piece"] == name} for name in exponents
    }
    grids = {row["tokens"]: row["grid"] for row in found["rows"]}
    rows = []
    for tokens, (height, width) in grids.items():
        seconds = [values[tokens] for values in by_piece.values()]
        cells = [FAILED if one is None else f"{1000 * np.median(one):,.4g}" for one in seconds]
        rows.append([f"{height} x {width}", str(tokens), *cells])
    fits = [UNKNOWN if value is None else f"{value:.2f}" for value in exponents.values()]
    rows.append([f"exponent over the largest {FITTED}", "", *fits])
    medians = {
        name: {tokens: 1000 * float(np.median(one)) for tokens, one in values.items() if one}
        for name, values in by_piece.items()
    }
    errors = [
        f"{row['piece']} on {row['tokens']} tokens failed: {row['error']}" for row in found["rows"] if "error" in row
    ]
    return Section(
        "Parts of a block, inference in fp32, batch 1",
        ["grid", "tokens", *(f"{name}, ms" for name in by_piece)],
        rows,
        errors,
        lines("tokens", {"milliseconds": medians}, [GREY, *COLOURS]),
        "Both axes are logarithmic, so the slope is the exponent.",
    )


def main() -> None:
    """Measure, and write numbers, tables and charts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="image sizes, multiples of 16")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="batch sizes")
    parser.add_argument("--quick", action="store_true", help="a trial with the smallest sizes")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    quiet()
    keep_memory()  # as the commands do
    sizes, batches, grids, size = sorted(options.sizes), sorted(options.batches), list(GRIDS), SIZE
    how: dict[str, Any] = {"rounds": ROUNDS, "seconds_a_turn": SECONDS_A_TURN}
    if options.quick:
        sizes, batches, grids, size = [32, 64], [1, 2], [2, 4, 8], 32
        how = {"rounds": 2, "seconds_a_turn": 0.01}
    asked = sweeps(sizes, batches, size)
    found = measure_sweeps(asked, **how)
    parts = measure_pieces(grids, **how)
    record = provenance()
    values = {
        "version": 1,
        "quick": options.quick,
        "benchmark": json.loads(found.to_json()),
        "sweeps": [asdict(sweep) for sweep in asked],
        "pieces": parts,
        "record": record,
    }
    path = options.output / f"{NAME}.json"
    write_text(path, json.dumps(values, indent=1) + "\n")
    write_page(
        "How time and memory grow",
        f"{LEAD} {TRIAL if options.quick else ''}".strip(),
        [*(sweep_section(sweep, found) for sweep in asked), pieces_section(parts)],
        record,
        page=path.with_suffix(".html"),
        table=path.with_suffix(".md"),
    )
    ERRORS.print(f"Written: {path.with_suffix('.html')}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
