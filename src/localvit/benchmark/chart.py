"""Draws the measurements of a setting as bars: images per second with quartiles, memory and utilization."""

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from localvit.benchmark.look import COLOURS, GREY, height_of_rows, label, rows_axis, style
from localvit.benchmark.result import BenchmarkResult, Measurement, SettingResult, memory_ratio, ratio


@dataclass(frozen=True)
class _Panel:
    """One quantity of all contestants.

    Attributes:
        title: of its axis.
        values: length of each bar.
        texts: what stands beside each bar.
        ends: where those texts start.
        whiskers: error bars, as Plotly takes them.
    """

    title: str
    values: Sequence[float]
    texts: Sequence[str]
    ends: Sequence[float]
    whiskers: dict[str, object] | None = None


def chart(benchmark: BenchmarkResult, result: SettingResult) -> go.Figure:
    """Draw one row per contestant, with a gray baseline, and one panel per quantity that was measured."""
    names = [measurement.name for measurement in result.measurements]
    rows = list(range(len(names)))
    panels = _panels(benchmark, result)
    figure = make_subplots(1, len(panels), shared_yaxes=True, horizontal_spacing=0.04)
    for column, panel in enumerate(panels, start=1):
        figure.add_bar(
            x=panel.values,
            y=rows,
            orientation="h",
            width=0.55,
            marker={"color": [GREY, *(COLOURS[index % len(COLOURS)] for index in rows[1:])]},
            error_x=panel.whiskers,
            showlegend=False,
            customdata=[[label(name), text] for name, text in zip(names, panel.texts, strict=True)],
            hovertemplate="%{customdata[0]}<br>%{customdata[1]}<extra></extra>",
            row=1,
            col=column,
        )
        figure.add_scatter(  # Plotly's own texts of bars would lie on the whiskers
            x=panel.ends,
            y=rows,
            mode="text",
            text=[f"\N{NO-BREAK SPACE}{label(text)}" for text in panel.texts],
            textposition="middle right",
            cliponaxis=False,
            hoverinfo="skip",
            showlegend=False,
            row=1,
            col=column,
        )
        room_for_text = 1.75 * max(panel.ends, default=0) or 1
        figure.update_xaxes(title=panel.title, range=[0, room_for_text], nticks=4, row=1, col=column)
    style(figure, height=height_of_rows(len(names)))
    figure.update_yaxes(**rows_axis(names))
    return figure


def _panels(benchmark: BenchmarkResult, result: SettingResult) -> list[_Panel]:
    measurements, baseline = result.measurements, result.baseline
    panels = [_speeds(result)]
    if any(one.memory is not None for one in measurements):
        memories = [(one.memory or 0) / 2**20 for one in measurements]
        texts = [
            "unknown" if one.memory is None else f"{memory:,.0f}{_times(one, memory_ratio(one, baseline), baseline)}"
            for one, memory in zip(measurements, memories, strict=True)
        ]
        panels.append(_Panel("peak memory, MiB", memories, texts, memories))
    shares = [benchmark.utilisation(one) for one in measurements]
    if any(share is not None for share in shares):
        texts = ["unknown" if share is None else f"{100 * share:.0f}" for share in shares]
        percent = [100 * (share or 0) for share in shares]
        panels.append(_Panel("model FLOP utilization, %", percent, texts, percent))
    return panels


def _speeds(result: SettingResult) -> _Panel:
    texts, spreads = [], [measurement.images_per_second for measurement in result.measurements]
    for measurement, speed in zip(result.measurements, spreads, strict=True):
        against = ratio(measurement, result.baseline)
        times = _times(measurement, against.median if against else None, result.baseline)
        texts.append(f"{speed.median:,.4g}{times}" if speed else "failed")
    whiskers = {
        "symmetric": False,
        "array": [speed.high - speed.median if speed else 0 for speed in spreads],
        "arrayminus": [speed.median - speed.low if speed else 0 for speed in spreads],
        "color": GREY,
        "thickness": 2,
        "width": 5,
    }
    medians = [speed.median if speed else 0.0 for speed in spreads]
    return _Panel("images per second", medians, texts, [speed.high if speed else 0.0 for speed in spreads], whiskers)


def _times(measurement: Measurement, against: float | None, baseline: Measurement) -> str:
    return "" if against is None or measurement is baseline else f" (× {against:.2f})"  # noqa: RUF001
