"""Writes the report of an analysis: a page that opens offline, Markdown with pictures, JSON and CSV."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from localvit.analysis.analysis import Analysis
from localvit.analysis.reporting.charts import charts
from localvit.analysis.reporting.pictures import svg
from localvit.analysis.reporting.plain import frame, results
from localvit.analysis.reporting.summary import by_layer, headline, headline_series
from localvit.analysis.reporting.wording import answer, cell
from localvit.analysis.table import MEASURES
from localvit.benchmark.look import chart_html, render
from localvit.studies.reporting.inside import FOUND
from localvit.studies.statistics.contrast import Interval
from localvit.system.files import write_text

_PACKAGE = "localvit.analysis.reporting"


def write_report(analysis: Analysis, folder: Path) -> Path:
    """Write ``report.html``, ``report.md`` with its SVG pictures, ``results.json`` and ``results.csv`` into ``folder``.

    Args:
        analysis: what was found.
        folder: where to write; created if missing.

    Returns:
        Path of the page.

    Raises:
        ValueError: if nothing was found.
    """
    if not analysis.findings:
        raise ValueError("there is no finding to report; analyze at least one model")
    write_text(folder / "results.csv", frame(analysis).to_csv(index=False))
    sections = [_section(analysis, name) for name in analysis.measures]
    for section in sections:
        for chart in section["charts"]:
            write_text(folder / chart["picture"], svg(chart.pop("figure")))
    pictures = {
        section["name"]: {chart["picture"]: chart["caption"] for chart in section["charts"]} for section in sections
    }
    found = results(analysis, pictures)
    write_text(folder / FOUND, json.dumps(found, ensure_ascii=False, allow_nan=False) + "\n")
    values = {"analysis": analysis, "sections": sections, "record": analysis.record}
    write_text(folder / "report.md", render("analysis.md", _PACKAGE, values))
    write_text(folder / "report.html", render("analysis.html", _PACKAGE, values, charts=True))
    return folder / "report.html"


def _section(analysis: Analysis, name: str) -> dict[str, Any]:
    """The values that the templates show for a measure."""
    drawn = charts(analysis, name)
    return {
        "name": name,
        "measure": MEASURES[name],
        "answer": answer(analysis, name),
        "sentences": analysis.sentences(name),
        "headers": _headers(analysis, name),
        "rows": _rows(analysis, name),
        "charts": [
            {
                "html": chart_html(found, f"chart-{place}"),
                "caption": caption,
                "picture": f"{place}.svg",
                "figure": found,
            }
            for place, (found, caption) in drawn.items()
        ],
    }


def _headers(analysis: Analysis, measure: str) -> list[str]:
    series = _series(analysis, measure)
    unit = f", {MEASURES[measure].unit}" if MEASURES[measure].unit else ""
    if measure == "robustness":
        return ["model", f"{series}, unchanged images{unit}", f"all changed images{unit}"]
    return ["model", f"{series}, first layer{unit}", f"mean of layers{unit}", f"last layer{unit}"]


def _rows(analysis: Analysis, measure: str) -> list[list[str]]:
    """A row of text per model with a result: first layer, mean over layers, last layer."""
    rows = []
    for name in analysis.names:
        if not analysis.of(measure, name):
            continue
        layers = by_layer(analysis, measure, _series(analysis, measure), name)
        known = [one for one in layers if one is not None]
        mean = headline(analysis, measure, name)
        ends: Sequence[Interval | None] = [known[0], known[-1]] if known else [None, None]
        cells = [ends[0], mean] if measure == "robustness" else [ends[0], mean, ends[1]]
        rows.append([name, *(cell(value, measure) for value in cells)])
    return rows


def _series(analysis: Analysis, measure: str) -> str:
    return headline_series(measure, [one for one in analysis.findings if one.measure == measure])
