"""Writes what a study found: a page to look at, and the same results for programs and spreadsheets."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import plotly.graph_objects as go
import plotly.offline

from localvit.files import write_text
from localvit.studies.charts import accuracy_against_macs, learning_curves
from localvit.studies.config import StudyConfig
from localvit.studies.statistics import VariantSummary


def write_results(study: StudyConfig, summaries: list[VariantSummary], folder: Path) -> Path:
    """Write ``results.json``, ``results.csv`` and ``report.html`` into ``folder``; the path of the page."""
    results = results_dict(study, summaries)
    write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    write_text(folder / "results.csv", results_frame(results).to_csv(index=False))
    page = folder / "report.html"
    write_text(page, render_page(study, summaries))
    return page


def results_dict(study: StudyConfig, summaries: list[VariantSummary]) -> dict[str, Any]:
    """The results as plain data; accuracies in percent, gains in points, seeds in the order of the study."""
    return {
        "study": study.name,
        "data": study.recipe.data.source,
        "baseline": study.baseline,
        "variants": [
            {
                "name": summary.name,
                "parameters": summary.parameters,
                "macs": summary.macs,
                "accuracy": {**asdict(summary.accuracy), "per_seed": summary.accuracies},
                "gain": asdict(summary.gain),
            }
            for summary in summaries
        ],
    }


def results_frame(results: dict[str, Any]) -> pd.DataFrame:
    """The variants as a table with a column for each number."""
    frame = pd.json_normalize(results["variants"], sep="_")
    per_seed = pd.DataFrame(frame.pop("accuracy_per_seed").tolist()).add_prefix("accuracy_run_")
    return pd.concat([frame, per_seed], axis=1)


def render_page(study: StudyConfig, summaries: list[VariantSummary]) -> str:
    """The report as one HTML page that needs no other file and no network."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("localvit.studies"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html").render(
        study=study,
        answer=answer(study, summaries),
        summaries=summaries,
        plotly_js=plotly.offline.get_plotlyjs(),
        curves=_chart(learning_curves(study, summaries), "learning-curves"),
        costs=_chart(accuracy_against_macs(study, summaries), "accuracy-against-macs"),
        config=json.dumps(asdict(study), indent=2),
    )


def answer(study: StudyConfig, summaries: list[VariantSummary]) -> list[str]:
    """What came out, in sentences: the best variant, and what the depth-wise convolution alone adds."""
    baseline = next(summary for summary in summaries if summary.name == study.baseline)
    best = max(summaries, key=lambda summary: summary.accuracy.mean)
    percent = {summary.name: f"{summary.accuracy.mean:.2f}\N{NO-BREAK SPACE}%" for summary in (baseline, best)}
    if best is baseline:
        headline = f"No variant beats {baseline.name}, which reaches {percent[baseline.name]}."
    else:
        headline = (
            f"The best variant, {best.name}, reaches {percent[best.name]} where {baseline.name} reaches "
            f"{percent[baseline.name]}: {best.gain.sentence()}, for "
            f"{best.parameters / baseline.parameters - 1:+.1%} parameters and {best.macs / baseline.macs - 1:+.1%} "
            "multiply-accumulates."
        )
    return [headline] + [
        f"The depth-wise convolution by itself, {summary.name} against {summary.config.control}, brings "
        f"{summary.gain_over_control.sentence()}."
        for summary in summaries
        if summary.gain_over_control is not None
    ]


def _chart(figure: go.Figure, identifier: str) -> str:
    html: str = figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=identifier, config={"displaylogo": False, "responsive": True}
    )
    return html
