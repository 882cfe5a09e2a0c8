"""From a study's configuration to its report."""

from pathlib import Path

from rich.console import Console

from localvit.studies.config import StudyConfig
from localvit.studies.report import write_results
from localvit.studies.runner import RunId, finished_runs, train_missing_runs
from localvit.studies.statistics import VariantSummary, summarize
from localvit.studies.terminal import StudyProgress, results_table


def run_study(study: StudyConfig, folder: Path, *, jobs: int, console: Console) -> list[VariantSummary]:
    """Train what is missing, then show and write the results.

    Args:
        study: the study.
        folder: of its runs and results.
        jobs: training processes at a time.
        console: for progress and table.

    Returns:
        A summary of each variant, in the order of the study.

    Raises:
        StudyError: where it cannot go on; what has finished is kept.
    """
    finished = len(finished_runs(study, folder))
    if finished:
        console.print(f"{finished} of {len(study.variants) * len(study.seeds)} runs were finished before, in {folder}")
    with StudyProgress(console, study, finished=finished) as progress:
        train_missing_runs(study, folder, jobs=jobs, on_epoch=progress.on_epoch, on_result=progress.on_result)

    runs = finished_runs(study, folder)
    summaries = summarize(
        study, {variant.name: [runs[RunId(variant.name, seed)] for seed in study.seeds] for variant in study.variants}
    )
    page = write_results(study, summaries, folder)
    console.print(results_table(study, summaries))
    console.print(f"Report: {page.resolve()}", soft_wrap=True, highlight=False)
    return summaries
