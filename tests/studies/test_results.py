"""The results in docs/results: the page says what the records say, and the records are of the studies here."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from study_files import shipped_study

from localvit.studies.statistics.findings import StudySummary

REPOSITORY = Path(__file__).parents[2]
SCRIPT: dict[str, Any] = runpy.run_path(str(REPOSITORY / "docs" / "results.py"))
FOUND: list[StudySummary] = SCRIPT["found"]()


def test_the_page_is_written_from_the_records() -> None:
    assert (REPOSITORY / "docs" / "results" / "README.md").read_text() == SCRIPT["page"](FOUND)


def test_the_page_says_how_long_every_study_trained() -> None:
    lines = SCRIPT["page"](FOUND).splitlines()
    for summary in FOUND:
        (about,) = [line for line in lines if line.startswith(f"- {summary.config.scale}:")]
        trained = [len(curve) for variant in summary.variants for curve in variant.curves.values()]
        said = {number for span in re.findall(r"(?:(\d+) to )?(\d+) epochs", about) for number in span}
        assert {str(min(trained)), str(max(trained))} <= said


def test_the_readme_counts_the_findings() -> None:
    page = SCRIPT["page"](FOUND)
    rows = re.findall(r"^\| ([^|]+) \| \*\*([^*]+)\*\* \|", page.split("## The studies")[0], re.MULTILINE)
    findings: dict[str, set[str]] = {}
    for finding, verdict in set(rows):
        findings.setdefault(verdict, set()).add(finding)
    assert "five of the paper's eight findings" in (REPOSITORY / "README.md").read_text()
    assert len(findings.pop("agrees")) == 5
    assert findings == {
        "differs": {"h-swish over ReLU6"},
        "equal within 1 point": {"channel attention adds", "a wider SE adds"},
    }


@pytest.mark.parametrize("summary", FOUND, ids=lambda summary: f"{summary.config.name}-{summary.config.scale}")
def test_every_run_of_a_kept_study_has_finished_and_the_study_is_still_the_same(summary: StudySummary) -> None:
    assert not summary.failed
    assert not summary.missing
    config = summary.config
    file = REPOSITORY / "src/localvit/studies/questions" / f"{config.name}.yaml"
    shipped = shipped_study(file, config.scale)
    assert summary.record.plan == shipped.plan_hash()
    chosen = {config.sweep.axis} if config.sweep else set()  # by the sweep, so no study's file has it
    kept = {
        name: {field: value for field, value in overrides.items() if field not in chosen}
        for name, overrides in config.variants.items()
    }
    assert kept == shipped.variants
    for variant in summary.variants:
        epochs = {len(curve) for curve in variant.curves.values()}
        assert epochs == {config.configs[variant.name].training.total_epochs}
