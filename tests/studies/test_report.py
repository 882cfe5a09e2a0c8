"""The report as a person opens it: in a browser, without a network."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up_study import ACCURACIES, COSTS, EPOCHS, ODD, PAIRS, PAIRS_ACCURACIES, STUDY, summary
from pages import CONTRAST, opened
from playwright.sync_api import Browser, Page

from localvit.studies.config import StudyConfig, Sweep
from localvit.studies.record import Costs, Look, SweepOutcome
from localvit.studies.reporting.inside import AnalysisFound, MeasureFound
from localvit.studies.reporting.report import write_report
from localvit.studies.statistics.findings import StudySummary
from localvit.studies.statistics.summary import summarize
from localvit.training.overrides import with_overrides

CHARTS = ("own-chart", "effects", "accuracy-against-cost", "learning-curves")
HEADERS = ("variant", "parameters", "MACs", "accuracy", "gain", "training", "inference", "memory")
Open = Callable[..., Page]


@pytest.fixture
def open_report(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Writes a report of summaries and opens it."""
    with ExitStack() as stack:

        def write_and_open(summaries: Sequence[StudySummary], **options: Any) -> Page:
            return stack.enter_context(opened(browser, write_report(summaries, tmp_path), **options))

        yield write_and_open


@pytest.fixture(scope="module")
def page(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The report of a study, to look at only."""
    with opened(browser, write_report([summary()], tmp_path_factory.mktemp("report"))) as page:
        yield page


@pytest.fixture
def own_page(open_report: Open) -> Page:
    """The same report, to click on and to change."""
    return open_report([summary()])


def names(page: Page) -> list[str]:
    return page.locator("#results tbody td:first-child").all_inner_texts()


def data(page: Page, chart: str) -> list[dict[str, Any]]:
    """The traces of a chart as the browser has them."""
    found: list[dict[str, Any]] = page.evaluate(
        "id => document.getElementById(id)._fullData.map(({type, name, mode, x, y, z, fill, marker, line}) =>"
        " ({type, name, mode, fill, symbol: marker?.symbol, colour: line?.color,"
        " x: x && [...x], y: y && [...y], z: z && [...z]}))",
        chart,
    )
    return found


def annotations(page: Page, chart: str) -> list[dict[str, float]]:
    found: list[dict[str, float]] = page.evaluate(
        "id => (document.getElementById(id).layout.annotations ?? []).map(({x, y, ax, ay}) => ({x, y, ax, ay}))", chart
    )
    return found


def test_the_table_holds_every_variant(page: Page) -> None:
    rows = [row.inner_text().split("\t") for row in page.query_selector_all("#results tbody tr")]
    assert [row[0] for row in rows] == ["DeiT", "no depth-wise", ODD]
    assert rows[2][1:3] == ["93,274", "1,865,480"]
    assert rows[2][3:5] == ["97.90 ± 0.90", "+4.40 ± 1.00"]
    assert rows[2][5:] == ["750", "2,000", "120"]
    assert rows[0][4] == "baseline"


def test_question_and_answer_are_read_first(page: Page) -> None:
    assert page.inner_text("h1") == STUDY.question
    assert page.locator("h1 b, #results b, .answer b").count() == 0
    answer = page.inner_text(".answer").replace("\N{NO-BREAK SPACE}", " ")
    assert f"{ODD}, reaches 97.90 %, and DeiT 93.50 %: +4.40 points (95 % interval" in answer
    assert page.inner_text(".badge") == "✗ a claim does not hold"
    text = page.inner_text("body")
    assert text.index("97.90\N{NO-BREAK SPACE}%") < text.index("The paper’s finding") < text.index("Results")  # noqa: RUF001


def test_claims_are_answered_one_by_one(page: Page) -> None:
    rows = [row.inner_text().split("\t") for row in page.query_selector_all("#claims tbody tr")]
    assert rows[0] == [f"{ODD} > DeiT", "+4.40 ± 1.42", "< 0.001", "0.250", "1.00", "3", "agrees", "+2.6"]
    assert [row[6] for row in rows] == ["agrees", "agrees", "differs"]


def test_a_click_on_a_header_sorts_and_another_reverses(own_page: Page) -> None:
    headers = own_page.locator("#results th")
    assert headers.count() == len(HEADERS)
    accuracy = headers.nth(HEADERS.index("accuracy"))
    accuracy.locator("button").click()
    assert names(own_page) == [ODD, "no depth-wise", "DeiT"]
    assert accuracy.get_attribute("aria-sort") == "descending"
    accuracy.locator("button").click()
    assert names(own_page) == ["DeiT", "no depth-wise", ODD]
    assert accuracy.get_attribute("aria-sort") == "ascending"
    # As numbers: 1,500 is more than 750.
    headers.nth(HEADERS.index("training")).locator("button").click()
    assert names(own_page) == ["DeiT", "no depth-wise", ODD]
    assert accuracy.get_attribute("aria-sort") == "none"


def test_a_keyboard_sorts_too(own_page: Page) -> None:
    own_page.locator("#results th button").nth(HEADERS.index("gain")).focus()
    own_page.keyboard.press("Enter")
    assert names(own_page) == [ODD, "no depth-wise", "DeiT"]
    own_page.keyboard.press("Space")
    assert names(own_page) == ["no depth-wise", ODD, "DeiT"], "a baseline has no gain, and what is not known stays last"


def test_learning_curves_are_means_with_a_band_for_each_variant(page: Page) -> None:
    bands, lines = (
        [trace for trace in data(page, "learning-curves") if (trace["fill"] == "toself") == filled]
        for filled in (True, False)
    )
    assert len(bands) == len(lines) == 3
    assert page.locator("#learning-curves .js-fill").count() == 3
    assert page.locator("#learning-curves .legendtext").all_text_contents() == ["DeiT", "no depth-wise", ODD]
    assert lines[0]["x"] == list(range(1, EPOCHS + 1))
    assert lines[0]["y"][-1] == pytest.approx(93.5)
    assert sorted(set(bands[0]["y"]))[-1] == 94.0
    low, high = page.evaluate("document.getElementById('learning-curves').layout.yaxis.range")
    assert low < min(lines[0]["y"][EPOCHS // 3 - 1 :])
    assert low > lines[0]["y"][0], "the first epochs do not press the rest together"
    assert high > 98.2


def test_the_sweep_is_a_line_per_group_with_a_star_at_its_choice(open_report: Open) -> None:
    sweep = Sweep(groups={"baseline": ["DeiT"], "locality": [ODD]}, grid=[0.001, 0.01])
    found = (
        *(SweepOutcome("baseline", 0.001, (90.0,), chosen=True), SweepOutcome("baseline", 0.01, (80.0,), chosen=False)),
        *(SweepOutcome("locality", 0.001, (91.0,), chosen=False), SweepOutcome("locality", 0.01, (95.0,), chosen=True)),
    )
    known = summary(sweep=sweep)
    page = open_report([summarize(replace(known.record, sweep=found))])
    baseline, locality = data(page, "sweep")
    assert (baseline["name"], baseline["x"], baseline["y"]) == ("baseline", [0.001, 0.01], [90.0, 80.0])
    assert (baseline["symbol"], locality["symbol"]) == (["star", "circle"], ["circle", "star"])
    assert page.locator("#sweep .xtick text").all_text_contents() == ["0.001", "0.01"]


def test_looks_are_told_in_a_table(open_report: Open) -> None:
    looks: tuple[Look, ...] = (Look(2, "2026-01-01T00:00:00+00:00", {f"{ODD} > DeiT": "undecided"}),)
    looks += (Look(3, "2026-01-01T01:00:00+00:00", {f"{ODD} > DeiT": "agrees"}),)
    page = open_report([summarize(replace(summary().record, looks=looks))])
    rows = [row.inner_text().split("\t") for row in page.query_selector_all("[aria-label=Looks] tr")]
    assert rows[0] == ["claim", "2 seeds", "3 seeds"]
    assert rows[1] == [f"{ODD} > DeiT", "undecided", "agrees"]


def test_the_margin_is_a_band_and_equality_has_a_color(open_report: Open) -> None:
    alike = {"DeiT": (93.0, 94.0, 93.5), "no depth-wise": (93.1, 93.9, 93.5), ODD: (92.9, 94.1, 93.5)}
    page = open_report([summary(accuracies=alike, margin=1.0)])
    (equal,) = data(page, "effects")
    assert (equal["name"], equal["symbol"]) == ("equal within the margin", "circle")
    assert page.evaluate("document.getElementById('effects').layout.shapes.map(({x0, x1}) => [x0, x1])") == [
        [-1, 1],
        [0, 0],
    ]
    assert page.inner_text(".badge") == "= equal within the margin"


def test_curves_are_drawn_with_the_gain_of_locality_below(open_report: Open) -> None:
    variants = {
        f"{name}, {images}": {"data.train_images": images, "model.locality": {"permuted": name == "permuted"}}
        for name in ("permuted", "local")
        for images in (100, 200)
    }
    pairs = {f"local, {images}": f"permuted, {images}" for images in (100, 200)}
    study = StudyConfig(
        *("curves", "?", variants, pairs),
        isolates=pairs,
        curves={name: [f"{name}, {images}" for images in (100, 200)] for name in ("permuted", "local")},
        chart="curves",
        axis="data.train_images",
    )
    accuracies = {name: (60.0 + place, 61.0 + place**2, 62.5 + place) for place, name in enumerate(variants)}
    page = open_report([summary(study, accuracies, {})])
    lines = [trace for trace in data(page, "own-chart") if trace["fill"] != "toself"]
    assert [trace["name"] for trace in lines] == ["permuted", "local", "gain of locality"]
    assert lines[1]["x"] == [100, 200]
    assert lines[1]["y"] == pytest.approx([(62 + 65 + 64.5) / 3, (63 + 70 + 65.5) / 3])
    assert lines[2]["y"] == pytest.approx([(2 + 4 + 2) / 3, (2 + 8 + 2) / 3])
    assert lines[2]["colour"] == lines[1]["colour"] != lines[0]["colour"]
    assert page.locator("#own-chart .x2tick text").all_text_contents() == ["100", "200"]


def test_effects_are_filled_if_there_is_evidence(open_report: Open) -> None:
    page = open_report([summary(PAIRS, PAIRS_ACCURACIES, {})])
    filled, hollow = data(page, "effects")
    assert (filled["name"], filled["symbol"], filled["x"]) == ("better", "circle", [pytest.approx(3.0)])
    assert (hollow["name"], hollow["symbol"]) == ("no evidence at this size", "circle-open")
    assert hollow["x"] == [pytest.approx(1 / 3)]
    assert page.locator("#effects .xerror").count() == 2
    line = page.locator("#effects .shapelayer path").bounding_box()
    points = [page.locator("#effects .point").nth(place).bounding_box() for place in range(2)]
    assert line is not None
    assert all(point is not None and point["x"] > line["x"] for point in points), "both gains are above 0"


def test_buttons_choose_the_cost_of_points_and_arrows(own_page: Page) -> None:
    chart = "accuracy-against-cost"
    assert own_page.locator(f"#{chart} .scatterlayer .point").count() == 3
    assert own_page.locator(f"#{chart} .yerror").count() == 3
    assert own_page.locator(f"#{chart} .updatemenu-button").all_text_contents() == [
        *("MACs", "parameters", "training images/s")
    ]
    for button, values in enumerate(
        (
            [1.73012, 1.802, 1.86548],
            [0.086506, 0.086938, 0.093274],
            [1500.0, 1200.0, 750.0],
        )
    ):
        before = own_page.locator(f"#{chart} .point").nth(1).bounding_box()
        own_page.locator(f"#{chart} .updatemenu-button").nth(button).click()
        own_page.wait_for_timeout(300)
        assert [trace["x"] for trace in data(own_page, chart)] == [[pytest.approx(value)] for value in values]
        arrows = annotations(own_page, chart)
        assert [arrow["x"] for arrow in arrows] == pytest.approx(values[1:])
        assert [arrow["ax"] for arrow in arrows] == pytest.approx(values[:1] * 2)
        assert [(arrow["ay"], arrow["y"]) for arrow in arrows] == [(93.5, 95.5), (93.5, pytest.approx(97.9))]
        assert own_page.locator(f"#{chart} .annotation-arrow-g").count() == 2
        assert button == 0 or before != own_page.locator(f"#{chart} .point").nth(1).bounding_box()
    title = own_page.locator(f"#{chart} .xtitle").text_content()
    assert title == "images per second in training"


def test_costs_that_were_not_measured_have_no_button(open_report: Open) -> None:
    counted = {name: Costs(cost.parameters, cost.macs) for name, cost in COSTS.items()}
    page = open_report([summary(costs=counted)])
    assert page.locator("#accuracy-against-cost .updatemenu-button").count() == 2


def test_bars_have_a_row_a_variant_and_a_dot_a_seed(page: Page) -> None:
    traces = data(page, "own-chart")
    assert [len(trace["x"]) for trace in traces] == [3, 1] * 3
    assert [trace["x"][0] for trace in traces[1::2]] == pytest.approx([93.5, 95.5, 97.9])
    assert [trace["y"][0] for trace in traces[1::2]] == [0, 1, 2]
    assert traces[4]["x"] == [98.0, 97.5, 98.2]
    assert page.locator("#own-chart .xerror").count() == 3
    labels = page.locator("#own-chart .ytick text").all_text_contents()
    assert labels[0] == "DeiT"
    assert labels[2].startswith("<b>odd</b> &"), "Plotly has markup of its own, which a name is not"


def study_of(chart: dict[str, Any], variants: dict[str, dict[str, Any]]) -> StudyConfig:
    return StudyConfig("own", "?", variants=variants, baseline=next(iter(variants)), **chart)


def test_a_line_goes_over_the_field_that_varies(open_report: Open) -> None:
    ratios = {"four": 4, "one": 1, "two": 2}
    variants = {name: {"model.locality": {"expansion_ratio": ratio}} for name, ratio in ratios.items()}
    study = study_of({"chart": "line", "axis": "model.locality.expansion_ratio"}, variants)
    accuracies = {"four": (90.0, 91.0, 92.0), "one": (80.0, 81.0, 82.0), "two": (85.0, None, None)}
    page = open_report([summary(study, accuracies, {})])
    band, seeds, means = data(page, "own-chart")
    assert means["x"] == [1, 2, 4]
    assert means["y"] == [81.0, 85.0, 91.0]
    assert means["symbol"] == ["circle", "circle", "circle-open"]
    assert len(seeds["x"]) == 7
    assert band["x"] == [1, 4, 4, 1], "two has a single seed and therefore no interval"
    assert band["y"] == pytest.approx([81 + 2.484, 91 + 2.484, 91 - 2.484, 81 - 2.484], abs=1e-3)
    assert page.locator("#own-chart .xtitle").text_content() == "expansion ratio"


def test_layers_are_cells_beside_the_accuracy(open_report: Open) -> None:
    shallow = {"model.name": "deit_tiny_patch16_224", "model.arguments": {"depth": 3}}
    variants = {
        "nowhere": {**shallow, "model.locality": {"depthwise": False}},
        "low": {**shallow, "model.locality": {}, "model.other_layers": {"depthwise": False}, "model.layers": "low"},
        "all": {**shallow, "model.locality": {}},
        "untouched": shallow,
    }
    accuracies = {name: (90.0 + place, 91.0 + place, 92.5 + place) for place, name in enumerate(variants)}
    page = open_report([summary(study_of({"chart": "layers"}, variants), accuracies, {})])
    cells, *rows = data(page, "own-chart")
    assert (cells["type"], cells["z"]) == ("heatmap", [[0, 0, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0]])
    assert len(rows) == 8
    assert page.locator("#own-chart .heatmaplayer image").count() == 1
    assert page.locator("#own-chart .xerror").count() == 4


def test_a_phone_shows_the_page_without_scrolling_sideways(open_report: Open) -> None:
    page = open_report([summary()], viewport={"width": 390, "height": 800}, is_mobile=True, has_touch=True)
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("document.querySelector('.scroll').scrollWidth") > 390, "the table scrolls in its own box"
    for chart in CHARTS:
        box = page.locator(f"#{chart}").bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= 390
        assert box["height"] > 200
    page.set_viewport_size({"width": 340, "height": 800})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 340


@pytest.mark.parametrize(("scheme", "lowest", "highest"), [("light", 0.9, 1.0), ("dark", 0.0, 0.03)])
def test_both_colour_schemes_are_readable(open_report: Open, scheme: str, lowest: float, highest: float) -> None:
    page = open_report([summary()], color_scheme=scheme)
    for selector in (
        *("h1, h2, p, td, th, figcaption, .badge, .overline, summary, dt, dd",),
        *(".xtick text, .ytick text, .xtitle, .ytitle, .legendtext, .updatemenu-item-text",),
    ):
        background, contrast, count = page.evaluate(CONTRAST, selector)
        assert lowest <= background <= highest
        assert count > 10
        assert contrast >= 4.5


def test_paper_gets_all_that_matters(own_page: Page) -> None:
    own_page.emulate_media(media="print")
    own_page.evaluate("dispatchEvent(new Event('beforeprint'))")
    own_page.wait_for_timeout(300)
    for selector in ("h1", ".answer", "#results", "#claims", *(f"#{chart}" for chart in CHARTS), "dl", "#how-sure"):
        assert own_page.locator(selector).is_visible(), selector
    assert not own_page.locator("details").is_visible()
    for hidden in (".updatemenu-container", ".modebar-container"):
        assert not any(element.is_visible() for element in own_page.locator(hidden).all())
    assert own_page.locator("#results th").first.inner_text() == "variant"
    for chart in CHARTS:
        width, height = (
            own_page.evaluate(f"document.getElementById('{chart}').offset{side}") for side in ("Width", "Height")
        )
        drawn = own_page.locator(f"#{chart} .main-svg").first.bounding_box()
        caption = own_page.locator(f"figure:has(#{chart}) figcaption").bounding_box()
        assert drawn is not None
        assert caption is not None
        assert drawn["width"] <= 680, "an A4 page between its margins"
        assert width > 0
        assert height == pytest.approx(drawn["height"], abs=1)
        assert caption["y"] - drawn["y"] - drawn["height"] < 20
    own_page.emulate_media(media="screen")
    own_page.evaluate("dispatchEvent(new Event('afterprint'))")
    own_page.wait_for_timeout(300)
    box = own_page.locator("#effects .main-svg").first.bounding_box()
    assert box is not None
    assert box["width"] > 1000, "and the screen gets its own width back"
    assert own_page.pdf(format="A4").startswith(b"%PDF")


def test_failed_and_missing_runs_are_told(open_report: Open) -> None:
    error = "Traceback <b>:\n  RuntimeError: " + "1234567890" * 40
    accuracies: dict[str, Sequence[float | str | None]] = {
        **ACCURACIES,
        **{"no depth-wise": (None, error, 95.0), ODD: (98.0, 97.5, None)},
    }
    page = open_report([summary(accuracies=accuracies)], viewport={"width": 390, "height": 800})
    assert page.locator("#failed").inner_text() == "What failed"
    assert page.locator("#failed ~ pre").first.inner_text() == error
    assert page.locator("#missing ~ ul li").all_inner_texts() == ["no depth-wise, seed 0", f"{ODD}, seed 2"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert "1 failed and 2 are still to be trained" in page.inner_text(".answer")


def test_a_whole_study_has_no_word_of_failures(page: Page) -> None:
    assert page.locator("#failed, #missing").count() == 0


@pytest.mark.parametrize(
    ("accuracies", "costs"),
    [
        ({"DeiT": (93.0, 94.0, 93.5), "no depth-wise": (None, "died", None), ODD: (None, 97.0, None)}, {}),
        ({"DeiT": (93.0, None, None), "no depth-wise": (94.0, None, None), ODD: (95.0, None, None)}, COSTS),
        ({"DeiT": (None, None, None), "no depth-wise": (None, "died", None), ODD: (None, None, None)}, COSTS),
    ],
    ids=["one variant without runs and no costs", "one seed", "nothing"],
)
def test_what_is_not_known_is_a_dash(
    open_report: Open, accuracies: dict[str, Sequence[float | str | None]], costs: dict[str, Costs]
) -> None:
    page = open_report([summary(accuracies=accuracies, costs=costs)])
    text = page.inner_text("body")
    assert not re.search(r"\bnan\b|None", text)
    assert page.locator("#results tbody tr").count() == 3
    finished = sum(any(isinstance(value, float) for value in values) for values in accuracies.values())
    assert page.locator("#own-chart").count() == (finished > 0)
    if finished:
        assert len(data(page, "own-chart")) == 2 * finished
        assert len([trace for trace in data(page, "learning-curves") if trace["fill"] != "toself"]) == finished
    accuracy = page.locator("#results th button").nth(HEADERS.index("accuracy"))
    for _ in range(2):
        accuracy.click()
        cells = page.locator("#results tbody td:nth-child(4)").all_inner_texts()
        assert cells[finished:] == ["–"] * (3 - finished), "in both directions last"


def test_the_configuration_is_there_to_repeat_it(own_page: Page) -> None:
    assert "localvit study drawn.yaml" in own_page.inner_text("dl")
    own_page.locator("summary").click()
    configuration = own_page.locator("details pre").inner_text()
    assert "seeds:\n- 0\n- 1\n- 2" in configuration
    assert "learning_rate: 0.0005" in configuration


def test_a_report_of_several_studies_starts_with_a_glance(open_report: Open) -> None:
    again = summary(recipe=with_overrides(STUDY.recipe, {"training.epochs": 7}), paper_finding="", claims=[])
    page = open_report([summary(), summary(PAIRS, PAIRS_ACCURACIES, {}), again])
    assert page.inner_text("h1") == "The questions at a glance"
    assert page.locator(".glance li").count() == 3
    assert page.locator(".glance a").all_inner_texts() == [STUDY.question, PAIRS.question, STUDY.question]
    assert [text.split(" ", 1)[-1] for text in page.locator(".glance .badge").all_inner_texts()] == [
        *("a claim does not hold", "undecided", "asked by the paper")
    ]
    assert "2 of 2 variants have a higher mean" in page.locator(".glance li").nth(1).inner_text()
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)")
    own = [name for name in ids if name.endswith((*CHARTS, "results", "study"))]
    assert len(own) == len(set(own)) == 3 * 6 - 1, "pairs has no costs and therefore no such chart"
    assert {"drawn-learning-curves", "pairs-tiny-effects", "drawn--2-own-chart"} <= set(own)
    for link in page.locator(".glance a").all():
        assert (link.get_attribute("href") or "").removeprefix("#") in ids
    page.locator("#pairs-tiny-results th button").nth(HEADERS.index("accuracy")).click()
    assert page.locator("#pairs-tiny-results tbody tr").first.inner_text().startswith("B+")
    assert page.locator("#drawn-results tbody tr").first.inner_text().startswith("DeiT")
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_function("document.documentElement.scrollWidth <= 390")


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        write_report([], tmp_path)


def test_an_analysis_that_is_older_than_some_runs_says_so(tmp_path: Path) -> None:
    measures = (MeasureFound("Kernels", ("They blur.",), ()),)
    for seeds, sentence in (({0}, "seeds 1, 2 are not in it"), ({0, 1, 2}, "")):
        write_report([summary()], tmp_path, [AnalysisFound(measures, frozenset(seeds))])
        for page in ("report.md", "report.html"):
            text = (tmp_path / page).read_text()
            assert "They blur" in text
            assert ("This analysis is older" in text) is bool(sentence)
            assert sentence in text
