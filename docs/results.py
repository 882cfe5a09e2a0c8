"""Keep the results of studies, and write the page that answers the paper's questions from them.

    python docs/results.py runs/rq1_depthwise-digits runs/rq1_depthwise-cifar10 ...

Each folder's record, tables and chart of gains go to ``docs/results/<study>-<scale>``, and one report for all studies
of a scale to ``docs/results/<scale>``. Without arguments it rewrites the page from the records kept there.
"""

import argparse
import re
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from localvit.benchmark.look import markdown_text
from localvit.studies.record import RECORD, StudyRecord
from localvit.studies.reporting.report import write_report
from localvit.studies.reporting.statistics import StudySummary, summarize
from localvit.studies.reporting.wording import agreement_word, answer
from localvit.system.files import write_text
from localvit.training import RunConfig

sys.path.insert(0, str(Path(__file__).parent))
from screenshot import save_charts  # a script beside this one

RESULTS = Path(__file__).parent / "results"
TABLES = (RECORD, "report.md", "results.csv", "results.json")
PICTURE = "gains.svg"
QUESTIONS = {
    "rq1_depthwise": "RQ1",
    "rq2a_activation": "RQ2, activation",
    "rq2b_placement": "RQ2, placement",
    "rq2c_expansion": "RQ2, expansion ratio",
    "rq3_architectures": "RQ3",
    "pretrained": "beyond the paper",
    "kernel_size": "beyond the paper",
}
HEAD = """# What the studies found

Written by `python docs/results.py` from the records in this folder. *p* is Holm-corrected over all comparisons of a
study; intervals are Student's t over seeds; *no evidence at this size* does not mean equal. See
[docs/studies.md](../studies.md) for the method.

The scales are small, for want of hardware, and far from converged on photographs. They show what locality does to small
transformers that learn from few images, not what it does on ImageNet-1k. The same files run at the paper's scale
(`--scale imagenet`).
"""


def keep(folders: Iterable[Path]) -> None:
    """Copy records and tables of studies."""
    for folder in folders:
        to = RESULTS / folder.resolve().name
        to.mkdir(parents=True, exist_ok=True)
        for name in TABLES:
            shutil.copyfile(folder / name, to / name)


def found() -> list[StudySummary]:
    """What the studies kept here found, in the order of the questions."""
    summaries = [summarize(StudyRecord.load(path.parent)) for path in RESULTS.glob(f"*/{RECORD}")]
    order = list(QUESTIONS)
    return sorted(summaries, key=lambda summary: (order.index(summary.config.name), summary.config.scale))


def main() -> None:
    """Keep the folders given, and write reports and page anew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*")
    keep(parser.parse_args().folders)
    summaries = found()
    for scale in _scales(summaries):
        of_scale = [summary for summary in summaries if summary.config.scale == scale]
        report = write_report(of_scale, RESULTS / scale)  # the HTML is not committed
        for summary in of_scale:
            folder = RESULTS / _folder(summary)
            (picture,) = save_charts(report, folder, [f"{_folder(summary)}-gains"])
            picture.rename(folder / PICTURE)
    write_text(RESULTS / "README.md", page(summaries))


def _scales(summaries: list[StudySummary]) -> list[str]:
    return sorted({summary.config.scale for summary in summaries}, reverse=True)


def page(summaries: list[StudySummary]) -> str:
    """The page as Markdown."""
    lines, scales = [HEAD], _scales(summaries)
    recipes = {summary.config.scale: summary.config.recipe for summary in summaries if summary.config.start is None}
    lines += [f"- {scale}: {_in_words(recipes[scale])}" for scale in scales]
    links = ", ".join(f"[{scale}]({scale}/report.md)" for scale in scales)
    lines += [
        "",
        f"One report covers all studies of a scale: {links}. `localvit report docs/results/*-digits --output FOLDER`",
    ]
    lines += ["writes it with interactive charts.", ""]
    lines += ["| question | scale | what came out | the paper | agreement | command |", "|---|---|---|---|---|---|"]
    lines += [_row(summary) for summary in summaries]
    lines += ["", "## Gains", "", "Differences to the baseline in points of top-1 accuracy, with 95 % intervals."]
    for summary in summaries:
        title = f"{QUESTIONS[summary.config.name]}, {summary.config.scale}"
        lines += ["", f"### {title}", "", f"![{title}]({_folder(summary)}/{PICTURE})"]
    return "\n".join(lines) + "\n"


def _folder(summary: StudySummary) -> str:
    return f"{summary.config.name}-{summary.config.scale}"


def _in_words(recipe: RunConfig) -> str:
    images = "all images" if recipe.data.train_images is None else f"{recipe.data.train_images:,} images"
    size, body = recipe.input.image_size, recipe.model.arguments
    return (
        f"{images} of {size[0]} x {size[1]} pixels to learn from, {recipe.training.total_epochs} epochs; DeiT's body "
        f"with {body['depth']} layers of {body['embed_dim']} channels"
    )


def _row(summary: StudySummary) -> str:
    config, folder = summary.config, _folder(summary)
    cells = [
        f"**{QUESTIONS[config.name]}**: {markdown_text(config.question)}",
        f"[{config.scale}]({folder}/report.md), {len(config.seeds)} seeds",
        " ".join(markdown_text(sentence) for sentence in answer(summary)),
        markdown_text(config.paper_finding) or "–",
        f"**{agreement_word(summary)}**",
        f"`{_command(summary)}`",
    ]
    return f"| {' | '.join(cells)} |"


def _command(summary: StudySummary) -> str:
    """The command that was run, with the study by name and without the paths of one machine."""
    words = shlex.split(summary.record.command)
    kept = [re.sub(r"^.*studies/(\w+)\.yaml$", r"\1", word) for word in words]
    while "--output" in kept:
        place = kept.index("--output")
        del kept[place : place + 2]
    return shlex.join(kept)


if __name__ == "__main__":
    main()
