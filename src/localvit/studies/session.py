"""One call of a command that works on a study: what earlier calls left, the sweep, and look after look."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from rich.console import Console

from localvit.data.sources import open_parts
from localvit.studies.choice import choose, earlier_choice, earlier_sweep_runs, runs_of, with_choices
from localvit.studies.config import StudyConfig, StudyRun
from localvit.studies.record import (
    RECORD,
    Costs,
    Look,
    Outcome,
    StudyRecord,
    SweepOutcome,
    code_version,
    earlier_outcomes,
    known_outcomes,
)
from localvit.studies.reporting.terminal import StudyProgress
from localvit.studies.running.costs import count, what_costs
from localvit.studies.running.runner import Backend, shard, train_runs
from localvit.studies.statistics.findings import StudySummary
from localvit.studies.statistics.summary import summarize
from localvit.system.machine import describe
from localvit.training.record import command_line

RUNS = "runs"
ALONE = (1, 1)


def study_folder(study: StudyConfig, output: Path) -> Path:
    """The folder of a study's report, next to the runs that it shares with other studies."""
    return output / f"{study.name}-{study.scale}"


def standing(study: StudyConfig, output: Path) -> list[tuple[StudyRun, Outcome]]:
    """Everything that a study trains, and what earlier calls left of it.

    Args:
        study: as planned.
        output: the folder of all studies.

    Returns:
        The runs of the sweep, unless it has chosen, and those of the study, with its choices.
    """
    folder, runs_folder = study_folder(study, output), output / RUNS
    before = _record_in(folder)
    sweep = earlier_choice(study, before)
    trained: list[tuple[StudyRun, Outcome]] = []
    if sweep:
        study = with_choices(study, sweep)
    else:
        runs = runs_of(study.sweep_runs(runs_folder))
        trained += zip(runs, known_outcomes(runs, earlier_sweep_runs(study, before)), strict=True)
    runs = study.runs(runs_folder)
    return [*trained, *zip(runs, known_outcomes(runs, earlier_outcomes(study, before)), strict=True)]


def _record_in(folder: Path) -> StudyRecord | None:
    """What earlier calls have recorded; None if there were none."""
    return StudyRecord.load(folder) if (folder / RECORD).exists() else None


class Session:
    """One call of a command that works on a study.

    As a context manager, it ends what its runs are trained on: opened for the first run, and kept from the sweep to the
    last look, because processes take seconds to start.

    Args:
        study: as planned.
        output: the folder of all studies.
        backend: opens what runs are trained on.
        console: for progress.
        part: see :func:`run_study`.

    Attributes:
        study: the study, with the choices of its sweep once they are made.
        costs: of the variants, as far as they are known.
    """

    def __init__(
        self,
        study: StudyConfig,
        output: Path,
        *,
        backend: Callable[[], Backend],
        console: Console,
        part: tuple[int, int],
    ) -> None:
        self.study, self.console, self.part = study, console, part
        self._open, self._opened = backend, contextlib.ExitStack()
        self._backend: Backend | None = None
        self.plan = study.plan_hash()
        self.runs_folder, self.folder = output / RUNS, study_folder(study, output)
        self.before = _record_in(self.folder)
        same_plan = self.before is not None and self.before.plan == self.plan
        self.looks: tuple[Look, ...] = self.before.looks if self.before is not None and same_plan else ()
        self.sweep: tuple[SweepOutcome, ...] = ()
        self.sweep_runs: tuple[Outcome, ...] = ()
        self.outcomes: tuple[Outcome, ...] = ()
        first = next(iter(study.configs.values()))
        # Opens the images, so that a missing folder is an error before anything is trained.
        self.num_classes = len(open_parts(first.data, channels=first.input.channels).train.class_names)
        self.costs = self._counted()
        self.made_by = command_line(), describe(), code_version()  # that of the start: the code that is loaded

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()
        self._backend = None

    @property
    def measured(self) -> bool:
        """Whether the speed of all variants is known."""
        return all(costs.training_images_per_second is not None for costs in self.costs.values())

    def choose(self) -> bool:
        """Run the sweep and take its choices. Returns whether the study may go on."""
        if self.study.sweep is None:
            return True
        self.sweep = earlier_choice(self.study, self.before)
        if not self.sweep:
            sweep = self.study.sweep_runs(self.runs_folder)
            runs, self.sweep_runs = runs_of(sweep), earlier_sweep_runs(self.study, self.before)
            self._train(runs, self.sweep_runs, lambda: self._save_sweep(runs))
            self.sweep = choose(sweep, self.sweep_runs)
        if not self.sweep:
            return False
        self.sweep_runs = ()
        axis = self.study.sweep.axis
        self.study = with_choices(self.study, self.sweep)
        for found in self.sweep:
            if found.chosen:
                self.console.print(f"{found.group}: {axis} {found.value:g}", highlight=False)
        return True

    def train_look_by_look(self) -> StudySummary:
        """Train the seeds of one look after the other until every claim is decided."""
        self.outcomes = earlier_outcomes(self.study, self.before)
        summary = summarize(self.save())
        for look in self.study.all_looks:
            seeds = {*self.study.seeds[:look]}
            runs = [run for run in self.study.runs(self.runs_folder) if run.seed in seeds]
            self._train(runs, self.outcomes, self.save)
            summary = summarize(self.save())
            if self.part != ALONE and any(run.seed in seeds for run in summary.missing):
                break  # other shards are still busy with this look
            if all(known.seeds != look for known in self.looks):
                agreements = {str(claim.claim): claim.agreement for claim in summary.claims}
                self.looks += (Look(look, datetime.now(UTC).isoformat(timespec="seconds"), agreements),)
                summary = summarize(self.save())
            if summary.stopped_at is not None and summary.stopped_at <= look:
                break
        return summary

    def save(self) -> StudyRecord:
        """Write the record of everything known so far."""
        self.outcomes = known_outcomes(self.study.runs(self.runs_folder), self.outcomes)
        record = StudyRecord(
            self.study,
            self.outcomes,
            dict(self.costs),
            *self.made_by,
            self.plan,
            self.sweep,
            self.looks,
            self.sweep_runs,
        )
        record.save(self.folder)
        return record

    def _save_sweep(self, runs: Sequence[StudyRun]) -> None:
        """Write what the sweep knows so far, unless the record there is of a plan that the choices may bring back."""
        self.sweep_runs = known_outcomes(runs, self.sweep_runs)
        if self.before is None or self.before.plan == self.plan:
            self.save()

    def _counted(self) -> Mapping[str, Costs]:
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

    def _train(self, runs: Sequence[StudyRun], earlier: Sequence[Outcome], save: Callable[[], object]) -> None:
        """Train this shard's share of what no folder and no earlier record has finished. Saves whenever a run ends."""
        mine = shard(runs, *self.part)
        known = known_outcomes(mine, earlier)
        left = [run for run, outcome in zip(mine, known, strict=True) if outcome.status != "finished"]
        finished = len(mine) - len(left)
        if finished:
            self.console.print(f"{finished} of {len(mine)} runs were finished before")
        if left:
            with _RecordedProgress(self.console, left, finished, save) as progress:
                self._backend = self._backend or self._opened.enter_context(self._open())
                train_runs(left, self._backend, progress)


class _RecordedProgress(StudyProgress):
    """Progress that writes the record whenever a run ends, so that the record alone loses at most what is running."""

    def __init__(self, console: Console, runs: Sequence[StudyRun], finished: int, save: Callable[[], object]) -> None:
        super().__init__(console, runs, finished=finished)
        self.save = save

    def ended(self, run: StudyRun, outcome: Outcome) -> None:
        super().ended(run, outcome)
        self.save()
