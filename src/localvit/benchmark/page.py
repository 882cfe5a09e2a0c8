"""Writes tables and charts as a web page that works offline, and the tables as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from localvit.benchmark.look import chart_html, render
from localvit.system.files import write_text

_PACKAGE = "localvit.benchmark"


@dataclass(frozen=True)
class Section:
    """A section of a page.

    Attributes:
        heading: its heading.
        headers: column headers of its table.
        rows: rows of its table, one text per header.
        text: paragraphs above the table.
        figure: a chart below the table.
        caption: caption of the chart.
    """

    heading: str
    headers: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    text: Sequence[str] = ()
    figure: go.Figure | None = None
    caption: str = ""


def write_page(
    title: str, lead: str, sections: Sequence[Section], record: dict[str, Any], *, page: Path, table: Path
) -> None:
    """Write an HTML page with charts, and the same content without charts as Markdown.

    Args:
        title: title of both.
        lead: what was measured and how, in a few sentences.
        sections: in their order.
        record: the record of :func:`localvit.benchmark.provenance`.
        page: path of the page, a single file.
        table: path of the Markdown.
    """
    values = {"title": title, "lead": lead, "sections": sections, "record": record}
    write_text(table, render("page.md", _PACKAGE, values))
    charts = [
        section.figure and chart_html(section.figure, f"chart-{number}") for number, section in enumerate(sections)
    ]
    write_text(page, render("page.html", _PACKAGE, {**values, "charts": charts}, charts=any(charts)))
