"""The charts that every study has, drawn by Plotly: effects, sweep, accuracy against cost, and course of training."""

import statistics
from collections.abc import Callable
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from localvit.benchmark.look import BLUE, COLOURS, GREY, PALE, VERMILION, height_of_rows, label, rows_axis, style
from localvit.studies.claims import field_words
from localvit.studies.record import Costs
from localvit.studies.reporting.chart_style import error_bar, looks
from localvit.studies.reporting.own_chart import own_chart
from localvit.studies.statistics.findings import StudySummary, VariantSummary, Verdict

__all__ = ["accuracy_against_cost", "effects", "learning_curves", "own_chart", "sweep"]

_VERDICTS: dict[Verdict, tuple[str, str]] = {
    "better": (BLUE, "better"),
    "worse": (VERMILION, "worse"),
    "equal": (COLOURS[2], "equal within the margin"),
    "undecided": (GREY, "no evidence at this size"),
}
# Label of the button, title of the axis, and the cost.
_COSTS: tuple[tuple[str, str, Callable[[Costs], float | None]], ...] = (
    ("MACs", "multiply-accumulates of an image, millions", lambda costs: costs.macs / 1e6),
    ("parameters", "parameters, millions", lambda costs: costs.parameters / 1e6),
    ("training images/s", "images per second in training", lambda costs: costs.training_images_per_second),
)


def learning_curves(summary: StudySummary) -> go.Figure:
    """The course of training: the mean over seeds, and a band from the lowest seed to the highest.

    It shows accuracy if that was measured during training, and otherwise the training loss.
    """
    figure, looked = go.Figure(), looks(summary.config)
    epochs = [epoch for variant in summary.variants for run in variant.curves.values() for epoch in run]
    evaluated = {epoch["epoch"] for epoch in epochs if "val_top1" in epoch}
    metric = "val_top1" if len(evaluated) > 1 else "train_loss"
    curves: list[pd.DataFrame] = []
    for variant in summary.variants:
        rows = [epoch for run in variant.curves.values() for epoch in run if metric in epoch]
        if not rows:
            continue
        curve = pd.DataFrame(rows).groupby("epoch")[metric].agg(["mean", "min", "max"])
        numbers, look = curve.index.astype(int).tolist(), looked[variant.name]
        curves.append(curve)
        if len(variant.curves) > 1:
            figure.add_scatter(
                x=numbers + numbers[::-1],
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
            x=numbers,
            y=curve["mean"].tolist(),
            mode="lines",
            line={"color": look.colour, "width": 2.5, "dash": look.dash},
            legendgroup=variant.name,
            name=label(variant.name),
            hovertemplate="%{y:.2f} after epoch %{x}",
        )
    style(figure, height=440 + 12 * len(summary.variants))
    last_epoch = max((int(curve.index.max()) for curve in curves), default=1)
    figure.update_xaxes(title="epoch", dtick=1 if last_epoch <= 12 else None)
    judged = "validation" if summary.config.recipe.data.validation else "test"
    figure.update_yaxes(title=f"{judged} accuracy, %" if metric == "val_top1" else "training loss")
    if curves:  # the first epochs of an untrained network would squeeze the rest
        shown = pd.concat(curves).loc[lambda curve: curve.index >= last_epoch // 3]
        low, high = shown["min"].min(), shown["max"].max()
        edge = 0.05 * (high - low)
        figure.update_yaxes(range=[max(0.0, low - edge), min(100.0, high + edge)])
    return figure


def effects(summary: StudySummary) -> go.Figure:
    """The contrasts of the claims with their simultaneous intervals, and the margin of equality as a band."""
    figure = go.Figure()
    parts = [part for claim in summary.claims for part in claim.parts]
    for verdict, (colour, name) in _VERDICTS.items():
        rows = [(row, part) for row, part in enumerate(parts) if part.verdict == verdict]
        if not rows:
            continue
        found = [part.difference for _, part in rows]
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
                "symbol": "circle-open" if verdict == "undecided" else "circle",
                "line": {"color": colour, "width": 2.5},
            },
            name=name,
            customdata=[
                [label(part.contrast.name), part.difference.text(signed=True), f"{part.p_value:.3g}"]
                for _, part in rows
            ],
            hovertemplate="%{customdata[0]}<br>%{customdata[1]} points, p = %{customdata[2]}",
        )
    style(figure, height=height_of_rows(len(parts)))
    if margin := summary.config.margin:
        figure.add_vrect(x0=-margin, x1=margin, fillcolor=PALE, opacity=0.5, line_width=0, layer="below")
    figure.add_vline(x=0, line={"color": GREY, "width": 1.5, "dash": "dash"})
    figure.update_xaxes(title="difference, points")
    figure.update_yaxes(**rows_axis([part.contrast.name for part in parts]))
    return figure


def sweep(summary: StudySummary) -> go.Figure:
    """Validation accuracy over the values of the sweep: a line per group, and a star at its choice."""
    figure = go.Figure()
    for index, group in enumerate(dict.fromkeys(found.group for found in summary.record.sweep)):
        found = sorted((f for f in summary.record.sweep if f.group == group), key=lambda outcome: outcome.value)
        colour = COLOURS[index % len(COLOURS)]
        figure.add_scatter(
            x=[outcome.value for outcome in found],
            y=[statistics.fmean(outcome.accuracies) for outcome in found],
            mode="lines+markers",
            line={"color": colour, "width": 2.5},
            marker={
                "color": colour,
                "size": [16 if outcome.chosen else 8 for outcome in found],
                "symbol": ["star" if outcome.chosen else "circle" for outcome in found],
            },
            name=label(group),
            hovertemplate="%{x:.2~g}: %{y:.2f} %",
        )
    style(figure, height=420)
    axis = summary.config.sweep.axis if summary.config.sweep else ""
    values = sorted({outcome.value for outcome in summary.record.sweep})
    figure.update_xaxes(title=field_words(axis), type="log", tickvals=values, ticktext=[f"{v:g}" for v in values])
    figure.update_yaxes(title="validation accuracy, %")
    return figure


def accuracy_against_cost(summary: StudySummary) -> go.Figure:
    """Test accuracy with its 95 % interval against a cost that buttons select, with an arrow from each baseline."""
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
    """Arrows from each baseline to its variants, in data coordinates."""
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
