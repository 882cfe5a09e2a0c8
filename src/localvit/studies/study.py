"""From the configuration of a study to its report. Whatever interrupts it, finished runs are kept."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from localvit.data.sources import open_parts
from localvit.studies.choice import choose
from localvit.studies.config import StudyConfig, StudyRun
from localvit.studies.record import (
    RECORD,
    Costs,
    Look,
    StudyError,
    StudyRecord,
    SweepOutcome,
    code_version,
    known_outcomes,
    merge,
    outcome_of,
    recorded_outcomes,
    same_study,
)
from localvit.studies.reporting.inside import AnalysisFound, read_analysis
from localvit.studies.reporting.report import write_report
from localvit.studies.reporting.terminal import StudyProgress, claims_table, results_table
from localvit.studies.running.costs import count, measure, what_costs
from localvit.studies.running.runner import Backend, shard, train_runs
from localvit.studies.statistics.findings import StudySummary
from localvit.studies.statistics.summary import pooled_sd, summarize
from localvit.system.machine import describe
from localvit.training.record import command_line

RUNS = "runs"
_ALONE = (1, 1)


def study_folder(study: StudyConfig, output: Path) -> Path:
    """The folder of a study's report, next to the runs that it shares with other studies."""
    return output / f"{study.name}-{study.scale}"


def run_study(
    study: StudyConfig,
    output: Path,
    *,
    backend: Callable[[], Backend],
    console: Console,
    part: tuple[int, int] = _ALONE,
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
        session = _Session(study, output, console, part)
        costs = session.counted()
        if not session.choose(backend):
            console.print("The sweep is not complete: run the same command again when all shards are done.")
            return summarize(session.save(costs))
        summary = session.train_look_by_look(backend, costs)
        if part != _ALONE:
            console.print(f"When all shards are done: localvit report {folder}", soft_wrap=True, highlight=False)
            return summary
        if measured and not summary.missing and any(cost.training_images_per_second is None for cost in costs.values()):
            with console.status("Measuring speed and memory of the variants side by side"):
                costs = measure(session.study.configs, session.num_classes, threads=threads)
            summary = summarize(session.save(costs))
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


class _Session:
    """One call of a command that works on a study.

    Args:
        study: as planned.
        output: the folder of all studies.
        console: for progress.
        part: see :func:`run_study`.

    Attributes:
        study: the study, with the choices of its sweep once they are made.
    """

    def __init__(self, study: StudyConfig, output: Path, console: Console, part: tuple[int, int]) -> None:
        self.study, self.console, self.part = study, console, part
        self.plan = study.plan_hash()
        self.runs_folder, self.folder = output / RUNS, study_folder(study, output)
        self.before = StudyRecord.load(self.folder) if (self.folder / RECORD).exists() else None
        same_plan = self.before is not None and self.before.plan == self.plan
        self.looks: tuple[Look, ...] = self.before.looks if self.before is not None and same_plan else ()
        self.sweep: tuple[SweepOutcome, ...] = ()
        first = next(iter(study.configs.values()))
        # Opens the images, so that a missing folder is an error before anything is trained.
        self.num_classes = len(open_parts(first.data, channels=first.input.channels).train.class_names)

    def counted(self) -> dict[str, Costs]:
        """The costs of all variants: those that an earlier call has measured, the others counted."""
        costs = {name: count(config, self.num_classes) for name, config in self.study.configs.items()}
        if self.before is None:
            return costs
        earlier = self.before.config.configs
        return costs | {
            name: self.before.costs[name]
            for name, config in self.study.configs.items()
            if name in self.before.costs and name in earlier and what_costs(earlier[name]) == what_costs(config)
        }

    def choose(self, backend: Callable[[], Backend]) -> bool:
        """Run the sweep and take its choices. Returns whether the study may go on."""
        if self.study.sweep is None:
            return True
        self.sweep = self._earlier_sweep()
        if not self.sweep:
            runs = self.study.sweep_runs(self.runs_folder)
            self._train([run for values in runs.values() for of_value in values.values() for run in of_value], backend)
            self.sweep = choose(runs)
        if not self.sweep:
            return False
        axis = self.study.sweep.axis
        self.study = self._chosen(self.sweep)
        for found in self.sweep:
            if found.chosen:
                self.console.print(f"{found.group}: {axis} {found.value:g}", highlight=False)
        return True

    def train_look_by_look(self, backend: Callable[[], Backend], costs: Mapping[str, Costs]) -> StudySummary:
        """Train the seeds of one look after the other until every claim is decided."""
        summary = summarize(self.save(costs))
        recorded = recorded_outcomes(self.study, self.before)
        finished = {key for key, outcome in recorded.items() if outcome.status == "finished"}
        for look in self.study.all_looks:
            seeds = {*self.study.seeds[:look]}
            self._train([run for run in self.study.runs(self.runs_folder) if run.seed in seeds], backend, finished)
            summary = summarize(self.save(costs))
            if self.part != _ALONE and any(run.seed in seeds for run in summary.missing):
                break  # other shards are still busy with this look
            if all(known.seeds != look for known in self.looks):
                agreements = {str(claim.claim): claim.agreement for claim in summary.claims}
                self.looks += (Look(look, datetime.now(UTC).isoformat(timespec="seconds"), agreements),)
                summary = summarize(self.save(costs))
            if summary.stopped_at is not None and summary.stopped_at <= look:
                break
        return summary

    def save(self, costs: Mapping[str, Costs]) -> StudyRecord:
        """Write the record of everything known so far."""
        record = StudyRecord(
            self.study,
            known_outcomes(self.study, self.runs_folder, self.before),
            dict(costs),
            command_line(),
            describe(),
            code_version(),
            self.plan,
            self.sweep,
            self.looks,
        )
        record.save(self.folder)
        return record

    def _chosen(self, sweep: Sequence[SweepOutcome]) -> StudyConfig:
        return self.study.with_choices({found.group: found.value for found in sweep if found.chosen})

    def _earlier_sweep(self) -> tuple[SweepOutcome, ...]:
        """What the sweep found according to the record; nothing if that is of another study or sweep."""
        before = self.before
        if before is None or not before.sweep or before.config.sweep != self.study.sweep:
            return ()
        return before.sweep if same_study(before.config, self._chosen(before.sweep)) else ()

    def _train(
        self,
        runs: Sequence[StudyRun],
        backend: Callable[[], Backend],
        recorded: Set[tuple[str | None, int]] = frozenset(),
    ) -> None:
        mine = shard(runs, *self.part)
        left = [run for run in mine if outcome_of(run).status != "finished" and (run.variant, run.seed) not in recorded]
        finished = len(mine) - len(left)
        if finished:
            self.console.print(f"{finished} of {len(mine)} runs were finished before")
        if left:
            with StudyProgress(self.console, left, finished=finished) as progress, backend() as workers:
                train_runs(left, workers, progress)


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
    return dataclasses.replace(record, outcomes=known_outcomes(record.config, folder.parent / RUNS, record))


@contextlib.contextmanager
def _only_process_in(folder: Path, part: tuple[int, int]) -> Iterator[None]:
    """Let only one process work on a study, or on each of its shards."""
    folder.mkdir(parents=True, exist_ok=True)
    name = ".lock" if part == _ALONE else f".lock-{part[0]}-of-{part[1]}"
    try:
        with FileLock(folder / name, timeout=0):
            yield
    except Timeout as error:
        raise StudyError(
            f"another process is running a study in {folder}; wait for it, or choose another --output"
        ) from error
