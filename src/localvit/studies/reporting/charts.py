"""The charts that every study has, drawn by Plotly: course of training, gains, and accuracy against cost."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from localvit.benchmark.look import BLUE, GREY, VERMILION, height_of_rows, label, rows_axis, style
from localvit.studies.record import Costs
from localvit.studies.reporting.chart_style import error_bar, looks
from localvit.studies.reporting.own_chart import own_chart
from localvit.studies.reporting.statistics import StudySummary, VariantSummary, Verdict

__all__ = ["accuracy_against_cost", "gains", "learning_curves", "own_chart"]

_VERDICT_COLOURS: dict[Verdict, str] = {"better": BLUE, "worse": VERMILION, "no evidence at this size": GREY}
# What the buttons say, what the axis says, and the cost.
_COSTS: tuple[tuple[str, str, Callable[[Costs], float | None]], ...] = (
    ("MACs", "multiply-accumulates of an image, millions", lambda costs: costs.macs / 1e6),
    ("parameters", "parameters, millions", lambda costs: costs.parameters / 1e6),
    ("training images/s", "images a second in training", lambda costs: costs.training_images_per_second),
)


def learning_curves(summary: StudySummary) -> go.Figure:
    """Test accuracy over epochs: the mean over seeds, and a band from the worst to the best of them."""
    figure, looked = go.Figure(), looks(summary.config)
    curves: list[pd.DataFrame] = []
    for variant in summary.variants:
        rows = [epoch for epochs in variant.curves.values() for epoch in epochs if "val_top1" in epoch]
        if not rows:
            continue
        curve = pd.DataFrame(rows).groupby("epoch")["val_top1"].agg(["mean", "min", "max"])
        epochs, look = curve.index.astype(int).tolist(), looked[variant.name]
        curves.append(curve)
        if len(variant.curves) > 1:
            figure.add_scatter(
                x=epochs + epochs[::-1],
                y=[*curve["max"], *curve["min"][::-1]],
                fill="toself",
                fillcolor=look.colour,
                opacity=0.18,
                mode="lines",
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                legendgroup=variant.name,
                name=f"{label(variant.name)}, range over seeds",
            )
        figure.add_scatter(
            x=epochs,
            y=curve["mean"].tolist(),
            mode="lines",
            line={"color": look.colour, "width": 2.5, "dash": look.dash},
            legendgroup=variant.name,
            name=label(variant.name),
            hovertemplate="%{y:.2f} % after epoch %{x}",
        )
    style(figure, height=440 + 12 * len(summary.variants))
    last_epoch = max((int(curve.index.max()) for curve in curves), default=1)
    figure.update_xaxes(title="epoch", dtick=1 if last_epoch <= 12 else None)
    figure.update_yaxes(title="test accuracy, %")
    if curves:  # The first epochs of a network that knows nothing would press together where it is decided.
        shown = pd.concat(curves).loc[lambda curve: curve.index >= last_epoch // 3]
        low, high = shown["min"].min(), shown["max"].max()
        figure.update_yaxes(range=[max(0.0, low - 0.05 * (high - low)), min(100.0, high + 0.05 * (high - low))])
    return figure


def gains(summary: StudySummary) -> go.Figure:
    """Gains over the baselines with their 95 % intervals, a row each; hollow where there is no evidence."""
    figure = go.Figure()
    compared = [(variant, variant.gain) for variant in summary.variants if variant.gain is not None]
    for verdict, colour in _VERDICT_COLOURS.items():
        rows = [(row, gain) for row, (_, gain) in enumerate(compared) if gain.verdict == verdict]
        if not rows:
            continue
        found = [gain.difference for _, gain in rows]
        figure.add_scatter(
            x=[difference.mean for difference in found],
            y=[row for row, _ in rows],
            error_x={
                "symmetric": False,
                "array": [difference.high - difference.mean for difference in found],
                "arrayminus": [difference.mean - difference.low for difference in found],
                "color": colour,
                "thickness": 2,
                "width": 5,
            },
            mode="markers",
            marker={
                "color": colour,
                "size": 13,
                "symbol": "circle-open" if verdict == "no evidence at this size" else "circle",
                "line": {"color": colour, "width": 2.5},
            },
            name=verdict,
            customdata=[
                [label(gain.variant), label(gain.reference), gain.difference.text(signed=True), f"{gain.p_holm:.3g}"]
                for _, gain in rows
            ],
            hovertemplate="%{customdata[0]} over %{customdata[1]}<br>%{customdata[2]} points, p = %{customdata[3]}",
        )
    paired = not isinstance(summary.config.baseline, str)
    names = [f"{gain.variant} over {gain.reference}" if paired else variant.name for variant, gain in compared]
    style(figure, height=height_of_rows(len(compared)))
    figure.add_vline(x=0, line={"color": GREY, "width": 1.5, "dash": "dash"})
    figure.update_xaxes(title="gain over the baseline, points")
    figure.update_yaxes(**rows_axis(names))
    return figure


def accuracy_against_cost(summary: StudySummary) -> go.Figure:
    """Test accuracy with its 95 % interval against a cost that buttons choose, and an arrow from each baseline."""
    figure, looked = go.Figure(), looks(summary.config)
    shown = [variant for variant in summary.variants if variant.accuracy is not None and variant.costs is not None]
    for variant in shown:
        assert variant.accuracy is not None
        look = looked[variant.name]
        figure.add_scatter(
            x=[_cost(variant, _COSTS[0][2])],
            y=[variant.accuracy.mean],
            error_y=error_bar(variant.accuracy, look.colour),
            mode="markers",
            marker={
                "color": look.colour,
                "symbol": look.symbol,
                "size": 13,
                "line": {"color": look.colour, "width": 2},
            },
            name=label(variant.name),
            hovertemplate="%{y:.2f} %<br>%{xaxis.title.text}: %{x:,.4~r}",
        )
    style(figure, height=450 + 12 * len(shown))
    figure.update_yaxes(title="test accuracy, %")
    figure.update_xaxes(title=_COSTS[0][1])
    figure.update_layout(annotations=_arrows(summary, shown, _COSTS[0][2]))
    known = [cost for cost in _COSTS if any(_cost(variant, cost[2]) is not None for variant in shown)]
    buttons = [
        {
            "label": name,
            "method": "update",
            "args": [
                {"x": [[_cost(variant, cost)] for variant in shown]},
                {"annotations": _arrows(summary, shown, cost), "xaxis.title.text": title, "xaxis.autorange": True},
            ],
        }
        for name, title, cost in known
    ]
    if len(buttons) > 1:
        figure.update_layout(
            margin={"t": 60},
            updatemenus=[
                {
                    "type": "buttons",
                    "direction": "right",
                    "buttons": buttons,
                    "x": 0,
                    "xanchor": "left",
                    "y": 1.02,
                    "yanchor": "bottom",
                    "pad": {"b": 6},
                    "font": {"size": 12},
                }
            ],
        )
    return figure


def _cost(variant: VariantSummary, cost: Callable[[Costs], float | None]) -> float | None:
    return None if variant.costs is None else cost(variant.costs)


def _arrows(
    summary: StudySummary, shown: list[VariantSummary], cost: Callable[[Costs], float | None]
) -> list[dict[str, Any]]:
    """From each variant's baseline to the variant, in the coordinates of the data."""
    looked = looks(summary.config)
    points = {
        variant.name: (x, variant.accuracy.mean)
        for variant in shown
        if variant.accuracy is not None and (x := _cost(variant, cost)) is not None
    }
    pairs = [(name, summary.config.baseline_of(name)) for name in points]
    return [
        {
            "x": points[name][0],
            "y": points[name][1],
            "ax": points[baseline][0],
            "ay": points[baseline][1],
            **{"xref": "x", "yref": "y", "axref": "x", "ayref": "y", "showarrow": True, "text": ""},
            **{"arrowhead": 2, "arrowwidth": 1.5, "arrowcolor": looked[name].colour, "opacity": 0.55},
            **{"standoff": 9, "startstandoff": 9},
        }
        for name, baseline in pairs
        if baseline in points
    ]
