"""How all charts and pages look. Colors are distinguishable to color-blind readers (Okabe and Ito, 2008)."""

import html
import re
import textwrap
from typing import Any

import jinja2
import plotly.graph_objects as go
import plotly.offline

GREY, BLUE, VERMILION = "#7F7F7F", "#0072B2", "#D55E00"
COLOURS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B8A900")
PALE = "rgba(128, 128, 128, 0.25)"
FONT = '-apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "Liberation Sans", Arial, sans-serif'
_PLOTLY_CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d"],
}


def label(name: str, width: int | None = None) -> str:
    """Escape a name for Plotly, wrapped to lines of at most ``width`` characters."""
    lines = textwrap.wrap(name, width, break_on_hyphens=False) if width else [name]
    return "<br>".join(html.escape(line, quote=False) for line in lines)


def style(figure: go.Figure, *, height: int) -> None:
    """Make a chart transparent, in greys that read on light and dark pages; the page sets its own colors."""
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
    """A y axis with one row per name, the first on top."""
    return {
        "tickvals": list(range(len(names))),
        "ticktext": [label(name, 20) for name in names],
        "range": [len(names) - 0.5, -0.5],
        "showgrid": False,
        "automargin": True,
    }


def height_of_rows(count: int) -> int:
    """Height in pixels of a chart with ``count`` rows, including axis and legend."""
    return 130 + 52 * count


def chart_html(figure: go.Figure, identifier: str) -> str:
    """A chart as part of a page."""
    chart: str = figure.to_html(full_html=False, include_plotlyjs=False, div_id=identifier, config=_PLOTLY_CONFIG)
    return chart


def render(template: str, package: str, values: dict[str, Any], *, charts: bool = False) -> str:
    """Render a template of ``package``, which may extend the ``shell.html`` of this one.

    Args:
        template: file name; ``.html`` templates escape what they print, Markdown has the filter ``md``.
        package: package with a folder ``templates``.
        values: what the template shows.
        charts: include Plotly's script, so that the page works offline.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader("localvit.benchmark")]),
        autoescape=template.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = markdown_text
    plotly_js = plotly.offline.get_plotlyjs() if charts else ""
    return environment.get_template(template).render({**values, "plotly_js": plotly_js})


def markdown_text(text: str) -> str:
    """Escape ``text`` for Markdown, including its tables."""
    return re.sub(r"([\\`*_\[\]<>|~&$])", r"\\\1", text)
