"""``localvit bench`` as a user gives it, and the page that it writes."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from localvit.benchmark import (
    BenchmarkResult,
    Measurement,
    Setting,
    SettingResult,
    provenance,
    write_report,
)
from localvit.commands.cli import main

pytestmark = pytest.mark.usefixtures("small_matrices")

QUICK = ["--image-size", "32", "--batch-size", "2", "--rounds", "2", "--threads", "1", "--device", "cpu"]


@pytest.mark.slow
def test_models_are_measured_in_every_combination_that_can_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--precision", "fp32", "bf16", "--memory", "--output", str(tmp_path)]
    status = main(["bench", "test_vit", "test_resnet", *QUICK, *options])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    found = BenchmarkResult.from_json((tmp_path / "results.json").read_text())
    kinds = [(result.setting.mode, result.setting.precision) for result in found.results]
    assert kinds == [("inference", "fp32"), ("inference", "bf16"), ("training", "fp32")]
    assert "Left out: precision is bf16 in training" in printed.err
    for result in found.results:
        assert [len(measurement.rates) for measurement in result.measurements] == [2, 2]
        assert all((measurement.memory or 0) > 0 for measurement in result.measurements)
        assert result.setting.words() in printed.out
    assert all(len(line) <= 80 for line in printed.out.splitlines() if not line.startswith("Charts"))
    assert "…" not in printed.out
    first = next(line for line in printed.out.splitlines() if "test_resnet" in line)
    speed = found.results[0]["test_resnet"].images_per_second
    assert speed is not None
    assert f"{speed.median:,.0f}" in first
    table = (tmp_path / "results.md").read_text()
    assert table.count("| test\\_resnet |") == 3
    assert str(tmp_path / "chart.html")[:-11] in printed.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode", "training", "--precision", "bf16"], "nothing is left to measure: precision is bf16 in training"),
        (["--mode", "training", "--fuse", "true"], "nothing is left to measure: fuse is True in training"),
        (["--image-size", "tall"], "--image-size is tall; it must be pixels of a square"),
        (["--precision", "fp16"], "fp16"),
        (["--presicion", "fp32"], "Did you mean precision?"),
        (["--batch-size", "0"], "batch_size"),
    ],
)
def test_wrong_options_end_with_what_is_right(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "test_vit", *arguments])
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_model_that_is_not_there_is_named_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "localvit_tini_patch16_224"]) == 1
    assert "localvit_tiny_patch16_224" in " ".join(capsys.readouterr().err.split())


def test_a_model_that_fails_is_shown_and_the_status_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*QUICK, "--image-size", "8", "--mode", "inference", "--output", str(tmp_path)]
    assert main(["bench", "test_resnet", "test_vit", *options]) == 1
    printed = capsys.readouterr()
    assert re.search(r"test_vit\s+failed", printed.out)
    assert "test_vit failed: " in printed.err


def made_up() -> BenchmarkResult:
    setting = Setting(device="cpu")
    odd = 'a model with "quotes" & <brackets> and a name that is long'
    measurements = (
        Measurement("deit", setting, (100.0, 110.0, 90.0), 5, 10**9, 10**9),
        Measurement(odd, setting, (50.0, 52.0, 48.0), 5, 10**9, 2 * 10**9),
        Measurement("broken", setting, error="RuntimeError: it <fails>"),
    )
    speed_alone = SettingResult(Setting("training"), (Measurement("deit", Setting("training"), (10.0,)),))
    rates = {"cpu, fp32": 1e12}
    return BenchmarkResult((SettingResult(setting, measurements), speed_alone), rates, provenance())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_needs_no_network_and_draws_every_setting(scheme: Any, tmp_path: Path) -> None:
    path = write_report(made_up(), tmp_path)
    source = path.read_text()
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", source)
    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_context(offline=True, color_scheme=scheme).new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: problems.append(request.url) if "file:" not in request.url else None)
        page.goto(path.as_uri())
        page.wait_for_selector("#chart-1 .point")
        bars = page.evaluate(
            "document.getElementById('chart-0')._fullData.filter(t => t.type == 'bar').map(t => [...t.x])"
        )
        assert bars == [[100, 50, 0], [10**9 / 2**20, 2 * 10**9 / 2**20, 0], [20, 10, 0]]
        texts = page.locator("#chart-0 .textpoint").all_text_contents()
        assert [text.strip() for text in texts[:3]] == ["100", "50 (× 0.50)", "failed"]  # noqa: RUF001
        assert page.locator("#chart-0 .point").count() == 9
        assert page.locator("table").count() == 2
        assert "broken failed: RuntimeError: it <fails>" in page.inner_text("body")
        browser.close()
    assert problems == []


def test_the_tables_of_a_file_are_those_of_the_page(tmp_path: Path) -> None:
    write_report(made_up(), tmp_path)
    table = (tmp_path / "results.md").read_text()
    assert "| deit | 100 | 10.0 | 1.00 | 1.00–1.00 | 954 | 1.00 | 20.0 |" in table
    assert "| broken | failed | – | – | – | – | – | – |" in table
    values = json.loads((tmp_path / "results.json").read_text())
    derived = values["results"][0]["measurements"][1]["derived"]
    assert derived["memory_ratio"] == 2
    assert derived["utilisation"] == pytest.approx(2 * 1e9 * 50 / 1e12)
