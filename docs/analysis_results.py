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

from localvit.analysis.reporting.wording import cell
from localvit.analysis.table import ALIGNMENT
from localvit.benchmark.look import markdown_text
from localvit.studies.record import StudyRecord
from localvit.studies.reporting.inside import ANALYSIS, FOUND
from localvit.studies.reporting.tables import NOTHING, interval_text
from localvit.studies.reporting.wording import listed, signed
from localvit.studies.statistics.contrast import Interval
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
    """Copy the tables and charts of analyses, in place of those of earlier ones."""
    for folder in folders:
        made, to = folder / ANALYSIS, RESULTS / folder.resolve().name / ANALYSIS
        measures = json.loads((made / FOUND).read_text(encoding="utf-8"))["measures"].values()
        shutil.rmtree(to, ignore_errors=True)
        to.mkdir(parents=True)
        for name in (FOUND, "report.md", *(picture for values in measures for picture in values["pictures"])):
            shutil.copyfile(made / name, to / name)


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
    accuracies = {
        variant.name: variant.accuracy
        for variant in summary.variants
        if variant.name in found["models"] and variant.name not in summary.config.landmarks
    }
    for name, accuracy in accuracies.items():
        cells = [cell(_interval(values["overall"][name]), measure) for measure, values in measures.items()]
        shown = NOTHING if accuracy is None else interval_text(accuracy)
        lines.append(f"| {markdown_text(name)} | {shown} | {' | '.join(cells)} |")
    correlations = {
        values["title"]: _rank_correlation(
            [(accuracy.mean, values["overall"][name]) for name, accuracy in accuracies.items() if accuracy is not None]
        )
        if measure != ALIGNMENT  # variants are compared with different ones
        else None
        for measure, values in measures.items()
    }
    ranks = [NOTHING if value is None else signed(value) for value in correlations.values()]
    lines.append(f"| *rank correlation with accuracy* | | {' | '.join(ranks)} |")
    lines += ["", *_in_words(correlations, len(accuracies)), ""]
    for values in measures.values():
        lines += [f"### {markdown_text(values['title'])}", "", "\n\n".join(map(markdown_text, values["answer"])), ""]
        for picture, caption in values["pictures"].items():
            lines += [
                f"![{markdown_text(values['title'])}]({folder}/{ANALYSIS}/{picture})",
                "",
                markdown_text(caption),
                "",
            ]
    command = found["record"].get("command", "")
    return [*lines, "### Reproduce it", "", f"    {command}", f"    python docs/analysis_results.py {folder}", ""]


def _interval(values: dict[str, float | None] | None) -> Interval | None:
    """An interval as ``results.json`` has it: None for what is not known."""
    if values is None:
        return None
    return Interval(**{part: math.nan if value is None else value for part, value in values.items()})


def _rank_correlation(pairs: list[tuple[float, dict[str, float] | None]]) -> float | None:
    known = [(accuracy, interval["mean"]) for accuracy, interval in pairs if interval is not None]
    if len(known) < FEW:
        return None
    accuracies, means = zip(*known, strict=True)
    found = float(spearmanr(accuracies, means).statistic)
    return found if math.isfinite(found) else None


def _in_words(correlations: dict[str, float | None], variants: int) -> list[str]:
    known = {title: value for title, value in correlations.items() if value is not None}
    strong = [title.lower() for title, value in known.items() if abs(value) >= STRONG]
    others = [title.lower() for title, value in known.items() if abs(value) < STRONG]
    words = []
    if strong:
        words.append(f"Over these {variants} variants, accuracy goes with {listed(strong)}.")
    if others:
        words.append(f"{'It' if strong else 'Accuracy'} does not go with {listed(others)}.")
    return [" ".join(words)] if words else []


if __name__ == "__main__":
    main()
