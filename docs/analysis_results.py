"""Keep what ``localvit analyze --study`` found in trained studies, and write the page about it.

    python docs/analysis_results.py runs/rq1_depthwise-cifar10 ...

Tables and charts of each study's analysis go to ``docs/results/<study>-<scale>/analysis``. The page that compares them
with the accuracies is ``docs/results/analysis.md``. Without arguments it rewrites the page from what is kept there.
"""

import argparse
import json
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from localvit.benchmark.look import markdown_text
from localvit.studies.record import StudyRecord
from localvit.studies.reporting.inside import ANALYSIS
from localvit.studies.reporting.inside import RESULTS as FOUND
from localvit.studies.reporting.tables import NOTHING, interval_text
from localvit.studies.statistics.findings import StudySummary
from localvit.studies.statistics.summary import summarize
from localvit.system.files import write_text

RESULTS = Path(__file__).parent / "results"
FEW = 4  # a rank correlation over fewer variants says nothing
STRONG = 0.9
HEAD = """# What locality changes inside

Written by `python docs/analysis_results.py` from the analyses in this folder. [docs/analysis.md](../analysis.md)
explains the measures. Figures are means over the layers of a network, with 95 % intervals over seeds. The last row of a
table is the rank correlation of a measure with test accuracy over the variants. It says whether a measure orders the
variants as accuracy does, and not that one causes the other.
"""


def keep(folders: Iterable[Path]) -> None:
    """Copy the tables and charts of analyses."""
    for folder in folders:
        to = RESULTS / folder.resolve().name / ANALYSIS
        to.mkdir(parents=True, exist_ok=True)
        for path in (folder / ANALYSIS).iterdir():
            if path.suffix in (".svg", ".json", ".md"):
                shutil.copyfile(path, to / path.name)


def main() -> None:
    """Keep the folders given, and write the page anew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*")
    keep(parser.parse_args().folders)
    studies = sorted(path.parent.parent for path in RESULTS.glob(f"*/{ANALYSIS}/{FOUND}"))
    lines = [HEAD]
    for folder in studies:
        summary = summarize(StudyRecord.load(folder))
        found = json.loads((folder / ANALYSIS / FOUND).read_text(encoding="utf-8"))
        lines += section(summary, found, folder.name)
    write_text(RESULTS / "analysis.md", "\n".join(lines))


def section(summary: StudySummary, found: dict[str, Any], folder: str) -> list[str]:
    """The part of the page about one study."""
    measures: dict[str, dict[str, Any]] = found["measures"]
    lines = [f"## {markdown_text(summary.config.question)} ({summary.config.scale})", ""]
    lines += [f"{markdown_text(found['images'])}. [All figures]({folder}/{ANALYSIS}/report.md).", ""]
    titles = [f"{values['title']}{', ' + values['unit'] if values['unit'] else ''}" for values in measures.values()]
    lines += [f"| variant | test accuracy, % | {' | '.join(map(markdown_text, titles))} |"]
    lines += [f"|---|{'--:|' * (1 + len(titles))}"]
    accuracies = {variant.name: variant.accuracy for variant in summary.variants if variant.name in found["models"]}
    for name, accuracy in accuracies.items():
        cells = [_cell(values["overall"][name], values["unit"]) for values in measures.values()]
        shown = NOTHING if accuracy is None else interval_text(accuracy)
        lines.append(f"| {markdown_text(name)} | {shown} | {' | '.join(cells)} |")
    correlations = {
        values["title"]: _rank_correlation(
            [(accuracy.mean, values["overall"][name]) for name, accuracy in accuracies.items() if accuracy is not None]
        )
        for values in measures.values()
    }
    lines.append(f"| *rank correlation with accuracy* | | {' | '.join(map(_number, correlations.values()))} |")
    lines += ["", *_in_words(correlations, len(accuracies)), ""]
    for values in measures.values():
        lines += [f"### {markdown_text(values['title'])}", "", " ".join(map(markdown_text, values["answer"])), ""]
        for picture in values["pictures"]:
            lines += [f"![{markdown_text(values['title'])}]({folder}/{ANALYSIS}/{picture})", ""]
    command = found["record"].get("command", "")
    return [*lines, "### Reproduce it", "", f"    {command}", f"    python docs/analysis_results.py {folder}", ""]


def _cell(interval: dict[str, float | None] | None, unit: str) -> str:
    if interval is None or interval["mean"] is None:
        return NOTHING
    digits = {"%": 1, "px": 2}.get(unit, 3)
    mean = f"{interval['mean']:.{digits}f}"
    return mean if interval["high"] is None else f"{mean} ± {interval['high'] - interval['mean']:.{digits}f}"


def _rank_correlation(pairs: list[tuple[float, dict[str, float] | None]]) -> float | None:
    known = [(accuracy, interval["mean"]) for accuracy, interval in pairs if interval is not None]
    if len(known) < FEW:
        return None
    found = float(spearmanr(*zip(*known, strict=True)).statistic)
    return found if math.isfinite(found) else None


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _in_words(correlations: dict[str, float | None], variants: int) -> list[str]:
    known = {title: value for title, value in correlations.items() if value is not None}
    strong = [title.lower() for title, value in known.items() if abs(value) >= STRONG]
    others = [title.lower() for title, value in known.items() if abs(value) < STRONG]
    words = []
    if strong:
        words.append(f"Over these {variants} variants, accuracy goes with {', '.join(strong)}.")
    if others:
        words.append(f"It does not go with {', '.join(others)}.")
    return [" ".join(words)] if words else []


if __name__ == "__main__":
    main()
