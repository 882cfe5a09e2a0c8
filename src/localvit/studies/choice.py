"""Chooses the value of a swept field for each group of variants, by accuracy on validation images."""

import statistics
from collections.abc import Mapping, Sequence

from localvit.studies.config import StudyRun
from localvit.studies.record import StudyError, SweepOutcome, outcome_of


def choose(runs: Mapping[str, Mapping[float, Sequence[StudyRun]]]) -> tuple[SweepOutcome, ...]:
    """The outcome of every group and value; the best mean of each group is chosen, the smallest value among equals.

    A value whose run failed, such as by divergence, is never chosen.

    Args:
        runs: of the sweep, by group and value, one per seed.

    Returns:
        All outcomes, or none at all while runs are missing.

    Raises:
        StudyError: if no value of a group has finished on every seed.
    """
    found: list[SweepOutcome] = []
    for group, values in runs.items():
        outcomes = {value: [outcome_of(run) for run in of_value] for value, of_value in values.items()}
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
