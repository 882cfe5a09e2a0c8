"""Findings of several seeds as estimates with intervals, by layer and over all layers.

Shape suffixes: S seeds.
"""

from collections.abc import Sequence

import numpy as np

from localvit.analysis.analysis import Analysis, Finding, State
from localvit.analysis.measures.robustness import CLEAN, Robustness
from localvit.analysis.table import MEASURES
from localvit.studies.statistics.contrast import Interval, estimate

Values = Sequence[float | None]


def over_seeds(values: Values) -> Interval | None:
    """Mean and 95 % interval over seeds (Student's t); without bounds for one seed, None if a value is not known."""
    known_S = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(values) or len(known_S) < len(values) or not np.isfinite(known_S).all():
        return None
    return estimate(known_S[None], [1.0], None, None).interval()


def headline_series(measure: str, findings: Sequence[Finding]) -> str:
    """The series that stands for a measure; without labels, robustness knows predictions only."""
    name = MEASURES[measure].headline
    known = all(name in one.result.series() for one in findings if one.result is not None)
    return name if known else "predictions kept"


def by_layer(
    analysis: Analysis, measure: str, series: str, name: str, state: State = "trained"
) -> list[Interval | None]:
    """A series of one model, layer by layer, over its seeds."""
    found = [one.result.series().get(series, ()) for one in analysis.of(measure, name, state) if one.result is not None]
    return [over_seeds(values) for values in zip(*found, strict=True)]


def overall(finding: Finding, series: str) -> float | None:
    """Mean of a series over the layers that have a value; of robustness, over all conditions but the unchanged one."""
    if finding.result is None:
        return None
    values = list(finding.result.series().get(series, ()))
    if isinstance(finding.result, Robustness):
        values = [v for v, condition in zip(values, finding.result.conditions, strict=True) if condition != CLEAN]
    known = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(known)) if known else None


def headline(analysis: Analysis, measure: str, name: str, state: State = "trained") -> Interval | None:
    """The headline of a measure for one model: its mean over layers, over seeds."""
    return over_seeds([*_by_seed(analysis, measure, name, state).values()])


def difference(analysis: Analysis, measure: str, name: str, reference: str) -> Interval | None:
    """Headline of one model minus that of another, paired by seed; None without a seed that both have."""
    ours, theirs = (_by_seed(analysis, measure, model) for model in (name, reference))
    pairs = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
    return over_seeds([None if a is None or b is None else a - b for a, b in pairs])


def _by_seed(analysis: Analysis, measure: str, name: str, state: State = "trained") -> dict[int | None, float | None]:
    found = analysis.of(measure, name, state)
    series = headline_series(measure, found)
    return {one.seed: overall(one, series) for one in found}
