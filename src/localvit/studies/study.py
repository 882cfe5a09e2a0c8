"""From the configuration of a study to its report. Whatever interrupts it, finished runs are kept."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from localvit.studies.config import StudyConfig
from localvit.studies.record import RECORD, StudyError, StudyRecord, known_outcomes, merge, same_study
from localvit.studies.reporting.inside import AnalysisFound, read_analysis
from localvit.studies.reporting.report import write_report
from localvit.studies.reporting.terminal import claims_table, results_table
from localvit.studies.running.costs import measure
from localvit.studies.running.runner import Backend
from localvit.studies.session import ALONE, RUNS, Session, study_folder
from localvit.studies.statistics.findings import StudySummary
from localvit.studies.statistics.summary import pooled_sd, summarize


def run_study(
    study: StudyConfig,
    output: Path,
    *,
    backend: Callable[[], Backend],
    console: Console,
    part: tuple[int, int] = ALONE,
    measured: bool = True,
    threads: int | None = None,
) -> StudySummary:
    """Train what is missing, look by look, then show and write the results.

    Args:
        study: the study.
        output: the folder of all studies and of the runs that they share.
        backend: opens what runs are trained on.
        console: for progress and tables.
        part: number of a shard, from 1, and the number of shards. A shard trains its runs and reports nothing.
        measured: whether to measure speed and memory here once all runs have ended.
        threads: CPU threads of the measurement, for runs that do not set their own.

    Returns:
        What the study has found so far.

    Raises:
        ValueError: if the model of a variant cannot be built; nothing is trained then.
        StudyError: if another process works on the same study, or a sweep has no result to choose from.
    """
    folder = study_folder(study, output)
    with _only_process_in(folder, part):
        with Session(study, output, backend=backend, console=console, part=part) as session:
            if not session.choose():
                console.print("The sweep is not complete: run the same command again when all shards are done.")
                return summarize(session.save())
            summary = session.train_look_by_look()
        if part != ALONE:
            console.print(f"When all shards are done: localvit report {folder}", soft_wrap=True, highlight=False)
            return summary
        if measured and not summary.missing and not session.measured:
            with console.status("Measuring speed and memory of the variants side by side"):
                session.costs = measure(session.study.configs, session.num_classes, threads=threads)
            summary = summarize(session.save())
        _show([summary], folder, console, [read_analysis(folder)])
        return summary


def report_studies(folders: Sequence[Path], output: Path | None, *, console: Console) -> list[StudySummary]:
    """Write the report of a study anew, or one report for several studies.

    Args:
        folders: of studies. Runs next to them that have finished since are included, and so is what ``localvit
            analyze --study`` found. Folders of one study with different seeds become one study.
        output: folder of the report. Defaults to the study's own folder, if there is only one.
        console: for the tables.

    Raises:
        StudyError: for a folder without a study, or for several folders without ``output``.
    """
    if output is None and len(folders) > 1:
        raise StudyError("one report for several studies needs a folder of its own; give it with --output")
    records = {folder: _refreshed(folder) for folder in folders}
    summaries = [summarize(record) for record in merge([*records.values()])]
    analyses = [_analysis_of(summary, records) for summary in summaries]
    folder = output or folders[0]
    if len(summaries) == 1:
        summaries[0].record.save(folder)
    _show(summaries, folder, console, analyses)
    return summaries


def _analysis_of(summary: StudySummary, records: Mapping[Path, StudyRecord]) -> AnalysisFound:
    """What an analysis in one of a study's folders found; of several, the first."""
    folders = [folder for folder, record in records.items() if same_study(record.config, summary.config)]
    return next((found for found in map(read_analysis, folders) if found.measures), AnalysisFound())


def spread_so_far(study: StudyConfig, output: Path) -> float:
    """Standard deviation of accuracy between seeds, in points, pooled over the runs of a study so far.

    Raises:
        StudyError: if fewer than two seeds have finished.
    """
    folder = study_folder(study, output)
    spread = pooled_sd(_refreshed(folder)) if (folder / RECORD).exists() else None
    if spread is None:
        raise StudyError(
            f"{folder} has no variant with two seeds yet, so the spread between seeds is not known; give it with --sd"
        )
    return spread


def _show(summaries: Sequence[StudySummary], folder: Path, console: Console, analyses: Sequence[AnalysisFound]) -> None:
    page = write_report(summaries, folder, analyses)
    for summary in summaries:
        console.print(results_table(summary))
        console.print(claims_table(summary))
        for outcome in summary.failed:
            console.print(f"[red]failed:[/] {outcome.variant or 'start'}, seed {outcome.seed}: ", end="")
            console.print((outcome.error or "").splitlines()[0], markup=False, highlight=False, soft_wrap=True)
        if summary.missing:
            console.print(f"{len(summary.missing)} runs are still to be trained")
    console.print(f"Report: {page.resolve()}", soft_wrap=True, highlight=False)


def _refreshed(folder: Path) -> StudyRecord:
    record = StudyRecord.load(folder)
    runs = record.config.runs(folder.parent / RUNS)
    return dataclasses.replace(record, outcomes=known_outcomes(runs, record.outcomes))


@contextlib.contextmanager
def _only_process_in(folder: Path, part: tuple[int, int]) -> Iterator[None]:
    """Let only one process work on a study, or on each of its shards."""
    folder.mkdir(parents=True, exist_ok=True)
    name = ".lock" if part == ALONE else f".lock-{part[0]}-of-{part[1]}"
    try:
        with FileLock(folder / name, timeout=0):
            yield
    except Timeout as error:
        raise StudyError(
            f"another process is running a study in {folder}; wait for it, or choose another --output"
        ) from error
