"""A campaign: many trials of one kind, each drawn from its number, and a log that grows from session to session.

A campaign's script runs as ``python benchmarks/campaign/NAME.py --count N [--output FILE]``. It goes on after the last
trial in FILE, so that a thousand trials may take several sessions, and writes FILE as it goes. ``table.py`` turns the
logs under ``docs/reliability/`` into the table there.
"""

import argparse
import json
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from localvit.benchmark import provenance
from localvit.system.files import write_text
from localvit.system.terminal import ERRORS

LOGS = Path(__file__).parents[2] / "docs" / "reliability"
SECONDS_BETWEEN_WRITES = 2.0


@dataclass
class Campaign:
    """The log of a campaign.

    Attributes:
        path: JSON file of the log.
        claim: what every trial must show, as a sentence.
        unit: what a trial is, in the plural, such as kills.
        tried: number of trials that ended.
        kinds: how many trials there were of each kind, and how they ended.
        figures: the largest value seen of each measured quantity; the name states its unit.
        failures: for each trial that did not show the claim, its number and what happened.
        sessions: for each session, its first trial and who ran it where: command, machine, versions, commit.
        rows: for campaigns of few trials, a line of a table for each: values by column.
    """

    path: Path
    claim: str
    unit: str
    tried: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    figures: dict[str, float] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    sessions: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    _written: float = 0.0

    @classmethod
    def open(cls, path: Path, claim: str, unit: str) -> "Campaign":
        """Go on with the log at ``path``, or begin one."""
        campaign = cls(path, claim, unit)
        if path.exists():
            log = json.loads(path.read_text())
            campaign.tried, campaign.kinds = log["tried"], Counter(log["kinds"])
            campaign.figures, campaign.failures, campaign.sessions = log["figures"], log["failures"], log["sessions"]
            campaign.rows = log.get("rows", [])
        return campaign

    def trials(self, count: int) -> Iterator[int]:
        """Numbers of the trials that are missing to ``count``, with progress. Each counts when the next one begins."""
        if self.tried >= count:
            return
        self.sessions.append({"first_trial": self.tried, **provenance()})
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failures]} failures"),
        )
        try:
            with Progress(*columns, console=ERRORS) as progress:
                task = progress.add_task(self.unit, total=count, completed=self.tried, failures=len(self.failures))
                while self.tried < count:
                    yield self.tried
                    self.tried += 1
                    progress.update(task, completed=self.tried, failures=len(self.failures))
                    if time.monotonic() > self._written + SECONDS_BETWEEN_WRITES:
                        self.write()
        finally:
            self.write()

    def failed_trials(self) -> Iterator[int]:
        """Numbers of the trials that failed, to try again. The log keeps what they show now, and how many they were."""
        tried, failures = self.tried, self.failures
        if failures:
            self.sessions.append({"first_trial": failures[0]["trial"], "again": True, **provenance()})
        try:
            for trial in sorted({failure["trial"] for failure in failures}):
                self.tried, self.failures = trial, []
                yield trial
                failures = [*(failure for failure in failures if failure["trial"] != trial), *self.failures]
                self.saw("tried again after a failure")
        finally:
            self.tried, self.failures = tried, failures
            self.write()

    def saw(self, kind: str) -> None:
        """Count the current trial under a kind. A trial may have several."""
        self.kinds[kind] += 1

    def measured(self, quantity: str, value: float) -> None:
        """Keep the largest value of a quantity, whose name states the unit."""
        self.figures[quantity] = max(value, self.figures.get(quantity, value))

    def failed(self, what: str) -> None:
        """The current trial did not show the claim."""
        self.failures.append({"trial": self.tried, "what": _without_places(what)})
        ERRORS.print(f"trial {self.tried}: {what}", markup=False)

    def write(self) -> None:
        """Write the log."""
        log = {
            "claim": self.claim,
            "unit": self.unit,
            "tried": self.tried,
            "kinds": dict(sorted(self.kinds.items())),
            "figures": self.figures,
            "failures": self.failures,
            "sessions": self.sessions,
            **({"rows": self.rows} if self.rows else {}),
        }
        write_text(self.path, json.dumps(log, indent=1) + "\n")
        self._written = time.monotonic()

    def end(self) -> None:
        """Say how it went, and exit with status 1 if a trial failed."""
        ERRORS.print(f"{self.tried} {self.unit}, {len(self.failures)} failures; the log is {self.path}", markup=False)
        sys.exit(1 if self.failures else 0)


def _without_places(text: str) -> str:
    """A text without the folders of this machine that hold the project and its packages."""
    for folder in (Path(__file__).parents[2], Path(sysconfig.get_paths()["purelib"])):
        text = text.replace(f"{folder}/", "")
    return text


def randomness(trial: int) -> np.random.Generator:
    """The random numbers of a trial, whatever was tried before it."""
    return np.random.default_rng((20210405, trial))


def arguments(description: str | None, name: str, count: int) -> argparse.ArgumentParser:
    """The options that all campaigns have: how many trials in all, and the log."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=count, help="trials in all, those in the log included")
    parser.add_argument("--output", type=Path, default=LOGS / f"{name}.json", help="the log")
    return parser
