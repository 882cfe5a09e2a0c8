"""``localvit analyze`` as a user gives it, and its report as a person opens it: in a browser, without a network."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from pages import CONTRAST, opened
from PIL import Image
from playwright.sync_api import Browser, Page
from scipy import stats

from localvit.analysis.analysis import Analysis, Finding
from localvit.analysis.measures.token_similarity import TokenSimilarity
from localvit.analysis.reporting.charts import charts
from localvit.analysis.reporting.wording import answer
from localvit.analysis.table import MEASURES
from localvit.commands.cli import main
from localvit.models.weights.model_file import ModelDescription, save_model
from localvit.studies.config import StudyConfig
from localvit.studies.record import StudyRecord
from localvit.studies.session import RUNS
from localvit.training.initial_model import build_model
from localvit.training.overrides import run_config
from localvit.training.record import command_line

CHARTS = (
    *("locality-index", "attention-distance", "attention-heads", "receptive-field", "receptive-fields"),
    *("frequencies", "token-similarity", "alignment", "kernels", "kernels-2", "kernels-3", "robustness"),
)
RECIPE = {
    "model": {
        "name": "deit_tiny_patch16_224",
        "arguments": {"patch_size": 2, "embed_dim": 12, "depth": 2, "num_heads": 2},
    },
    "data": {"source": "digits", "held_out": 0.5},
    "input": {"image_size": [8, 8], "channels": 1, "mean": [0.3], "std": [0.37], "crop_fraction": 1.0},
}
STUDY = StudyConfig(
    name="inside",
    question="Is <b>this</b> escaped & shown?",
    scale="digits",
    baseline="DeiT",
    variants={
        "DeiT": {},
        "permuted grid": {"model.locality": {"permuted": True}},
        "depth-wise": {"model.locality": {}},
    },
    isolates={"depth-wise": "permuted grid"},
    seeds=[0, 1],
    recipe=run_config(RECIPE),
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study whose runs have weights, but were not trained."""
    root = tmp_path_factory.mktemp("studies")
    classes = tuple(map(str, range(10)))
    for run in STUDY.runs(root / RUNS):
        model = build_model(run.config.model, run.config.input, num_classes=10, seed=run.seed)
        torch.manual_seed(run.seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        description = ModelDescription(run.config.model.name, run.config.model.arguments, classes, run.config.input)
        save_model(model, description, run.folder / "last.safetensors")
    StudyRecord(STUDY, ()).save(root / "inside-digits")
    return root / "inside-digits"


@pytest.fixture(scope="module")
def report(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the study's analysis."""
    assert main(["analyze", "--study", str(study), "--count", "24", "--device", "cpu", "--threads", "1"]) == 0
    return study / "analysis" / "report.html"


@pytest.fixture(scope="module")
def found(report: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((report.parent / "results.json").read_text())
    return values


@pytest.fixture(scope="module")
def page(browser: Browser, report: Path) -> Iterator[Page]:
    """The page, which no test changes for good."""
    with opened(browser, report) as page:
        yield page


def test_a_study_is_written_as_page_markdown_pictures_json_and_csv(report: Path) -> None:
    assert {path.name for path in report.parent.iterdir()} == {
        *("report.html", "report.md", "results.json", "results.csv"),
        *(f"{chart}.svg" for chart in CHARTS),
    }
    markdown = (report.parent / "report.md").read_text()
    assert all(f"]({chart}.svg)" in markdown for chart in CHARTS)
    assert "Is \\<b\\>this\\</b\\> escaped \\& shown?" in markdown
    for chart in CHARTS:
        picture = (report.parent / f"{chart}.svg").read_text()
        assert picture.startswith("<?xml")
    assert "permuted grid" in (report.parent / "locality-index.svg").read_text()


def test_the_studys_own_report_shows_what_was_found(
    browser: Browser, study: Path, found: dict[str, Any], tmp_path: Path
) -> None:
    assert main(["report", str(study), "--output", str(tmp_path)]) == 0
    with opened(browser, tmp_path / "report.html") as page:
        measures = page.locator("#inside ~ details.measure")
        assert measures.locator("summary").all_inner_texts() == [one.title for one in MEASURES.values()]
        for place, values in enumerate(found["measures"].values()):
            assert measures.nth(place).locator("p").all_text_contents() == values["answer"]
        widths = page.evaluate("[...document.querySelectorAll('.measure img')].map((image) => image.naturalWidth)")
        assert len(widths) == len(CHARTS)
        assert min(widths) > 0, "every picture can be drawn"
    markdown = (tmp_path / "report.md").read_text()
    assert all(f"- **{one.title}.** " in markdown for one in MEASURES.values())


def test_another_study_of_the_same_name_does_not_show_it(study: Path, report: Path, tmp_path: Path) -> None:
    StudyRecord(replace(STUDY, question="Is it another?"), ()).save(tmp_path / "other")
    merged = tmp_path / "merged"
    assert main(["report", str(study), str(tmp_path / "other"), "--output", str(merged)]) == 0
    markdown = (merged / "report.md").read_text()
    assert "## Is it another?" in markdown
    assert markdown.count("What changed inside") == 1


@pytest.mark.parametrize("damage", ["", "[1]", '{"measures": {"kernels": {"title": "a", "answer": []}}}'])
def test_a_damaged_analysis_is_named(
    study: Path, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / study.name
    (folder / "analysis").mkdir(parents=True)
    (folder / "study.json").write_bytes((study / "study.json").read_bytes())
    (folder / "analysis" / "results.json").write_text(damage)
    assert main(["report", str(folder)]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "is not what an analysis wrote" in error
    assert "localvit analyze --study" in error


def test_every_measure_of_every_run_is_recorded(found: dict[str, Any]) -> None:
    trained = [one for one in found["findings"] if one["state"] == "trained"]
    assert {(one["model"], one["seed"], one["measure"]) for one in trained} == {
        (name, seed, measure)
        for name in STUDY.variants
        for seed in STUDY.seeds
        for measure in MEASURES
        if (name, measure) != ("DeiT", "alignment")
    }
    assert {one["measure"] for one in found["findings"] if one["state"] == "initial"} == {
        *("locality-index", "receptive-field"),
    }
    assert [one["model"] for one in trained if "not_measurable" in one] == ["DeiT", "DeiT"], "it has no kernels"
    assert found["models"] == list(STUDY.variants)


def test_figures_are_means_and_intervals_over_seeds(report: Path, found: dict[str, Any]) -> None:
    """The table of numbers gives the same figures, by the formula of Student's t."""
    table = pd.read_csv(report.parent / "results.csv")
    rows = table[(table["measure"] == "locality-index") & (table["series"] == "index") & (table["state"] == "trained")]
    for name in STUDY.variants:
        seeds = rows[rows["model"] == name].groupby("seed")["value"].mean()
        half = stats.t.ppf(0.975, 1) * seeds.std() / math.sqrt(2)
        overall = found["measures"]["locality-index"]["overall"][name]
        assert overall["mean"] == pytest.approx(seeds.mean(), rel=1e-4)
        assert overall["high"] - overall["mean"] == pytest.approx(half, rel=1e-3)


def test_the_answer_of_locality_is_paired_by_seed(report: Path, found: dict[str, Any]) -> None:
    table = pd.read_csv(report.parent / "results.csv")
    rows = table[(table["measure"] == "locality-index") & (table["series"] == "index") & (table["state"] == "trained")]
    means = rows.groupby(["model", "seed"])["value"].mean()
    difference = (means["depth-wise"] - means["permuted grid"]).mean()
    first = found["measures"]["locality-index"]["answer"][0]
    assert f"permuted grid, which differs in locality alone: {difference:+.3f}" in first.replace("\N{MINUS SIGN}", "-")


def test_each_family_has_charts_and_a_paragraph_of_its_own() -> None:
    values = {"DeiT": 0.5, "DeiT, permuted": 0.4, "LocalViT": 0.1, "Swin": 0.6, "Swin, permuted": 0.7, "LocalSwin": 0.9}
    baselines = {name: "Swin" if "Swin" in name else "DeiT" for name in values if name not in ("DeiT", "Swin")}
    findings = tuple(
        Finding(name, seed, "token-similarity", "trained", TokenSimilarity(("a", "b"), np.array([value, value])))
        for name, value in values.items()
        for seed in (0, 1)
    )
    isolates = {"LocalViT": "DeiT, permuted", "LocalSwin": "Swin, permuted"}
    analysis = Analysis("both", tuple(values), baselines, findings, isolates)

    drawn = charts(analysis, "token-similarity")
    assert list(drawn) == ["token-similarity-deit", "token-similarity-swin"]
    for (figure, caption), names in zip(drawn.values(), (list(values)[:3], list(values)[3:]), strict=True):
        assert [trace.name for trace in figure.data if trace.showlegend is not False] == names
        assert caption.startswith(f"{names[0]}. ")
    first, *paragraphs = answer(analysis, "token-similarity")
    changes = first.replace("\N{MINUS SIGN}", "-").replace("\N{NO-BREAK SPACE}", " ")
    assert changes == (
        "Averaged over layers, the similarity of tokens changes through locality alone by -0.300 in LocalViT and "
        "+0.200 in LocalSwin."
    )
    assert ["Swin" in paragraph for paragraph in paragraphs] == [False, True]


def test_the_convolution_is_where_locality_comes_from(found: dict[str, Any]) -> None:
    overall = {name: one["mean"] for name, one in found["measures"]["locality-index"]["overall"].items()}
    assert overall["depth-wise"] > 2 * overall["permuted grid"]
    networks = [
        one["series"]["feed-forward"]
        for one in found["findings"]
        if (one["measure"], one["model"], one["state"]) == ("locality-index", "DeiT", "trained")
    ]
    assert networks == [[0, 0], [0, 0]]


def test_the_page_answers_before_it_shows(page: Page) -> None:
    assert page.inner_text("h1") == f"What changed inside: {STUDY.question}"
    assert page.locator("h1 b").count() == 0
    assert page.locator(".glance a").all_inner_texts() == [measure.title for measure in MEASURES.values()]
    for link in page.locator(".glance a").all():
        assert page.locator(link.get_attribute("href") or "").count() == 1
    assert "which differs in locality alone" in page.locator(".glance p").first.inner_text()
    assert "DeiT: its feed-forward networks have no depth-wise convolution" in page.inner_text("body")
    assert page.inner_text("dl").startswith(f"command\n{command_line()}\n")


def test_all_charts_are_drawn_with_the_colors_of_the_study(page: Page) -> None:
    assert [f"chart-{chart}" for chart in CHARTS] == page.eval_on_selector_all(
        ".plotly-graph-div", "found => found.map(one => one.id)"
    )
    lines = page.evaluate(
        "document.getElementById('chart-locality-index')._fullData.filter(one => one.visible && one.fill !== 'toself')"
        ".map(({name, line, y}) => [name, line.color, line.dash, y.length])"
    )
    assert lines[:3] == [
        ["DeiT", "#7F7F7F", "dash", 2],
        ["permuted grid", "#0072B2", "solid", 2],
        ["depth-wise", "#D55E00", "longdash", 2],
    ]
    bands = page.locator("#chart-locality-index .js-fill")
    assert bands.count() == 3 * 3 - 1, "a band per model and panel, but none where all seeds of DeiT have 0"


def test_a_phone_shows_the_page_without_scrolling_sideways(browser: Browser, report: Path) -> None:
    with opened(browser, report, viewport={"width": 390, "height": 800}, is_mobile=True, has_touch=True) as page:
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        for chart in CHARTS:
            box = page.locator(f"#chart-{chart}").bounding_box()
            assert box is not None
            assert box["x"] + box["width"] <= 390


@pytest.mark.parametrize(("scheme", "lowest", "highest"), [("light", 0.9, 1.0), ("dark", 0.0, 0.03)])
def test_both_color_schemes_are_readable(
    page: Page, scheme: Literal["light", "dark"], lowest: float, highest: float
) -> None:
    page.emulate_media(color_scheme=scheme)
    for selector in (
        "h1, h2, p, td, th, figcaption, .overline, dt, dd",
        ".xtick text, .ytick text, .xtitle, .ytitle, .legendtext",
    ):
        background, contrast, count = page.evaluate(CONTRAST, selector)
        assert lowest <= background <= highest
        assert count > 10
        assert contrast >= 4.5


def analyzed(arguments: list[str], folder: Path) -> dict[str, Any]:
    shared = ["--device", "cpu", "--threads", "1", "--count", "6", "--output", str(folder)]
    assert main(["analyze", *arguments, *shared]) == 0
    values: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return values


def test_files_are_compared_with_the_first(study: Path, tmp_path: Path) -> None:
    runs = {run.variant: run.folder for run in STUDY.runs(study.parent / RUNS)}
    files = [str(runs[name] / "last.safetensors") for name in ("DeiT", "depth-wise")]
    data = ["--data.source", "digits", "--data.held_out", "0.5", "--measures", "robustness", "locality-index"]
    values = analyzed([*files, *data], tmp_path)
    assert values["models"] == [runs["DeiT"].name, runs["depth-wise"].name]
    assert list(values["measures"]) == ["locality-index", "robustness"]
    accuracies = [one["series"]["accuracy"] for one in values["findings"] if one["measure"] == "robustness"]
    assert all(0 <= value <= 100 for found in accuracies for value in found)
    assert f"in {runs['DeiT'].name}, and" in values["measures"]["locality-index"]["answer"][0]


def test_models_by_name_see_a_folder_of_photos(tmp_path: Path, photos: Callable[[int], Path]) -> None:
    arguments = ["test_vit", "resnet10t", "--images", str(photos(5)), "--measures", "token-similarity", "robustness"]
    values = analyzed(arguments, tmp_path / "out")
    assert values["images"].startswith("5 images from ")
    assert "resnet10t: ResNet has no token layout" in values["measures"]["token-similarity"]["not_measurable"][0]
    robust = [one for one in values["findings"] if one["measure"] == "robustness"]
    assert [set(one["series"]) for one in robust] == [{"predictions kept"}] * 2, "there are no labels"
    assert [one["images"] for one in robust] == [5, 5]


def test_a_study_without_weights_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    StudyRecord(STUDY, ()).save(tmp_path / "inside-digits")
    assert main(["analyze", "--study", str(tmp_path / "inside-digits")]) == 1
    assert "copy the folder of the runs there" in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def photos(tmp_path: Path) -> Callable[[int], Path]:
    """Makes a folder of small photos."""

    def make(count: int) -> Path:
        folder = tmp_path / "photos"
        folder.mkdir()
        for number in range(count):
            Image.effect_noise((40, 30), 30 + number).convert("RGB").save(folder / f"{number}.png")
        return folder

    return make
