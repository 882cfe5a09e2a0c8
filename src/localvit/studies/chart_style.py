"""How all charts look: colours that colour-blind people tell apart (Okabe and Ito, 2008), and dashes and symbols."""

import html
import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from localvit.studies.config import StudyConfig
from localvit.studies.statistics import Interval

GREY, BLUE, VERMILION = "#7F7F7F", "#0072B2", "#D55E00"
COLOURS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B8A900")
SYMBOLS = ("square", "diamond", "triangle-up", "star", "x", "cross", "triangle-down", "pentagon", "hexagram")
DASHES = ("solid", "longdash", "dashdot", "dot", "longdashdot")
PALE = "rgba(128, 128, 128, 0.25)"
FONT = '-apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "Liberation Sans", Arial, sans-serif'


@dataclass(frozen=True)
class Look:
    """How a variant is drawn."""

    colour: str
    symbol: str
    dash: str


def looks(config: StudyConfig) -> dict[str, Look]:
    """The look of each variant: a single baseline is grey, pairs share a colour and their baselines are hollow."""
    if isinstance(config.baseline, str):
        others = [name for name in config.variants if name != config.baseline]
        baseline = {config.baseline: Look(GREY, "circle", "dash")}
        return baseline | {name: _look(index) for index, name in enumerate(others)}
    pairs = {baseline: variant for variant, baseline in config.baseline.items()}
    if len(pairs) < len(config.baseline):  # some variants share a baseline, so that colours cannot say which
        return {name: _look(index) for index, name in enumerate(config.variants)}
    found: dict[str, Look] = {}
    alone = [name for name in config.variants if name not in pairs and name not in pairs.values()]
    for index, name in enumerate([*pairs, *alone]):
        look = _look(index)
        if name in pairs:
            found[pairs[name]] = Look(look.colour, look.symbol, "solid")
        found[name] = Look(look.colour, f"{look.symbol}-open", "dot") if name in pairs else look
    return found


def _look(index: int) -> Look:
    return Look(COLOURS[index % len(COLOURS)], SYMBOLS[index % len(SYMBOLS)], DASHES[index % len(DASHES)])


def label(name: str, width: int | None = None) -> str:
    """A name as Plotly shows it letter by letter, in lines of at most ``width`` characters."""
    lines = textwrap.wrap(name, width, break_on_hyphens=False) if width else [name]
    return "<br>".join(html.escape(line, quote=False) for line in lines)


def error_bar(interval: Interval, colour: str) -> dict[str, Any] | None:
    """The 95 % interval around a mean; none where a single seed leaves it unknown."""
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


def style(figure: go.Figure, *, height: int) -> None:
    """Transparent, with greys that read on light and dark pages alike; the page sets them to its own."""
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        font={"family": FONT, "color": "#888888", "size": 13},
        margin={"l": 56, "r": 12, "t": 16, "b": 52},
        height=height,
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom", "itemwidth": 40},
        hoverlabel={"font": {"family": FONT, "size": 13}, "namelength": -1},
    )
    figure.update_xaxes(gridcolor=PALE, zeroline=False, automargin=True)
    figure.update_yaxes(gridcolor=PALE, zeroline=False, automargin=True)


def rows_axis(names: list[str]) -> dict[str, Any]:
    """A y axis with a row for each name, the first on top."""
    return {
        "tickvals": list(range(len(names))),
        "ticktext": [label(name, 20) for name in names],
        "range": [len(names) - 0.5, -0.5],
        "showgrid": False,
        "automargin": True,
    }


def height_of_rows(count: int) -> int:
    """Pixels for a chart of so many rows, axis and legend included."""
    return 130 + 52 * count
