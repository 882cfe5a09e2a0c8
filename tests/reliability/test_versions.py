"""``benchmarks/campaign/versions.py`` in its short form: one Python, borrowed packages, a few tests."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "campaign"))
import versions
from campaign import Campaign
from table import section

REPORT = """<testsuites><testsuite time="3.5">
<testcase classname="tests.a" name="right"/>
<testcase classname="tests.a" name="wrong"><failure message="no"/></testcase>
<testcase classname="tests.b" name="broken"><error message="no"/></testcase>
<testcase classname="tests.b" name="left out"><skipped/></testcase>
</testsuite></testsuites>"""


def here() -> int:
    """The number of environments up to the Python of these tests."""
    return versions.PYTHONS.index(f"3.{sys.version_info.minor}") + 1


def test_the_tests_run_in_an_environment_of_their_own_and_are_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "interpreter", lambda python: sys.executable)
    packages = Path(sysconfig.get_paths()["purelib"])
    campaign = Campaign.open(tmp_path / "log.json", "The tests pass.", "environments")
    environment = versions.ENVIRONMENTS[here() - 1]
    line = versions.try_out(campaign, environment, ["-n", "0", "tests/test_imports.py", "-k", "system"], packages)
    assert (line["passed"], line["failed"]) == (1, 0), campaign.failures


def test_a_failed_test_is_a_failure_of_its_environment() -> None:
    found = versions.outcome(REPORT)
    assert (found.passed, found.skipped, found.seconds) == (1, 1, 3.5)
    assert found.failed == ("tests.a::wrong", "tests.b::broken")


def test_a_python_that_is_not_here_is_logged_as_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "interpreter", lambda python: None)
    log = tmp_path / "log.json"
    campaign = Campaign.open(log, "The tests pass.", "environments")
    for trial in campaign.trials(1):
        campaign.rows.append(versions.try_out(campaign, versions.ENVIRONMENTS[trial], ["tests"], None))
    shown = section("versions", json.loads(log.read_text()))
    assert "| Python 3.11, newest versions | not tried |" in shown
    assert Campaign.open(log, "The tests pass.", "environments").rows == campaign.rows


def test_an_environment_that_breaks_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "interpreter", lambda python: sys.executable)

    def broken(*_: object) -> Path:
        raise versions.BrokenError("pip install ended with status 1: no such package")

    monkeypatch.setattr(versions, "install", broken)
    campaign = Campaign.open(tmp_path / "log.json", "The tests pass.", "environments")
    versions.try_out(campaign, versions.ENVIRONMENTS[4], ["tests"], None)
    assert campaign.failures[0]["what"].startswith("Python 3.11, lowest versions: pip install")


def test_an_environment_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mended: list[str] = []

    def outcome(python: Path, selected: object) -> versions.Outcome:
        failed = () if str(python) in mended else ("tests.a::wrong",)
        return versions.Outcome(9 - len(failed), 0, failed, 1.0)

    monkeypatch.setattr(versions, "interpreter", lambda python: sys.executable)
    monkeypatch.setattr(versions, "install", lambda environment, *_: Path(str(environment)))
    monkeypatch.setattr(versions, "tests", outcome)
    log = tmp_path / "log.json"

    def run(*options: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["versions.py", "--output", str(log), *options])
        with pytest.raises(SystemExit):
            versions.main()
        found: dict[str, Any] = json.loads(log.read_text())
        return found

    mended += map(str, versions.ENVIRONMENTS[:3])
    assert [failure["trial"] for failure in run()["failures"]] == [3, 4]
    mended.append(str(versions.ENVIRONMENTS[4]))
    found = run("--again")
    assert [failure["trial"] for failure in found["failures"]] == [3]
    assert [row["failed"] for row in found["rows"]] == [0, 0, 0, 1, 0]
    assert (found["tried"], found["kinds"]["tried again after a failure"]) == (5, 2)


def test_the_interpreter_found_is_of_the_python_asked_for() -> None:
    python = f"3.{sys.version_info.minor}"
    found = versions.interpreter(python)
    assert found is None or python in subprocess.check_output([found, "--version"], text=True)
    assert versions.interpreter("3.999") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "9"], "there are 5 environments"),
        (["--packages", "nowhere"], "which is no folder"),
        (["--packages", "."], "give its log another name"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["versions.py", *arguments])
    with pytest.raises(SystemExit, match="2"):
        versions.main()
    assert message in capsys.readouterr().err
