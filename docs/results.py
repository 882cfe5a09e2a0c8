"""Keep the results of studies, and write the page that answers the paper's questions from them.

    python docs/results.py runs/rq1_depthwise-digits runs/rq1_depthwise-cifar10 ...

Each folder's record, tables and chart of effects go to ``docs/results/<study>-<scale>``, and one report for all studies
of a scale to ``docs/results/<scale>``. Without arguments it draws and writes all anew from the records kept there.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from localvit.benchmark.look import markdown_text
from localvit.studies.record import RECORD, StudyRecord
from localvit.studies.reporting.report import write_report
from localvit.studies.reporting.tables import interval_text
from localvit.studies.reporting.wording import agreement_text, agreement_word, answer, limit_text
from localvit.studies.statistics.findings import ClaimSummary, StudySummary
from localvit.studies.statistics.summary import summarize
from localvit.system.files import write_text
from localvit.training.config import RunConfig

sys.path.insert(0, str(Path(__file__).parent))
from screenshot import save_charts  # a script beside this one

RESULTS = Path(__file__).parent / "results"
ROOT = "ROOT"  # stands for the folder of the images
PICTURES = {"curves": "own-chart"}  # by the chart of a study; the others show their effects
QUESTIONS = {
    "rq1_depthwise": "RQ1",
    "rq1_trained": "RQ1, trained to the end",
    "equal_time": "RQ1, equal time",
    "rq2a_activation": "RQ2, activation",
    "rq2b_placement": "RQ2, placement",
    "rq2c_expansion": "RQ2, expansion ratio",
    "rq3_architectures": "RQ3",
    "curve_images": "curve, images",
    "curve_steps": "curve, steps",
    "curve_resolution": "curve, resolution",
    "pretrained": "beyond the paper",
    "kernel_size": "beyond the paper",
}
# The paper's findings, as the claims of the studies name them, and the study that decides each.
FINDINGS = {
    "depth-wise helps": "rq1_trained",
    "h-swish over ReLU6": "rq2a_activation",
    "channel attention adds": "rq2a_activation",
    "a wider SE adds": "rq2a_activation",
    "low layers matter most": "rq2b_placement",
    "grows with gamma": "rq2c_expansion",
    "each of five architectures gains": "rq3_architectures",
    "little cost": "equal_time",
}
LONGER_TRAINING = ("curve_steps", "rq1_trained")
REMARK = """Low, middle and high are thirds of the layers. The class token bypasses the network, so that of the last
layer changes no logit ([why](../localize.md)): of the high layers, one has no part in the comparison. The report of the
study shows low and middle side by side."""
BASELINE = "DeiT"
HEAD = """# What the studies found

Written by `python docs/results.py` from the records in this folder. Intervals cover new seeds and new test images, and
hold for all claims and looks of a study together, at 95 %; *equal* means that the whole interval lies within the margin
that the study stated in advance. See [docs/studies.md](../studies.md) for the method.

The scales are small: they show what locality does to small transformers that learn from few images, not what it does on
ImageNet-1k. The same files run at the paper's scale (`--scale imagenet`).
"""


def keep(folders: Iterable[Path]) -> None:
    """Copy the records of studies."""
    for folder in folders:
        StudyRecord.load(folder).save(RESULTS / folder.resolve().name)


def found() -> list[StudySummary]:
    """What the studies kept here found, in the order of the questions."""
    summaries = [summarize(_public(StudyRecord.load(path.parent))) for path in RESULTS.glob(f"*/{RECORD}")]
    order = list(QUESTIONS)
    return sorted(summaries, key=lambda summary: (order.index(summary.config.name), summary.config.scale))


def main() -> None:
    """Keep the folders given, draw their charts (those of all studies for none), and write the page anew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*")
    folders: list[Path] = parser.parse_args().folders
    keep(folders)
    summaries = found()
    given = {folder.resolve().name for folder in folders}
    drawn = [summary for summary in summaries if not given or _folder(summary) in given]
    for summary in drawn:
        summary.record.save(RESULTS / _folder(summary))
        report = write_report([summary], RESULTS / _folder(summary))  # the HTML is not committed
        (picture,) = save_charts(report, RESULTS / _folder(summary), [_picture(summary)])
        picture.rename(RESULTS / _folder(summary) / f"{_picture(summary)}.svg")
    for scale in _scales(drawn):
        write_report([summary for summary in summaries if summary.config.scale == scale], RESULTS / scale)
    write_text(RESULTS / "README.md", page(summaries))


def page(summaries: list[StudySummary]) -> str:
    """The page as Markdown."""
    scales = _scales(summaries)
    links = ", ".join(f"[{scale}]({scale}/report.md)" for scale in scales)
    lines = [HEAD, *(f"- {scale}: {_in_words([s for s in summaries if s.config.scale == scale])}" for scale in scales)]
    lines += [
        "",
        f"One report covers all studies of a scale: {links}. `localvit report docs/results/*-digits --output FOLDER`",
        "writes it with interactive charts.",
        "",
        "## The paper's findings",
        "",
        "| finding | this project | effect, points | seeds | scale | command |",
        "|---|---|---|--:|---|---|",
    ]
    lines += [row for finding, study in FINDINGS.items() for row in _finding_rows(finding, study, summaries)]
    lines += ["", REMARK, *_longer_training(summaries)]
    lines += ["", "## The studies", ""]
    lines += ["| question | scale | what came out | the paper | all claims | command |", "|---|---|---|---|---|---|"]
    lines += [_row(summary) for summary in summaries]
    for summary in summaries:
        title = f"{QUESTIONS[summary.config.name]}, {summary.config.scale}"
        lines += ["", f"### {title}", "", f"![{title}]({_folder(summary)}/{_picture(summary)}.svg)"]
    return "\n".join(lines) + "\n"


def _longer_training(summaries: list[StudySummary]) -> list[str]:
    """What the baseline of RQ3 reaches in the longer training of RQ1, at the scales that have both."""
    lines: list[str] = []
    for scale in _scales(summaries):
        of_scale = {summary.config.name: summary for summary in summaries if summary.config.scale == scale}
        studies = [of_scale[name] for name in ("rq3_architectures", "rq1_depthwise") if name in of_scale]
        reached = [found for studied in studies if (found := studied.variant(BASELINE).accuracy) is not None]
        if len(reached) == 2:
            epochs = [studied.config.configs[BASELINE].training.epochs for studied in studies]
            short, long = (f"{found.mean:.2f} % after {count}" for found, count in zip(reached, epochs, strict=True))
            lines += [
                "",
                f"At the {scale} scale, {BASELINE} reaches {short} epochs (RQ3) and {long} (RQ1), so a part of a",
                "gain in RQ3 may be faster learning. Two studies ask how much. In points, they found:",
                "",
                *(f"- `{name}`: {_claims_of(of_scale[name])}" for name in LONGER_TRAINING if name in of_scale),
            ]
    return lines


def _claims_of(summary: StudySummary) -> str:
    """What a study found about each of its claims."""
    return "; ".join(
        f"{markdown_text(str(claim.claim))}: {interval_text(part.difference, sign=True)}"
        for claim in summary.claims
        for part in claim.parts
    )


def _scales(summaries: list[StudySummary]) -> list[str]:
    return sorted({summary.config.scale for summary in summaries}, reverse=True)


def _folder(summary: StudySummary) -> str:
    return f"{summary.config.name}-{summary.config.scale}"


def _picture(summary: StudySummary) -> str:
    return PICTURES.get(summary.config.chart, "effects")


def _in_words(studies: list[StudySummary]) -> str:
    """Images and model of a scale, and for how long its studies train."""
    recipe = next(study.config.recipe for study in studies if study.config.start is None)
    learned = f"{100 * (1 - (recipe.data.held_out or 0)):.0f} % of the images"
    if recipe.data.train_images is not None:
        learned = _usual(studies, lambda config: config.data.train_images or 0, "{:,} images")
    size = _usual(studies, lambda config: config.input.image_size[0], "{0} x {0} pixels")
    epochs = _usual(studies, lambda config: config.training.total_epochs, "{} epochs")
    body = recipe.model.arguments
    return (
        f"{learned} of {size} to learn from, {epochs}; DeiT's body with {body['depth']} layers of {body['embed_dim']} "
        "channels"
    )


def _usual(studies: list[StudySummary], value: Callable[[RunConfig], int], text: str) -> str:
    """What most studies have, and in brackets the studies that have something else."""
    titles: dict[str, list[str]] = {}
    for study in studies:
        values = {value(config) for name, config in study.config.configs.items() if name not in study.config.landmarks}
        least, most = text.format(min(values)), text.format(max(values))
        number = least.rsplit(maxsplit=1)[0]
        span = least if least == most else f"{number} to {most}"
        titles.setdefault(span, []).append(QUESTIONS[study.config.name])
    usual = max(titles, key=lambda span: len(titles[span]))
    others = [f"{span} in {' and '.join(names)}" for span, names in titles.items() if span != usual]
    return f"{usual} ({'; '.join(others)})" if others else usual


def _finding_rows(finding: str, study: str, summaries: list[StudySummary]) -> list[str]:
    """A row for every claim that the deciding study has about a finding, on photographs if it was run there."""
    of_study = sorted((s for s in summaries if s.config.name == study), key=lambda s: s.config.scale != "cifar10")
    if not of_study:
        return [f"| {finding} | not run yet | | | | `localvit study {study} --scale cifar10` |"]
    summary = of_study[0]
    claims = [claim for claim in summary.claims if claim.claim.finding == finding]
    rows = [[finding, *_claim_cells(claim)] for claim in claims]
    if finding == "little cost":
        for price in summary.prices:
            ratios = ", ".join(f"{limit_text(name)} {ratio:.3f} times" for name, ratio in price.ratios.items())
            rows.append([finding, f"**{price.agreement}**", f"{price.price.of}: {ratios} {price.price.than}'s", ""])
    return [f"| {' | '.join([*row, summary.config.scale, f'`{summary.record.command}`'])} |" for row in rows]


def _claim_cells(claim: ClaimSummary) -> list[str]:
    verdict = agreement_text(claim.agreement, [part.margin for part in claim.parts])
    effects = [
        f"{markdown_text(part.contrast.name)}: {interval_text(part.difference, sign=True)}" for part in claim.parts
    ]
    seeds = max((part.seeds for part in claim.parts), default=0)
    return [f"**{verdict}**", "<br>".join(effects), str(claim.look or seeds)]


def _row(summary: StudySummary) -> str:
    config, folder = summary.config, _folder(summary)
    finished = min(len(one.accuracies) for one in summary.variants if one.name not in config.landmarks)
    cells = [
        f"**{QUESTIONS[config.name]}**: {markdown_text(config.question)}",
        f"[{config.scale}]({folder}/report.md), {summary.stopped_at or finished} seeds",
        " ".join(markdown_text(sentence) for sentence in answer(summary)),
        markdown_text(config.paper_finding) or "–",
        f"**{agreement_word(summary)}**",
        f"`{summary.record.command}`",
    ]
    return f"| {' | '.join(cells)} |"


def _public(record: StudyRecord) -> StudyRecord:
    """A record without the paths of the machine that made it."""
    config = record.config
    if config.recipe.data.root is not None:
        data = replace(config.recipe.data, root=ROOT)
        config = replace(config, recipe=replace(config.recipe, data=data))
    return replace(record, config=config, command=_command(record.command))


def _command(command: str) -> str:
    """The command that was run, with the study by name and without the paths of one machine."""
    words = shlex.split(command)
    kept = [re.sub(r"^.*studies/(\w+)\.yaml$", r"\1", word) for word in words]
    for option in ("--output", "--jobs"):
        while option in kept:
            place = kept.index(option)
            del kept[place : place + 2]
    if "--recipe.data.root" in kept:
        kept[kept.index("--recipe.data.root") + 1] = ROOT
    return shlex.join(kept)


if __name__ == "__main__":
    main()
