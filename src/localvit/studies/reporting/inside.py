"""What ``localvit analyze --study`` found inside the networks of a study, for the study's own report."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localvit.studies.record import StudyError
from localvit.system.plain_files import read_json

ANALYSIS, FOUND = "analysis", "results.json"


@dataclass(frozen=True)
class Picture:
    """A chart as an image that a page can hold, and its caption."""

    uri: str
    caption: str


@dataclass(frozen=True)
class MeasureFound:
    """A measure of an analysis: its title, what it found in sentences, and its charts."""

    title: str
    answer: tuple[str, ...]
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class AnalysisFound:
    """An analysis of a study: its measures, and the seeds of the runs that it looked into."""

    measures: tuple[MeasureFound, ...] = ()
    seeds: frozenset[int] = frozenset()

    def lacks(self, trained: Iterable[int]) -> str:
        """A sentence about the seeds that were trained since; empty if there are none, or no analysis."""
        later = sorted(set(trained) - self.seeds)
        if not self.measures or not later:
            return ""
        return (
            f"This analysis is older than some of the runs: seeds {', '.join(map(str, later))} are not in it. "
            "`localvit analyze --study` makes it anew."
        )


def read_analysis(study: Path) -> AnalysisFound:
    """What the ``analysis`` folder of a study has; nothing if the study was not analyzed.

    Args:
        study: folder of the study.

    Raises:
        StudyError: for files that are damaged or missing.
    """
    folder = study / ANALYSIS
    path = folder / FOUND
    if not path.exists():
        return AnalysisFound()
    try:
        found = read_json(path)
        seeds = frozenset(int(finding["seed"]) for finding in found["findings"] if finding["seed"] is not None)
        return AnalysisFound(tuple(_measure(folder, values) for values in found["measures"].values()), seeds)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StudyError(
            f"{path} is not what an analysis wrote ({type(error).__name__}: {error}). Write it anew with "
            f"`localvit analyze --study {study}`, or remove {folder}"
        ) from error


def _measure(folder: Path, values: dict[str, Any]) -> MeasureFound:
    return MeasureFound(
        str(values["title"]),
        tuple(str(sentence) for sentence in values["answer"]),
        tuple(Picture(_uri(folder / Path(file).name), str(caption)) for file, caption in values["pictures"].items()),
    )


def _uri(file: Path) -> str:
    # In an image, unlike in the page itself, a browser runs no script that an SVG may have.
    return f"data:image/svg+xml;base64,{base64.b64encode(file.read_bytes()).decode()}"
