"""Keep what ``localvit analyze --study`` found in trained studies, and write the page about it.

    python docs/analysis_results.py runs/rq1_depthwise-cifar10 ...

Tables and charts of each study's analysis go to ``docs/results/<study>-<scale>/analysis``. The page that compares them
with the accuracies is ``docs/results/analysis.md``. Without arguments it rewrites the page from what is kept there.
"""

import argparse
import json
import math
import shutil
import statistics
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from localvit.analysis.reporting.wording import GROWS, cell
from localvit.benchmark.look import markdown_text
from localvit.studies.record import StudyRecord
from localvit.studies.reporting.inside import ANALYSIS, FOUND
from localvit.studies.reporting.tables import NOTHING, interval_text
from localvit.studies.statistics.contrast import Interval
from localvit.studies.statistics.findings import StudySummary
from localvit.studies.statistics.summary import summarize
from localvit.system.files import write_text

sys.path.insert(0, str(Path(__file__).parent))
from analysis_accuracy import by_third, explained  # a script beside this one

RESULTS = Path(__file__).parent / "results"
DISTANCE = "attention-distance"
MOST_NAMED = 5
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
    for measure, values in measures.items():
        lines += [f"### {markdown_text(values['title'])}", "", "\n\n".join(map(markdown_text, values["answer"])), ""]
        if measure == DISTANCE:
            lines += [_as_published(found, list(accuracies)), ""]
        for picture, caption in values["pictures"].items():
            lines += [
                f"![{markdown_text(values['title'])}]({folder}/{ANALYSIS}/{picture})",
                "",
                markdown_text(caption),
                "",
            ]
    command = found["record"].get("command", "")
    return [*lines, "### Reproduce it", "", f"    {command}", f"    python docs/analysis_results.py {folder}", ""]


def _as_published(found: dict[str, Any], names: list[str]) -> str:
    """Whether attention behaves as in the trained vision transformers of Raghu et al. (2021)."""
    low, _, high = by_third(found, DISTANCE, "mean", names).values()
    grows = [name for name in low if high[name] > GROWS * low[name]]
    nearest, farthest = (by_third(found, DISTANCE, head, names) for head in ("nearest head", "farthest head"))
    spread = {
        third: {name: value - nearest[third][name] for name, value in values.items()}
        for third, values in farthest.items()
    }
    mixes = [name for name, value in spread["low"].items() if value > spread["high"][name]]
    return (
        "Of large vision transformers, Raghu et al. report that attention reaches farther with depth, and that low "
        "layers mix heads that look near with heads that look far. From the low to the high third of the layers, the "
        f"distance grows here by more than {100 * (GROWS - 1):.0f} % in {_of(grows, low)}. The heads of the low third "
        f"differ more than those of the high third in {_of(mixes, spread['low'])}: they lie within "
        f"{_mean(spread['low']):.2f} px on average, and those of the high third within {_mean(spread['high']):.2f} px."
    )


def _of(some: Collection[str], of: Collection[str]) -> str:
    which = f" ({markdown_text('; '.join(some))})" if 0 < len(some) <= MOST_NAMED and len(some) < len(of) else ""
    return f"{len(some) or 'none'} of {len(of)} networks{which}"


def _mean(values: Mapping[str, float]) -> float:
    return statistics.fmean(values.values())


def _interval(values: dict[str, float | None] | None) -> Interval | None:
    """An interval as ``results.json`` has it: None for what is not known."""
    if values is None:
        return None
    return Interval(**{part: math.nan if value is None else value for part, value in values.items()})


if __name__ == "__main__":
    main()
