"""Draws a Plotly chart as SVG with Matplotlib, for Markdown: lines, bands, points with whiskers, and heat maps.

Plotly itself needs a browser for pictures. What is drawn, and in which colors, comes from the Plotly chart alone.
"""

import html
import io
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_DPI = 100
_WIDTH = 800  # pixels
_DASHES = {
    "solid": "-",
    "dash": "--",
    "dot": ":",
    "dashdot": "-.",
    "longdash": (0, (9, 3)),
    "longdashdot": (0, (9, 3, 2, 3)),
}
_MARKERS = {
    **{"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "triangle-down": "v", "star": "*", "x": "x"},
    **{"cross": "P", "pentagon": "p", "hexagram": "h"},
}
# Text stays text, ids do not change from run to run, and names such as $x$ are no formulas.
_SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "localvit", "font.size": 10, "text.parse_math": False}


def svg(figure: go.Figure) -> str:
    """The chart as an SVG image of 800 pixels' width."""
    with rc_context(_SETTINGS):
        picture = Figure(figsize=(_WIDTH / _DPI, figure.layout.height / _DPI), dpi=_DPI, layout="constrained")
        panels = list(dict.fromkeys(trace.yaxis or "y" for trace in figure.data))
        axes = {name: picture.add_subplot(len(panels), 1, row) for row, name in enumerate(panels, start=1)}
        for trace in figure.data:
            (_heatmap if trace.type == "heatmap" else _scatter)(axes[trace.yaxis or "y"], trace)
        for name, panel in axes.items():
            _frame(panel, figure, name)
        handles = {trace.name: _handle(panel, trace) for trace in figure.data if _in_legend(figure, trace)}
        if handles:
            names = [_text(name) for name in handles]
            picture.legend(handles.values(), names, loc="outside lower left", ncols=min(3, len(names)), frameon=False)
        buffer = io.StringIO()
        picture.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _scatter(axes: Axes, trace: Any) -> None:
    x, y = np.array(trace.x, dtype=float), np.array(trace.y, dtype=float)
    if trace.fill == "toself":
        axes.fill(x, y, color=trace.fillcolor, alpha=trace.opacity, linewidth=0)
        return
    style = _line_style(trace)
    if trace.error_x.array is not None:
        whiskers = [trace.error_x.arrayminus, trace.error_x.array]
        axes.errorbar(x, y, xerr=whiskers, fmt="none", ecolor=style["color"], elinewidth=1.2, capsize=2)
    axes.plot(x, y, **style)


def _line_style(trace: Any) -> dict[str, Any]:
    symbol = str(trace.marker.symbol or "circle")
    colour = trace.line.color or trace.marker.color
    return {
        "color": colour,
        "linestyle": _DASHES[trace.line.dash or "solid"] if "lines" in trace.mode else "none",
        "marker": _MARKERS[symbol.removesuffix("-open")] if "markers" in trace.mode else "none",
        "markerfacecolor": "none" if symbol.endswith("-open") else colour,
        "markersize": 5,
        "alpha": trace.marker.opacity,
    }


def _handle(axes: Axes, trace: Any) -> Any:
    return axes.plot([], [], **_line_style(trace))[0]


def _heatmap(axes: Axes, trace: Any) -> None:
    values = np.array(trace.z, dtype=float)
    colours = "cividis" if trace.colorscale[0][1] == _first_colour("Cividis") else "RdBu"
    start = trace.x0 or 0
    edges = (start - 0.5, values.shape[1] + start - 0.5, start - 0.5, values.shape[0] + start - 0.5)
    axes.imshow(*(values,), cmap=colours, vmin=trace.zmin, vmax=trace.zmax, extent=edges, origin="lower", aspect="auto")


def _first_colour(name: str) -> str:
    return str(go.Figure(go.Heatmap(z=[[0]], colorscale=name)).data[0].colorscale[0][1])


def _frame(axes: Axes, figure: go.Figure, y_name: str) -> None:
    """Titles, ticks and ranges as in the chart."""
    number = y_name.removeprefix("y")
    for layout, one in ((figure.layout[f"xaxis{number}"], axes.xaxis), (figure.layout[f"yaxis{number}"], axes.yaxis)):
        if layout.title.text:
            one.set_label_text(_text(layout.title.text))
        if layout.tickvals is not None:
            one.set_ticks(list(layout.tickvals), [_text(text) for text in layout.ticktext])
        elif layout.dtick:
            one.set_major_locator(MaxNLocator(integer=True))
    if figure.layout[f"xaxis{number}"].side == "top":
        axes.xaxis.tick_top()
    for name, limit in ((f"xaxis{number}", axes.set_xlim), (f"yaxis{number}", axes.set_ylim)):
        if figure.layout[name].range is not None:
            limit(*figure.layout[name].range)
    if figure.layout[f"yaxis{number}"].scaleanchor:
        axes.set_aspect("equal")
    if figure.layout[f"xaxis{number}"].showgrid is False:
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    else:
        axes.grid(color="#d8d8d8", linewidth=0.6)
        axes.set_axisbelow(True)


def _in_legend(figure: go.Figure, trace: Any) -> bool:
    return bool(figure.layout.showlegend and trace.name and trace.showlegend is not False and trace.type != "heatmap")


def _text(markup: str) -> str:
    return html.unescape(markup.replace("<br>", "\n"))
