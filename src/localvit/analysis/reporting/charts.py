"""The charts of an analysis, drawn by Plotly: curves by depth with bands over seeds, heads, and robustness."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from localvit.analysis.analysis import Analysis
from localvit.analysis.measures.attention_distance import AttentionDistance
from localvit.analysis.measures.robustness import Robustness
from localvit.analysis.reporting.galleries import alignment, kernel_galleries, receptive_fields
from localvit.analysis.reporting.summary import by_layer, headline_series, over_seeds
from localvit.benchmark.look import GREY, height_of_rows, label, rows_axis, style
from localvit.studies.reporting.chart_style import Look, add_line, error_bar, looks_of

Drawn = tuple[go.Figure, str] | None


def charts(analysis: Analysis, measure: str) -> dict[str, tuple[go.Figure, str]]:
    """The charts of a measure with their captions, by name; those without anything to show are left out.

    Every family has charts of its own: one with the lines of all could not be read.
    """
    families = analysis.families()
    if len(families) == 1:
        return _of_family(analysis, measure)
    return {
        f"{name}-{re.sub(r'[^a-z0-9]+', '-', family.title.lower()).strip('-')}": (figure, f"{family.title}. {caption}")
        for family in families
        for name, (figure, caption) in _of_family(family, measure).items()
    }


def _of_family(analysis: Analysis, measure: str) -> dict[str, tuple[go.Figure, str]]:
    drawn = {name: draw(analysis) for name, draw in _CHARTS[measure].items()}
    shown = {name: found for name, found in drawn.items() if found is not None}
    return shown | (kernel_galleries(analysis) if measure == "kernels" else {})


def _looks(analysis: Analysis) -> dict[str, Look]:
    return looks_of(list(analysis.names), analysis.baselines)


def _by_depth(analysis: Analysis, measure: str, panels: Mapping[str, str]) -> go.Figure | None:
    """A panel per series, one below the other, with a line per model over the number of the layer."""
    shown = [name for name in analysis.names if analysis.of(measure, name)]
    if not shown:
        return None
    figure = make_subplots(rows=len(panels), shared_xaxes=True, vertical_spacing=0.09 if len(panels) > 1 else 0)
    looked = _looks(analysis)
    deepest = 1
    for row, (series, title) in enumerate(panels.items(), start=1):
        for name in shown:
            points = list(enumerate(by_layer(analysis, measure, series, name), start=1))
            deepest = max(deepest, len(points))
            options = {"row": row, "col": 1, "showlegend": row == 1, "legendgroup": name}
            add_line(figure, points, looked[name].colour, label(name), dash=looked[name].dash, **options)
        figure.update_yaxes(title=title, row=row, col=1)
    style(figure, height=170 + 210 * len(panels) + 14 * len(shown))
    figure.update_xaxes(dtick=1 if deepest <= 16 else None)
    figure.update_xaxes(title="layer", row=len(panels), col=1)
    return figure


def _curves(measure: str, panels: Mapping[str, str], caption: str) -> Callable[[Analysis], Drawn]:
    """Draws the series of a measure by depth, with titles for their panels."""

    def draw(analysis: Analysis) -> Drawn:
        figure = _by_depth(analysis, measure, panels)
        return figure and (figure, caption)

    return draw


def _locality(analysis: Analysis) -> Drawn:
    panels = {"index": "index", "attention": "by attention", "feed-forward": "by feed-forward"}
    figure = _by_depth(analysis, "locality-index", panels)
    if figure is None:
        return None
    measured = next(name for name in analysis.names if analysis.of("locality-index", name))
    alike = by_layer(analysis, "locality-index", "uniform", measured)
    add_line(figure, list(enumerate(alike, start=1)), GREY, "all tokens alike", dash="dot", row=1, col=1)
    return figure, (
        "The locality index and the two parts that it is the sum of: from the attention branch and from the "
        "feed-forward branch. Dotted: a branch that treats all tokens alike. Bands are 95 % intervals over seeds."
    )


def _heads(analysis: Analysis) -> Drawn:
    """Every head of every layer as a dot, of the first seed (as in figure 11 of Dosovitskiy et al.)."""
    figure, looked = go.Figure(), _looks(analysis)
    shown = [name for name in analysis.names if analysis.of("attention-distance", name)]
    for place, name in enumerate(shown):
        result = analysis.of("attention-distance", name)[0].result
        assert isinstance(result, AttentionDistance)
        offset = 0.5 * (place - (len(shown) - 1) / 2) / max(1, len(shown))
        dots = [
            (layer + offset, float(distance), layer)
            for layer, heads in enumerate(result.heads, start=1)
            for distance in (() if heads is None else heads)
        ]
        figure.add_scatter(
            x=[x for x, *_ in dots],
            y=[y for _, y, _ in dots],
            mode="markers",
            marker={"color": looked[name].colour, "symbol": looked[name].symbol, "size": 7, "opacity": 0.75},
            customdata=[layer for *_, layer in dots],
            name=label(name),
            hovertemplate="layer %{customdata}: %{y:.1f} px",
        )
    if not shown:
        return None
    style(figure, height=380 + 14 * len(shown))
    figure.update_xaxes(title="layer", dtick=1)
    figure.update_yaxes(title="distance of a head, pixels", rangemode="tozero")
    return figure, "Every head of every layer: layers that mix near and far heads spread widely. One seed per model."


def _robustness(analysis: Analysis) -> Drawn:
    """A row per condition, and a point with its interval per model."""
    shown = [name for name in analysis.names if analysis.of("robustness", name)]
    if not shown:
        return None
    figure, looked = go.Figure(), _looks(analysis)
    first = analysis.of("robustness", shown[0])[0].result
    assert isinstance(first, Robustness)
    series = headline_series("robustness", [one for name in shown for one in analysis.of("robustness", name)])
    for place, name in enumerate(shown):
        found = [one.result for one in analysis.of("robustness", name) if isinstance(one.result, Robustness)]
        offset = 0.6 * (place - (len(shown) - 1) / 2) / max(1, len(shown))
        at = {condition: row for row, condition in enumerate(first.conditions)}
        values = {
            condition: over_seeds([one.series()[series][one.conditions.index(condition)] for one in found])
            for condition in found[0].conditions
            if condition in at
        }
        known = [(at[condition], interval) for condition, interval in values.items() if interval is not None]
        bars = [error_bar(interval, looked[name].colour) for _, interval in known]
        figure.add_scatter(
            x=[interval.mean for _, interval in known],
            y=[row + offset for row, _ in known],
            error_x=None
            if any(bar is None for bar in bars)
            else {
                **(bars[0] or {}),
                **{side: [bar[side][0] for bar in bars if bar] for side in ("array", "arrayminus")},
            },
            mode="markers",
            marker={"color": looked[name].colour, "symbol": looked[name].symbol, "size": 10},
            name=label(name),
            hovertemplate="%{x:.1f} %",
        )
    style(figure, height=round(0.6 * height_of_rows(len(first.conditions))) + 14 * len(shown))
    figure.update_xaxes(title=f"{series}, %", range=[0, 100])
    figure.update_yaxes(**rows_axis(list(first.conditions)))
    for row in range(len(first.conditions) - 1):
        figure.add_hline(y=row + 0.5, line={"color": GREY, "width": 0.4})
    return figure, (
        f"{series.capitalize()} on images from which something was taken away. Whiskers are 95 % intervals over seeds."
    )


_DISTANCE = _curves(
    "attention-distance",
    {"mean": "mean distance, pixels"},
    "Attention distance, mean over heads. Bands are 95 % intervals over seeds.",
)
_RADIUS = _curves(
    "receptive-field",
    {"radius": "radius of half, pixels"},
    "Radius around the middle token that holds half of the gradient. Bands are 95 % intervals over seeds.",
)
_AMPLITUDES = _curves(
    "frequencies",
    {name: name for name in ("after attention", "after feed-forward", "change by feed-forward")},
    "Log amplitude at the highest frequency relative to frequency 0: lower is smoother. The third panel is the second "
    "minus the first: above 0, the feed-forward network sharpens. Bands are 95 % intervals over seeds.",
)
_SIMILARITY = _curves(
    "token-similarity",
    {"similarity": "mean cosine"},
    "Mean cosine between tokens; 1 means that all are alike. Bands are 95 % intervals.",
)
_KERNELS = _curves(
    "kernels",
    {"middle tap": "middle tap", "blur kernels": "blurs", "edge kernels": "edges"},
    "Share of the middle tap in a kernel's absolute values (1 for the identity, 1/9 for a 3 x 3 box), and shares of "
    "kernels that are blurs and edges. Bands are 95 % intervals over seeds.",
)
_CHARTS: dict[str, dict[str, Callable[[Analysis], Any]]] = {
    "locality-index": {"locality-index": _locality},
    "attention-distance": {"attention-distance": _DISTANCE, "attention-heads": _heads},
    "receptive-field": {"receptive-field": _RADIUS, "receptive-fields": receptive_fields},
    "frequencies": {"frequencies": _AMPLITUDES},
    "token-similarity": {"token-similarity": _SIMILARITY},
    "alignment": {"alignment": alignment},
    "kernels": {"kernels": _KERNELS},
    "robustness": {"robustness": _robustness},
}
