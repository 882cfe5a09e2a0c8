"""Tables and charts of measurements as a page that needs no network, and the same tables as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
import plotly.offline

from localvit.files import write_text
from localvit.studies.report import PLOTLY_CONFIG, markdown_text


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        heading: of the part.
        headers: of its table.
        rows: of its table, a text for each header.
        text: paragraphs above the table.
        figure: a chart below the table.
        caption: of the chart.
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
    """Write a page of HTML with charts, and the same without them as Markdown.

    Args:
        title: of both.
        lead: what was measured and how, in a few sentences.
        sections: in their order.
        record: of :func:`localvit.benchmark.provenance`.
        page: path of the page, which holds all that it needs.
        table: path of the Markdown.
    """
    values = {"title": title, "lead": lead, "sections": sections, "record": record}
    write_text(table, _render("page.md", values))
    charts = [
        section.figure
        and section.figure.to_html(
            full_html=False, include_plotlyjs=False, div_id=f"chart-{number}", config=PLOTLY_CONFIG
        )
        for number, section in enumerate(sections)
    ]
    plotly_js = plotly.offline.get_plotlyjs() if any(charts) else ""
    write_text(page, _render("page.html", {**values, "charts": charts, "plotly_js": plotly_js}))


def _render(template: str, values: dict[str, Any]) -> str:
    own, studies = jinja2.PackageLoader("localvit.benchmark"), jinja2.PackageLoader("localvit.studies")
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([own, studies]),  # the style is that of the studies' reports
        autoescape=template.endswith(".html"),  # Markdown escapes with its own filter
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = markdown_text
    return environment.get_template(template).render(values)
