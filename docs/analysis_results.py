"""Keep what ``localvit analyze --study`` found in trained studies, and write the page about it.

    python docs/analysis_results.py runs/rq1_depthwise-cifar10 ...

Tables and charts of each study's analysis go to ``docs/results/<study>-<scale>/analysis``. The page that compares them
with the accuracies is ``docs/results/analysis.md``. Without arguments it rewrites the page from what is kept there.
"""

import argparse
import json
import math
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from localvit.analysis.reporting.wording import cell
from localvit.benchmark.look import markdown_text
from localvit.studies.record import StudyRecord
from localvit.studies.reporting.inside import ANALYSIS, FOUND
from localvit.studies.reporting.tables import NOTHING, interval_text
from localvit.studies.statistics.contrast import Interval
from localvit.studies.statistics.findings import StudySummary
from localvit.studies.statistics.summary import summarize
from localvit.system.files import write_text

sys.path.insert(0, str(Path(__file__).parent))
from analysis_accuracy import explained  # a script beside this one

RESULTS = Path(__file__).parent / "results"
HEAD = """# What locality changes inside

Written by `python docs/analysis_results.py` from the analyses in this folder. [docs/analysis.md](../analysis.md)
explains the measures. Figures are means over the layers of a network, with 95 % intervals over seeds. Rank correlations
say whether a measure puts networks in the order of their accuracies, and not that one causes the other.
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
    write_text(RESULTS / "analysis.md", page())


def page() -> str:
    """The page about all analyses that are kept."""
    lines = [HEAD]
    for folder in sorted(path.parent.parent for path in RESULTS.glob(f"*/{ANALYSIS}/{FOUND}")):
        summary = summarize(StudyRecord.load(folder))
        found = json.loads((folder / ANALYSIS / FOUND).read_text(encoding="utf-8"))
        lines += section(summary, found, folder.name)
    return "\n".join(lines)


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
    known = {name: accuracy.mean for name, accuracy in accuracies.items() if accuracy is not None}
    lines += ["", *explained(summary, known, found)]
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


if __name__ == "__main__":
    main()
