"""From runs to means, intervals, paired differences and verdicts; the arithmetic is SciPy's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from localvit.studies.config import Claim, StudyConfig
from localvit.studies.record import Costs, Outcome, StudyRecord
from localvit.training.history import Epoch

CONFIDENCE = 0.95
_DECIMALS = 9  # of differences of percentages, beyond which lies the noise of floating point

Verdict = Literal["better", "worse", "no evidence at this size"]
Agreement = Literal["agrees", "differs", "undecided"]


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % confidence interval from Student's t distribution; no bounds (nan) for a single value."""

    mean: float
    low: float
    high: float

    def short_text(self, *, signed: bool = False) -> str:
        """As narrow tables show it: ``93.20 ± 2.20``, half the width of the interval behind the sign."""
        mean = f"{self.mean:{'+' if signed else ''}.2f}"
        return mean if np.isnan(self.low) else f"{mean} ± {self.high - self.mean:.2f}"

    def text(self, *, signed: bool = False) -> str:
        """As tables show it: ``93.20 [91.00, 95.40]``, with signs for differences."""
        sign = "+" if signed else ""
        mean = f"{self.mean:{sign}.2f}"
        return mean if np.isnan(self.low) else f"{mean} [{self.low:{sign}.2f}, {self.high:{sign}.2f}]"


@dataclass(frozen=True)
class Comparison:
    """Two variants, seed by seed, in points of accuracy.

    Attributes:
        variant: the one.
        reference: the other, from which it is measured.
        difference: mean and interval over seeds.
        p_value: of a two-sided paired t-test.
        p_holm: the same after Holm's correction for all comparisons of the study.
        seeds: how many both have finished.
    """

    variant: str
    reference: str
    difference: Interval
    p_value: float
    p_holm: float
    seeds: int

    @property
    def verdict(self) -> Verdict:
        """In words, at a corrected level of 5 %."""
        if self.p_holm >= 1 - CONFIDENCE:
            return "no evidence at this size"
        return "better" if self.difference.mean > 0 else "worse"


@dataclass(frozen=True)
class VariantSummary:
    """What a study found out about one variant.

    Attributes:
        name: of the variant.
        accuracies: percent after the last epoch, of each seed that has finished.
        accuracy: over those seeds; none where there are none.
        gain: over its baseline; none for a baseline, and where fewer than two seeds of both have finished.
        costs: counted and measured; none where they are not known.
        curves: metrics of each epoch, of each seed that has finished.
    """

    name: str
    accuracies: Mapping[int, float]
    accuracy: Interval | None
    gain: Comparison | None
    costs: Costs | None
    curves: Mapping[int, list[Epoch]]


@dataclass(frozen=True)
class ClaimSummary:
    """What a study says of a claim.

    Attributes:
        claim: the claim.
        comparison: of its two variants; none where fewer than two seeds of both have finished.
    """

    claim: Claim
    comparison: Comparison | None

    @property
    def agreement(self) -> Agreement:
        """Whether the study finds what is claimed, its opposite, or cannot tell."""
        verdict = None if self.comparison is None else self.comparison.verdict
        return "agrees" if verdict == "better" else "differs" if verdict == "worse" else "undecided"


@dataclass(frozen=True)
class StudySummary:
    """What a study found out.

    Attributes:
        record: what it is made from.
        variants: in the order of the study.
        claims: in the order of the study.
        failed: runs that failed.
        missing: runs that are still to be trained.
    """

    record: StudyRecord
    variants: tuple[VariantSummary, ...]
    claims: tuple[ClaimSummary, ...]
    failed: tuple[Outcome, ...]
    missing: tuple[Outcome, ...]

    @property
    def config(self) -> StudyConfig:
        """The study."""
        return self.record.config

    @property
    def agreement(self) -> Agreement | None:
        """With all that is claimed: agrees where every claim does, differs where one does; none without claims."""
        found = {claim.agreement for claim in self.claims}
        if not found:
            return None
        return "differs" if "differs" in found else "agrees" if found == {"agrees"} else "undecided"

    def variant(self, name: str) -> VariantSummary:
        """The summary of one variant."""
        return next(variant for variant in self.variants if variant.name == name)


def summarize(record: StudyRecord) -> StudySummary:
    """Means, intervals, paired differences and verdicts from what a study's runs have given so far."""
    config = record.config
    finished = {
        name: {run.seed: run.result for run in record.outcomes if run.variant == name and run.result is not None}
        for name in config.variants
    }
    accuracies = {name: {seed: run.accuracy for seed, run in runs.items()} for name, runs in finished.items()}
    gains = [(name, baseline) for name in config.variants if (baseline := config.baseline_of(name)) is not None]
    comparisons = _compare(accuracies, [*gains, *((claim.better, claim.than) for claim in config.claims)])
    return StudySummary(
        record=record,
        variants=tuple(
            VariantSummary(
                name=name,
                accuracies=accuracies[name],
                accuracy=interval(list(accuracies[name].values())) if accuracies[name] else None,
                gain=comparisons.get((name, config.baseline_of(name) or "")),
                costs=record.costs.get(name),
                curves={seed: run.epochs for seed, run in finished[name].items()},
            )
            for name in config.variants
        ),
        claims=tuple(ClaimSummary(claim, comparisons.get((claim.better, claim.than))) for claim in config.claims),
        failed=tuple(outcome for outcome in record.outcomes if outcome.status == "failed"),
        missing=tuple(outcome for outcome in record.outcomes if outcome.status == "missing"),
    )


def interval(values: list[float]) -> Interval:
    """Mean and 95 % interval of independent measurements."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, np.nan, np.nan)
    error = float(stats.sem(values))
    if error == 0.0:  # the t distribution has no width to scale then, and SciPy answers nan
        return Interval(mean, mean, mean)
    low, high = stats.t.interval(CONFIDENCE, df=len(values) - 1, loc=mean, scale=error)
    return Interval(mean, float(low), float(high))


def paired_p_value(differences: list[float]) -> float:
    """Two-sided p-value of Student's t-test that paired differences have mean 0.

    Differences that do not vary give 1: accuracies are whole numbers of images, so that a few differences can be equal
    by chance, and the test, which would take them for certain, knows nothing of their spread.
    """
    rounded = np.round(differences, _DECIMALS)
    if np.ptp(rounded) == 0:
        return 1.0
    return float(stats.ttest_1samp(rounded, 0.0).pvalue)


def holm(p_values: list[float]) -> list[float]:
    """Holm's correction (1979) for as many tests: the smallest p times their number, the next times one less, ..."""
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(factors * np.asarray(p_values)[order]))
    return corrected.tolist()


def _compare(
    accuracies: Mapping[str, Mapping[int, float]], pairs: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], Comparison]:
    """All pairs with two seeds in common; a pair and its reverse are one test."""
    differences: dict[tuple[str, str], list[float]] = {}
    wanted = list(dict.fromkeys(pairs))
    for variant, reference in wanted:
        ours, theirs = accuracies[variant], accuracies[reference]
        seeds = sorted(ours.keys() & theirs.keys())
        if len(seeds) >= 2:
            differences[variant, reference] = [ours[seed] - theirs[seed] for seed in seeds]
    tests = {pair for pair in differences if pair[::-1] not in differences or pair < pair[::-1]}
    p_values = {pair: paired_p_value(differences[pair]) for pair in tests}
    corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return {
        pair: Comparison(
            *pair,
            interval(values),
            p_values.get(pair, p_values.get(pair[::-1], np.nan)),
            corrected.get(pair, corrected.get(pair[::-1], np.nan)),
            len(values),
        )
        for pair, values in differences.items()
    }
