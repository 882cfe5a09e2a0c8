"""How the variants of a study look in charts: color, symbol and dash; lines with bands of their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from localvit.benchmark.look import COLOURS, GREY
from localvit.studies.config import StudyConfig
from localvit.studies.statistics.contrast import Interval

SYMBOLS = ("square", "diamond", "triangle-up", "star", "x", "cross", "triangle-down", "pentagon", "hexagram")
DASHES = ("solid", "longdash", "dashdot", "dot", "longdashdot")


@dataclass(frozen=True)
class Look:
    """How a variant is drawn."""

    colour: str
    symbol: str
    dash: str


def looks(config: StudyConfig) -> dict[str, Look]:
    """The look of each variant of a study."""
    return looks_of(list(config.variants), config.baseline)


def looks_of(names: Sequence[str], baselines: str | Mapping[str, str]) -> dict[str, Look]:
    """The look of each name. A single baseline is grey; pairs share a color, with hollow baselines.

    Args:
        names: what is drawn.
        baselines: the baseline of all, or one per name.
    """
    if isinstance(baselines, str):
        others = [name for name in names if name != baselines]
        return {baselines: Look(GREY, "circle", "dash")} | {name: _look(index) for index, name in enumerate(others)}
    pairs = {baseline: variant for variant, baseline in baselines.items()}
    if len(pairs) < len(baselines):  # variants share a baseline, so colors cannot tell pairs
        return {name: _look(index) for index, name in enumerate(names)}
    found: dict[str, Look] = {}
    alone = [name for name in names if name not in pairs and name not in pairs.values()]
    for index, name in enumerate([*pairs, *alone]):
        look = _look(index)
        if name in pairs:
            found[pairs[name]] = Look(look.colour, look.symbol, "solid")
        found[name] = Look(look.colour, f"{look.symbol}-open", "dot") if name in pairs else look
    return found


def _look(index: int) -> Look:
    return Look(COLOURS[index % len(COLOURS)], SYMBOLS[index % len(SYMBOLS)], DASHES[index % len(DASHES)])


def error_bar(interval: Interval, colour: str) -> dict[str, Any] | None:
    """The interval around a mean, or None if it is unknown."""
    if np.isnan(interval.low):
        return None
    return {
        "symmetric": False,
        "array": [interval.high - interval.mean],
        "arrayminus": [interval.mean - interval.low],
        "color": colour,
        "thickness": 2,
        "width": 5,
    }


def add_line(
    figure: go.Figure,
    points: Sequence[tuple[float | None, Interval | None]],
    colour: str,
    name: str,
    *,
    dash: str = "solid",
    **options: Any,
) -> None:
    """A line through means with a band of their 95 % intervals."""
    known = sorted((x, interval) for x, interval in points if x is not None and interval is not None)
    options = {"legendgroup": name, **options}
    add_band(figure, known, colour, **{**options, "name": f"{name}, 95 % interval", "showlegend": False})
    figure.add_scatter(
        x=[x for x, _ in known],
        y=[interval.mean for _, interval in known],
        mode="lines+markers",
        line={"color": colour, "width": 2.5, "dash": dash},
        name=name,
        customdata=[[interval.text()] for _, interval in known],
        hovertemplate="%{x:,}: %{customdata[0]}",
        **options,
    )


def add_band(figure: go.Figure, points: Sequence[tuple[float, Interval]], colour: str, **options: Any) -> None:
    """A band of the intervals at ascending positions, leaving out those that are not known."""
    known = [(x, interval) for x, interval in points if not np.isnan(interval.low)]
    figure.add_scatter(
        x=[x for x, _ in known] + [x for x, _ in known[::-1]],
        y=[interval.high for _, interval in known] + [interval.low for _, interval in known[::-1]],
        fill="toself",
        fillcolor=colour,
        opacity=0.15,
        mode="lines",
        line={"width": 0},
        hoverinfo="skip",
        **options,
    )
