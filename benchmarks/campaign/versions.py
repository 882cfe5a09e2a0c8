"""The tests on every supported Python, with the newest and with the lowest versions of all dependencies.

    python benchmarks/campaign/versions.py                    # hours: each environment is installed from nothing
    python benchmarks/campaign/versions.py --again            # those that failed, after what failed there was mended
    python benchmarks/campaign/versions.py --tests tests/test_imports.py --packages SITE_PACKAGES --output trial.json

Each trial is an environment: Python 3.11 to 3.14 with the newest versions, then 3.11 with ``.ci/lowest.txt``. A Python
that this machine lacks is logged as not tried. ``--packages`` borrows a folder of installed packages, for the Python
they were installed for, instead of installing them; such a log is no evidence about versions.
"""

import os
import shutil
import subprocess
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from campaign import Campaign, arguments

ROOT = Path(__file__).parents[2]
LOWEST = ROOT / ".ci" / "lowest.txt"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


@dataclass(frozen=True)
class Environment:
    """A Python, and the versions of the dependencies: newest or lowest."""

    python: str
    versions: str

    def __str__(self) -> str:
        return f"Python {self.python}, {self.versions} versions"


ENVIRONMENTS = (*(Environment(python, "newest") for python in PYTHONS), Environment(PYTHONS[0], "lowest"))


@dataclass(frozen=True)
class Outcome:
    """How the tests of an environment went."""

    passed: int
    skipped: int
    failed: tuple[str, ...]
    seconds: float


class BrokenError(Exception):
    """An environment could not be made, or its tests did not start."""


def interpreter(python: str) -> str | None:
    """The newest interpreter of a Python such as 3.12 here, on the path or in pyenv; None if there is none."""
    built = sorted(Path.home().glob(f".pyenv/versions/{python}.*/bin/python"), key=_patch, reverse=True)
    for candidate in (shutil.which(f"python{python}"), *map(str, built)):
        if candidate is None:
            continue
        # A shim of pyenv is on the path for versions that are not chosen, and then fails.
        asked = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        said = subprocess.run(asked, capture_output=True, text=True, check=False)
        if said.stdout.strip() == python:
            return candidate
    return None


def _patch(path: Path) -> int:
    last = path.parts[-3].rpartition(".")[2]
    return int(last) if last.isdigit() else -1


def install(environment: Environment, python: str, folder: Path, packages: Path | None) -> Path:
    """Make the environment in ``folder``, and return its interpreter. Raises ``BrokenError`` if that fails."""
    _call([python, "-m", "venv", str(folder)])
    own = folder / "bin" / "python"
    if packages is not None:
        found = _call([str(own), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"])
        (Path(found.strip()) / "borrowed.pth").write_text(f"{ROOT / 'src'}\n{packages.resolve()}\n")
        return own
    constraint = {"PIP_CONSTRAINT": str(LOWEST)} if environment.versions == "lowest" else {}
    _call([str(own), "-m", "pip", "install", "--quiet", "-e", f"{ROOT}[dev]"], **constraint)
    return own


def tests(python: Path, selected: Sequence[str]) -> Outcome:
    """Run the tests. Raises ``BrokenError`` if pytest writes no report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *selected]
        ended = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, check=False)
        if not report.exists():
            raise BrokenError(f"pytest ended with status {ended.returncode}: {_last_line(ended.stderr)}")
        return outcome(report.read_text())


def outcome(report: str) -> Outcome:
    """What a JUnit report says."""
    root = ElementTree.fromstring(report)  # noqa: S314  # pytest wrote it
    cases = list(root.iter("testcase"))
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    names = tuple(f"{case.get('classname')}::{case.get('name')}" for case in bad)
    seconds = sum(float(suite.get("time", 0)) for suite in root.iter("testsuite"))
    return Outcome(len(cases) - len(bad) - len(skipped), len(skipped), names, seconds)


def _call(command: Sequence[str], **more: str) -> str:
    ended = subprocess.run(command, env=_environment() | more, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise BrokenError(f"{' '.join(command[1:4])} ended with status {ended.returncode}: {_last_line(ended.stderr)}")
    return ended.stdout


def _environment() -> dict[str, str]:
    """Our variables, without those that would let another environment in."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PIP_CONSTRAINT")}


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:300]


def try_out(
    campaign: Campaign, environment: Environment, selected: Sequence[str], packages: Path | None
) -> dict[str, object]:
    """One trial: install and test. Returns its line of the log."""
    line: dict[str, object] = {
        "environment": str(environment),
        "passed": "",
        "failed": "",
        "skipped": "",
        "seconds": "",
    }
    if (python := interpreter(environment.python)) is None:
        campaign.saw("not tried, because this machine lacks the Python")
        return line | {"passed": "not tried"}
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = tests(install(environment, python, Path(folder) / "venv", packages), selected)
        except BrokenError as error:
            campaign.saw("could not be installed or started")
            campaign.failed(f"{environment}: {error}")
            return line
    campaign.saw("tried")
    if found.failed:
        campaign.failed(f"{environment}: {', '.join(found.failed)}")
    elif not found.passed:
        campaign.failed(f"{environment}: no test passed")
    counts = {"passed": found.passed, "failed": len(found.failed), "skipped": found.skipped}
    return line | counts | {"seconds": round(found.seconds)}


def main() -> None:
    """Try the environments that the log lacks."""
    parser = arguments(__doc__, "versions", len(ENVIRONMENTS))
    parser.add_argument("--tests", nargs="+", default=["tests"], help="what to give to pytest")
    parser.add_argument("--again", action="store_true", help="try the environments of the log again that failed")
    parser.add_argument("--packages", type=Path, help="a site-packages folder to borrow instead of installing")
    options = parser.parse_args()
    if not 1 <= options.count <= len(ENVIRONMENTS):
        parser.error(f"--count is {options.count}; there are {len(ENVIRONMENTS)} environments")
    if options.packages is not None and not options.packages.is_dir():
        parser.error(f"--packages is {options.packages}, which is no folder")
    if options.packages is not None and options.output == parser.get_default("output"):
        parser.error("--packages is for a trial, which is no evidence; give its log another name with --output")
    claim = "The tests pass on every supported Python, with the newest and with the lowest dependencies."
    campaign = Campaign.open(options.output, claim, "environments")
    for trial in campaign.failed_trials() if options.again else campaign.trials(options.count):
        line = try_out(campaign, ENVIRONMENTS[trial], options.tests, options.packages)
        campaign.rows[trial : trial + 1] = [line]
    campaign.end()


if __name__ == "__main__":
    main()
