"""From a study's configuration to its report; whatever stops it, what has finished is kept."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from localvit.data.sources import open_parts
from localvit.studies.config import StudyConfig
from localvit.studies.record import RECORD, Costs, StudyError, StudyRecord, code_version, merge, outcome_of
from localvit.studies.reporting.report import write_report
from localvit.studies.reporting.statistics import StudySummary, summarize
from localvit.studies.reporting.terminal import StudyProgress, results_table
from localvit.studies.running.costs import count, measure
from localvit.studies.running.runner import Backend, shard, train_runs
from localvit.system.machine import describe
from localvit.training.record import command_line

RUNS = "runs"


def study_folder(study: StudyConfig, output: Path) -> Path:
    """The folder of a study's report, beside the runs that it shares with other studies."""
    return output / f"{study.name}-{study.scale}"


def run_study(
    study: StudyConfig,
    output: Path,
    *,
    backend: Callable[[], Backend],
    console: Console,
    part: tuple[int, int] = (1, 1),
    measured: bool = True,
    threads: int | None = None,
) -> StudySummary:
    """Train what is missing, then show and write the results.

    Args:
        study: the study.
        output: the folder of all studies, and of the runs that they share.
        backend: opens what runs are trained on.
        console: for progress and table.
        part: number of a shard, from 1, and how many there are. One of several trains its runs and reports nothing.
        measured: whether speed and memory are measured here, when all runs have ended.
        threads: of the CPU that they are measured with, where runs do not say.

    Returns:
        What is known of the study now.

    Raises:
        ValueError: where a variant's model cannot be built; nothing is trained then.
        StudyError: where another process works on the same; what has finished is kept.
    """
    folder = study_folder(study, output)
    with _only_process_in(folder, part):
        configs, num_classes = study.configs, _num_classes(study)
        costs = {name: count(config, num_classes) for name, config in configs.items()} | _measured(study, folder)
        _save(study, output, costs)
        _train(study, output, backend, console, part)
        summary = summarize(_save(study, output, costs))
        if part != (1, 1):
            console.print(f"When all shards are done: localvit report {folder}", soft_wrap=True, highlight=False)
            return summary
        if measured and not summary.missing and any(cost.training_images_per_second is None for cost in costs.values()):
            with console.status("Measuring speed and memory of the variants side by side"):
                costs = measure(configs, num_classes, threads=threads)
            summary = summarize(_save(study, output, costs))
        _show([summary], folder, console)
        return summary


def report_studies(folders: Sequence[Path], output: Path | None, *, console: Console) -> list[StudySummary]:
    """Write the report of a study anew, or one report for several.

    Args:
        folders: of studies; runs that have finished since are looked for beside them. Those of one study with other
            seeds become one.
        output: folder of the report; the study's own by default, where there is but one.
        console: for the tables.

    Raises:
        StudyError: for a folder without a study, or several without ``output``.
    """
    if output is None and len(folders) > 1:
        raise StudyError("one report for several studies needs a folder of its own; give it with --output")
    summaries = [summarize(record) for record in merge([_refreshed(folder) for folder in folders])]
    folder = output or folders[0]
    if len(summaries) == 1:
        summaries[0].record.save(folder)
    _show(summaries, folder, console)
    return summaries


def _train(
    study: StudyConfig, output: Path, backend: Callable[[], Backend], console: Console, part: tuple[int, int]
) -> None:
    runs = shard(study.runs(output / RUNS), *part)
    finished = sum(outcome_of(run).status == "finished" for run in runs)
    if finished:
        console.print(f"{finished} of {len(runs)} runs were finished before, in {output / RUNS}")
    if finished < len(runs):
        with StudyProgress(console, runs, finished=finished) as progress, backend() as workers:
            train_runs(runs, workers, progress)


def _show(summaries: Sequence[StudySummary], folder: Path, console: Console) -> None:
    page = write_report(summaries, folder)
    for summary in summaries:
        console.print(results_table(summary))
        for outcome in summary.failed:
            console.print(f"[red]failed:[/] {outcome.variant or 'start'}, seed {outcome.seed}: ", end="")
            console.print((outcome.error or "").splitlines()[0], markup=False, highlight=False, soft_wrap=True)
        if summary.missing:
            console.print(f"{len(summary.missing)} runs are still to be trained")
    console.print(f"Report: {page.resolve()}", soft_wrap=True, highlight=False)


def _num_classes(study: StudyConfig) -> int:
    """Of the first variant's images, which also shows that they are there before anything is trained."""
    config = next(iter(study.configs.values()))
    return len(open_parts(config.data, channels=config.input.channels).train.class_names)


def _measured(study: StudyConfig, folder: Path) -> dict[str, Costs]:
    """Costs that an earlier call has measured of variants that are still the same."""
    if not (folder / RECORD).exists():
        return {}
    before = StudyRecord.load(folder)
    configs = before.config.configs
    return {
        name: before.costs[name]
        for name, config in study.configs.items()
        if name in before.costs and configs.get(name) == config
    }


def _save(study: StudyConfig, output: Path, costs: Mapping[str, Costs]) -> StudyRecord:
    outcomes = tuple(outcome_of(run) for run in study.runs(output / RUNS))
    record = StudyRecord(study, outcomes, dict(costs), command_line(), describe(), code_version())
    record.save(study_folder(study, output))
    return record


def _refreshed(folder: Path) -> StudyRecord:
    record = StudyRecord.load(folder)
    now = {(run.variant, run.seed): outcome_of(run) for run in record.config.runs(folder.parent / RUNS)}
    outcomes = tuple(
        outcome if (found := now[outcome.variant, outcome.seed]).status == "missing" else found
        for outcome in record.outcomes
    )
    return dataclasses.replace(record, outcomes=outcomes)


@contextlib.contextmanager
def _only_process_in(folder: Path, part: tuple[int, int]) -> Iterator[None]:
    """One process works on a study, or on each of its shards."""
    folder.mkdir(parents=True, exist_ok=True)
    name = ".lock" if part == (1, 1) else f".lock-{part[0]}-of-{part[1]}"
    try:
        with FileLock(folder / name, timeout=0):
            yield
    except Timeout as error:
        raise StudyError(
            f"another process is running a study in {folder}; wait for it, or choose another --output"
        ) from error
