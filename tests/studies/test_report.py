"""The report as a person opens it: in a browser, without a network."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from localvit import LocalityConfig
from localvit.studies import StudyConfig, VariantConfig
from localvit.studies.report import write_results
from localvit.studies.statistics import VariantSummary, summarize
from localvit.training import RunResult

STUDY = StudyConfig(
    name="drawn",
    question="Is <b>this</b> escaped & shown?",
    paper_finding="Yes.",
    baseline="DeiT",
    variants=[
        VariantConfig("DeiT"),
        VariantConfig("no depth-wise", LocalityConfig(depthwise=False)),
        VariantConfig("depth-wise", LocalityConfig(), control="no depth-wise", paper_gain=2.6),
    ],
)


def summaries() -> list[VariantSummary]:
    def result(parameters: int, final: float) -> RunResult:
        curve = [final * (1 - math.exp(-epoch / 2)) for epoch in range(1, 10)] + [final]
        return RunResult(
            parameters, parameters * 20, [{"epoch": i + 1, "val_top1": value} for i, value in enumerate(curve)]
        )

    return summarize(
        STUDY,
        {
            "DeiT": [result(86_506, accuracy) for accuracy in (93.0, 94.0, 93.5)],
            "no depth-wise": [result(86_938, accuracy) for accuracy in (95.0, 95.5, 96.0)],
            "depth-wise": [result(93_274, accuracy) for accuracy in (98.0, 97.5, 98.2)],
        },
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    """The report, opened offline; a script error or a request for anything but the file fails the test."""
    report = write_results(STUDY, summaries(), tmp_path)
    context = browser.new_context(offline=True)
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    opened.on("request", lambda request: problems.append(request.url) if not request.url.startswith("file:") else None)
    opened.goto(report.as_uri())
    opened.wait_for_selector("#accuracy-against-macs .main-svg")
    yield opened
    context.close()
    assert problems == []


def test_the_table_holds_every_variant(page: Page) -> None:
    rows = [row.inner_text().split("\t") for row in page.query_selector_all("#results tbody tr")]
    assert [row[0] for row in rows] == ["DeiT", "no depth-wise", "depth-wise"]
    assert rows[2][1:3] == ["93,274", "1,865,480"]
    assert rows[2][3].startswith("97.90 [")
    assert rows[2][4].startswith("+4.40 [")
    assert rows[2][5] == "+2.6"
    assert rows[0][4] == "baseline"


def test_question_and_answer_are_read_first(page: Page) -> None:
    assert page.inner_text("h1") == "Is <b>this</b> escaped & shown?"
    answer = page.inner_text(".answer").replace("\N{NO-BREAK SPACE}", " ")
    assert "depth-wise, reaches 97.90 % where DeiT reaches 93.50 %: +4.40 points (95 % interval" in answer
    assert "depth-wise against no depth-wise, brings +2.40 points" in answer


def test_learning_curves_are_drawn_with_a_band_for_each_variant(page: Page) -> None:
    assert page.locator("#learning-curves .scatterlayer .js-line").count() >= 3
    bands = page.locator("#learning-curves .js-fill")
    assert bands.count() == 3
    box = page.locator("#learning-curves").bounding_box()
    assert box is not None
    assert box["height"] > 300
    assert page.locator("#learning-curves .legendtext").all_text_contents() == ["DeiT", "no depth-wise", "depth-wise"]


def test_accuracy_against_macs_shows_each_variant_with_its_interval(page: Page) -> None:
    assert page.locator("#accuracy-against-macs .scatterlayer .point").count() == 3
    assert page.locator("#accuracy-against-macs .yerror").count() == 3
    positions = [page.locator("#accuracy-against-macs .scatterlayer .point").nth(i).bounding_box() for i in range(3)]
    assert all(position is not None for position in positions)
    # Higher accuracy, higher on the page.
    assert positions[2]["y"] < positions[1]["y"] < positions[0]["y"]  # type: ignore[index]


def test_a_phone_shows_the_page_without_scrolling_sideways(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_spreadsheet_and_program_get_the_same_numbers(tmp_path: Path) -> None:
    write_results(STUDY, summaries(), tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    header, *lines = (tmp_path / "results.csv").read_text().splitlines()
    columns = header.split(",")
    assert len(lines) == len(found["variants"]) == 3
    for line, variant in zip(lines, found["variants"], strict=True):
        row = dict(zip(columns, line.split(","), strict=True))
        assert float(row["accuracy_low"]) == variant["accuracy"]["low"]
        assert float(row["gain_high"]) == variant["gain"]["high"]
        assert int(row["macs"]) == variant["macs"]
