"""Writes the report of a study: a page, and the same results for GitHub, papers, spreadsheets and programs."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import yaml

from localvit.benchmark.look import chart_html, render
from localvit.studies.reporting.charts import accuracy_against_cost, effects, learning_curves, own_chart, sweep
from localvit.studies.reporting.inside import AnalysisFound
from localvit.studies.reporting.tables import claim_rows, frame, latex, results, variant_rows
from localvit.studies.reporting.wording import agreement_word, answer, data_line, points
from localvit.studies.statistics.findings import StudySummary
from localvit.system.files import write_text

_CHARTS: dict[str, Callable[[StudySummary], go.Figure]] = {
    "own-chart": own_chart,
    "effects": effects,
    "sweep": sweep,
    "accuracy-against-cost": accuracy_against_cost,
    "learning-curves": learning_curves,
}
_PACKAGE = "localvit.studies.reporting"


def write_report(summaries: Sequence[StudySummary], folder: Path, analyses: Sequence[AnalysisFound] = ()) -> Path:
    """Write ``report.html``, ``report.md``, ``results.csv``, ``results.json`` and ``results.tex`` into ``folder``.

    Args:
        summaries: one study, or several for a common report.
        folder: where to write; created if missing.
        analyses: what was found inside the networks of each study. Defaults to nothing.

    Returns:
        Path of the page.

    Raises:
        ValueError: if there is no study.
    """
    if not summaries:
        raise ValueError("there is no study to report; give at least one")
    found = [results(summary) for summary in summaries]
    everything = found[0] if len(found) == 1 else {"studies": found}
    write_text(folder / "results.json", json.dumps(everything, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(folder / "results.csv", frame(summaries).to_csv(index=False))
    write_text(folder / "results.tex", latex(summaries))
    inside = analyses or [AnalysisFound()] * len(summaries)
    sections = [_section(*each) for each in zip(summaries, _prefixes(summaries), inside, strict=True)]
    values = {"sections": sections}
    write_text(folder / "report.md", render("report.md", _PACKAGE, values))
    write_text(folder / "report.html", render("report.html", _PACKAGE, values, charts=True))
    return folder / "report.html"


def _prefixes(summaries: Sequence[StudySummary]) -> list[str]:
    """Prefix of the ids of each study on a page; empty for a single study."""
    if len(summaries) == 1:
        return [""]
    prefixes: list[str] = []
    for summary in summaries:
        name = re.sub(r"[^\w-]+", "-", "-".join(filter(None, (summary.config.name, summary.config.scale))))
        taken = sum(prefix == f"{name}-" or prefix.startswith(f"{name}--") for prefix in prefixes)
        prefixes.append(f"{name}--{taken + 1}-" if taken else f"{name}-")
    return prefixes


def _section(summary: StudySummary, prefix: str, inside: AnalysisFound) -> dict[str, Any]:
    """The values that the templates show for a study."""
    config, record = summary.config, summary.record
    return {
        "prefix": prefix,
        "summary": summary,
        "config": config,
        "record": record,
        "answer": answer(summary),
        "agreement": agreement_word(summary),
        "data_line": data_line(summary),
        "over": config.baseline if isinstance(config.baseline, str) else "the baseline",
        "margin": points(config.margin) if config.margin else "",
        "rows": [
            (cells, summary.config.baseline_of(variant.name))
            for cells, variant in zip(variant_rows(summary), summary.variants, strict=True)
        ],
        "claims": claim_rows(summary),
        "charts": {name: _chart(draw(summary), prefix + name) for name, draw in _CHARTS.items()},
        "inside": inside.measures,
        "inside_lacks": inside.lacks({run.seed for run in summary.record.outcomes if run.result is not None}),
        "missing": [f"{run.variant or 'start'}, seed {run.seed}" for run in summary.missing],
        "configuration": yaml.safe_dump(
            json.loads(json.dumps(asdict(config))), sort_keys=False, allow_unicode=True, width=100
        ),
    }


def _chart(figure: go.Figure, identifier: str) -> str:
    """The chart as part of a page; empty if there is nothing to draw."""
    if not any(trace.x is not None and len(trace.x) for trace in figure.data if trace.type == "scatter"):
        return ""
    return chart_html(figure, identifier)
