"""A setting's measurements as bars: images a second with its spread, memory and utilisation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from localvit.benchmark.look import COLOURS, GREY, height_of_rows, label, rows_axis, style
from localvit.benchmark.result import BenchmarkResult, Measurement, SettingResult, memory_ratio, ratio


@dataclass(frozen=True)
class _Panel:
    """What a chart shows of every contestant, side by side with the others."""

    title: str
    value: Callable[[Measurement], float | None]
    text: Callable[[Measurement], str]


def chart(benchmark: BenchmarkResult, result: SettingResult) -> go.Figure:
    """Bars of one setting: a row each contestant, the baseline grey; a panel each quantity that was measured."""
    measurements = result.measurements
    panels = _panels(benchmark, result)
    figure = make_subplots(1, len(panels), shared_yaxes=True, horizontal_spacing=0.04)
    colours = [GREY, *(COLOURS[index % len(COLOURS)] for index in range(len(measurements) - 1))]
    for column, panel in enumerate(panels, start=1):
        values = [panel.value(measurement) for measurement in measurements]
        figure.add_bar(
            x=[value or 0 for value in values],
            y=list(range(len(values))),
            orientation="h",
            width=0.55,
            marker={"color": colours},
            error_x=_spread(measurements) if column == 1 else None,
            showlegend=False,
            customdata=[[label(measurement.name), panel.text(measurement)] for measurement in measurements],
            hovertemplate="%{customdata[0]}<br>%{customdata[1]}<extra></extra>",
            row=1,
            col=column,
        )
        # On the other side of the whiskers.
        ends = [value or 0 for value in values] if column > 1 else [_end(measurement) for measurement in measurements]
        figure.add_scatter(
            x=ends,
            y=list(range(len(values))),
            mode="text",
            text=[f"\N{NO-BREAK SPACE}{label(panel.text(measurement))}" for measurement in measurements],
            textposition="middle right",
            cliponaxis=False,
            hoverinfo="skip",
            showlegend=False,
            row=1,
            col=column,
        )
        room = 1.75 * max(ends, default=0) or 1
        figure.update_xaxes(title=panel.title, range=[0, room], nticks=4, row=1, col=column)
    style(figure, height=height_of_rows(len(measurements)))
    figure.update_yaxes(**rows_axis([measurement.name for measurement in measurements]))
    return figure


def _panels(benchmark: BenchmarkResult, result: SettingResult) -> list[_Panel]:
    baseline = result.baseline

    def times(measurement: Measurement, against: float | None) -> str:
        return "" if against is None or measurement is baseline else f" (× {against:.2f})"  # noqa: RUF001

    def speed(measurement: Measurement) -> str:
        if measurement.images_per_second is None:
            return "failed"
        against = ratio(measurement, baseline)
        median = None if against is None else against.median
        return f"{measurement.images_per_second.median:,.4g}{times(measurement, median)}"

    def memory(measurement: Measurement) -> str:
        if measurement.memory is None:
            return "not known"
        return f"{measurement.memory / 2**20:,.0f}{times(measurement, memory_ratio(measurement, baseline))}"

    def utilisation(measurement: Measurement) -> str:
        share = benchmark.utilisation(measurement)
        return "not known" if share is None else f"{100 * share:.0f}"

    panels = [
        _Panel("images a second", lambda one: one.images_per_second.median if one.images_per_second else 0, speed)
    ]
    if any(measurement.memory is not None for measurement in result.measurements):
        panels.append(_Panel("peak memory, MiB", lambda one: one.memory and one.memory / 2**20, memory))
    if any(benchmark.utilisation(measurement) is not None for measurement in result.measurements):
        panels.append(
            _Panel("model FLOP utilisation, %", lambda one: 100 * (benchmark.utilisation(one) or 0), utilisation)
        )
    return panels


def _end(measurement: Measurement) -> float:
    return measurement.images_per_second.high if measurement.images_per_second else 0.0


def _spread(measurements: Sequence[Measurement]) -> dict[str, object]:
    """Whiskers from quartile to quartile."""
    spreads = [measurement.images_per_second for measurement in measurements]
    return {
        "symmetric": False,
        "array": [spread.high - spread.median if spread else 0 for spread in spreads],
        "arrayminus": [spread.median - spread.low if spread else 0 for spread in spreads],
        "color": GREY,
        "thickness": 2,
        "width": 5,
    }
