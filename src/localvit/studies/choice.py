"""Chooses the value of a swept field for each group of variants, by accuracy on validation images."""

import statistics
from collections.abc import Mapping, Sequence

from localvit.studies.config import StudyConfig, StudyRun
from localvit.studies.record import Outcome, StudyError, StudyRecord, SweepOutcome, known_outcomes, same_study

Sweeps = Mapping[str, Mapping[float, Sequence[StudyRun]]]


def runs_of(sweep: Sweeps) -> list[StudyRun]:
    """All runs of a sweep, after those that they start from."""
    runs = [run for values in sweep.values() for of_value in values.values() for run in of_value]
    return [*dict.fromkeys(run.after for run in runs if run.after is not None), *runs]


def with_choices(study: StudyConfig, sweep: Sequence[SweepOutcome]) -> StudyConfig:
    """A study with the values that its sweep chose."""
    return study.with_choices({found.group: found.value for found in sweep if found.chosen})


def earlier_choice(study: StudyConfig, before: StudyRecord | None) -> tuple[SweepOutcome, ...]:
    """What the sweep found according to an earlier record; nothing if that is of another study or sweep."""
    if before is None or not before.sweep or before.config.sweep != study.sweep:
        return ()
    return before.sweep if same_study(before.config, with_choices(study, before.sweep)) else ()


def earlier_sweep_runs(study: StudyConfig, before: StudyRecord | None) -> tuple[Outcome, ...]:
    """The outcomes of a sweep's runs in an earlier record; none if its plan was another."""
    return before.sweep_runs if before is not None and before.plan == study.plan_hash() else ()


def choose(runs: Sweeps, earlier: Sequence[Outcome] = ()) -> tuple[SweepOutcome, ...]:
    """The outcome of every group and value; the best mean of each group is chosen, the smallest value among equals.

    A value whose run failed, such as by divergence, is never chosen.

    Args:
        runs: of the sweep, by group and value, one per seed.
        earlier: outcomes from a record of the same sweep, for runs whose folder is gone.

    Returns:
        All outcomes, or none at all while runs are missing.

    Raises:
        StudyError: if no value of a group has finished on every seed.
    """
    found: list[SweepOutcome] = []
    for group, values in runs.items():
        outcomes = {value: known_outcomes(of_value, earlier) for value, of_value in values.items()}
        if any(outcome.status == "missing" for of_value in outcomes.values() for outcome in of_value):
            return ()
        accuracies = {
            value: tuple(outcome.result.accuracy for outcome in of_value if outcome.result is not None)
            for value, of_value in outcomes.items()
        }
        complete = {
            value: of_value for value, of_value in accuracies.items() if len(of_value) == len(runs[group][value])
        }
        if not complete:
            raise StudyError(f"no value of the sweep has finished for {group}; see the errors above")
        best = max(sorted(complete), key=lambda value: statistics.fmean(complete[value]))
        found += [SweepOutcome(group, value, of_value, value == best) for value, of_value in accuracies.items()]
    return tuple(found)
