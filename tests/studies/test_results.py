"""The results in docs/results: the page says what the records say, and the records are of the studies here."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from study_files import shipped_study

from localvit.studies.record import RECORD
from localvit.studies.statistics.findings import StudySummary

REPOSITORY = Path(__file__).parents[2]
SCRIPT: dict[str, Any] = runpy.run_path(str(REPOSITORY / "docs" / "results.py"))
FOLDERS = sorted(path.parent.name for path in SCRIPT["RESULTS"].glob(f"*/{RECORD}"))


@pytest.fixture(scope="module")
def found() -> list[StudySummary]:
    """What the kept studies found."""
    summaries: list[StudySummary] = SCRIPT["found"]()
    return summaries


def test_the_page_is_written_from_the_records(found: list[StudySummary]) -> None:
    assert (REPOSITORY / "docs" / "results" / "README.md").read_text() == SCRIPT["page"](found)


def test_the_page_says_how_long_every_study_trained(found: list[StudySummary]) -> None:
    lines = SCRIPT["page"](found).splitlines()
    for summary in found:
        (about,) = [line for line in lines if line.startswith(f"- {summary.config.scale}:")]
        trained = [len(curve) for variant in summary.variants for curve in variant.curves.values()]
        said = {number for span in re.findall(r"(?:(\d+) to )?(\d+) epochs", about) for number in span}
        assert {str(min(trained)), str(max(trained))} <= said


def test_the_readme_counts_the_findings(found: list[StudySummary]) -> None:
    page = SCRIPT["page"](found)
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


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_run_of_a_kept_study_has_finished_and_the_study_is_still_the_same(
    folder: str, found: list[StudySummary]
) -> None:
    (summary,) = (one for one in found if f"{one.config.name}-{one.config.scale}" == folder)
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
