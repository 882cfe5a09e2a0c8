"""From the runs of a study to what it found out: estimates, verdicts on its claims, and whether it may stop."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from localvit.studies.claims import Claim, Contrast, Price
from localvit.studies.config import StudyConfig
from localvit.studies.record import Costs, Outcome, StudyRecord
from localvit.studies.statistics.contrast import (
    CONFIDENCE,
    MOST_SEEDS_TO_FLIP,
    Estimate,
    Floats,
    Interval,
    Spread,
    estimate,
    pool,
    probability_of_improvement,
    sign_flip_p_value,
)
from localvit.studies.statistics.sequential import nominal_levels, sequential_p_value
from localvit.training.history import Epoch

ALPHA = 1 - CONFIDENCE

Verdict = Literal["better", "worse", "equal", "undecided"]
Agreement = Literal["agrees", "differs", "equal", "undecided"]


@dataclass(frozen=True)
class ContrastSummary:
    """What is known of a contrast at the last look.

    Attributes:
        contrast: the contrast.
        difference: in points, with an interval that is simultaneous for all claims and looks of the study.
        p_value: of the t-test over seeds and images, corrected for all claims and looks: below 5 % exactly if the
            interval excludes 0 at this look.
        p_sign_flip: of the exact sign-flip test over seeds, not corrected; None for more than 16 seeds.
        p_improvement: probability that a run of the one variant beats a run of the other; None if not a plain pair.
        loss: difference of the cross-entropies, with a 95 % interval that is not corrected; None if not recorded.
        image_share: share of the variance that comes from the choice of test images; None if not recorded.
        seeds: how many seeds all variants of the contrast have finished.
        verdict: the first verdict that a look gave.
        look: number of seeds of that look; None if undecided.
        margin: points within which differences count as equal; None if not stated.
    """

    contrast: Contrast
    difference: Interval
    p_value: float
    p_sign_flip: float | None
    p_improvement: float | None
    loss: Interval | None
    image_share: float | None
    seeds: int
    verdict: Verdict
    look: int | None
    margin: float | None


@dataclass(frozen=True)
class ClaimSummary:
    """What a study says about a claim.

    Attributes:
        claim: the claim.
        parts: its contrasts; fewer than the claim has while some have fewer than two seeds.
        expected: how many contrasts the claim has.
    """

    claim: Claim
    parts: tuple[ContrastSummary, ...]
    expected: int

    @property
    def agreement(self) -> Agreement:
        """Whether the study finds what is claimed, or its opposite, or equality within the margin, or cannot tell.

        Several contrasts must all agree. One that is reversed or equal refutes such a claim.
        """
        verdicts = [part.verdict for part in self.parts]
        if self.claim.expect == "not less":
            good, bad = {"better", "equal"}, {"worse"}
        else:
            good, bad = {"better"}, {"worse"} if self.expected == 1 else {"worse", "equal"}
        if bad & set(verdicts):
            return "differs"
        if len(verdicts) < self.expected or "undecided" in verdicts:
            return "undecided"
        return "agrees" if set(verdicts) <= good else "equal"

    @property
    def decided(self) -> bool:
        """Whether no further seed can change the verdict."""
        return self.agreement != "undecided"

    @property
    def look(self) -> int | None:
        """Number of seeds at which the claim was decided."""
        looks = [part.look for part in self.parts if part.look is not None]
        return max(looks) if self.decided and looks else None


@dataclass(frozen=True)
class PriceSummary:
    """What a variant costs, as a ratio to another.

    Attributes:
        price: the limits.
        ratios: measured, by name; a ratio that is not known is missing.
    """

    price: Price
    ratios: Mapping[str, float]

    @property
    def agreement(self) -> Agreement:
        """Whether all limits hold, one is broken, or some are not known yet."""
        limits = self.price.limits()
        if any(self.ratios[name] > limits[name] for name in self.ratios):
            return "differs"
        return "agrees" if self.ratios.keys() == limits.keys() else "undecided"


@dataclass(frozen=True)
class VariantSummary:
    """What a study found out about one variant.

    Attributes:
        name: of the variant.
        accuracies: percent, of each seed that has finished.
        accuracy: over those seeds, with a 95 % interval over seeds and images; None if there are none.
        gain: over the baseline, likewise and not corrected; None for a baseline, or with fewer than two seeds of both.
        costs: counted and measured; None if unknown.
        curves: metrics of each epoch, of each seed that has finished.
    """

    name: str
    accuracies: Mapping[int, float]
    accuracy: Interval | None
    gain: Interval | None
    costs: Costs | None
    curves: Mapping[int, list[Epoch]]


@dataclass(frozen=True)
class StudySummary:
    """What a study found out.

    Attributes:
        record: what it is made from.
        variants: in the order of the study.
        claims: in the order of the study.
        prices: in the order of the study.
        isolated: gain of each variant with locality over the control that isolates locality.
        pooled: whether the variance between seeds was pooled over the variants.
        stopped_at: number of seeds after which every claim was decided; None if more are needed.
        failed: runs that failed.
        missing: runs that are still to be trained.
    """

    record: StudyRecord
    variants: tuple[VariantSummary, ...]
    claims: tuple[ClaimSummary, ...]
    prices: tuple[PriceSummary, ...]
    isolated: Mapping[str, Interval]
    pooled: bool
    stopped_at: int | None
    failed: tuple[Outcome, ...]
    missing: tuple[Outcome, ...]

    @property
    def config(self) -> StudyConfig:
        """The study."""
        return self.record.config

    @property
    def agreement(self) -> Agreement | None:
        """With everything expected: agrees if every claim and price does, differs if one does; None without any."""
        found = self.agreements
        if not found:
            return None
        for word in ("differs", "undecided", "equal"):
            if word in found:
                return word
        return "agrees"

    @property
    def agreements(self) -> list[Agreement]:
        """Of every claim that expects something, and of every price."""
        claims = [claim.agreement for claim in self.claims if claim.claim.expect != "any"]
        return claims + [price.agreement for price in self.prices]

    def variant(self, name: str) -> VariantSummary:
        """The summary of one variant."""
        return next(variant for variant in self.variants if variant.name == name)


def summarize(record: StudyRecord) -> StudySummary:
    """Estimates and verdicts from what the runs of a study have given so far."""
    config, runs = record.config, _Runs(record)
    claims = tuple(
        ClaimSummary(
            claim,
            tuple(_decide(contrast, claim, runs) for contrast in contrasts if runs.seeds(contrast)),
            len(contrasts),
        )
        for claim, contrasts in zip(config.tested, config.contrasts, strict=True)
    )
    stopped_at = _stopped_at(claims, runs)
    needed = {*config.seeds[: stopped_at or len(config.seeds)]}
    return StudySummary(
        record=record,
        variants=tuple(_variant(name, runs) for name in config.variants),
        claims=claims,
        prices=tuple(_price(price, record.costs) for price in config.prices),
        isolated={name: gain for name, control in config.isolates.items() if (gain := runs.gain(name, control))},
        pooled=runs.spread() is not None,
        stopped_at=stopped_at,
        failed=tuple(outcome for outcome in record.outcomes if outcome.status == "failed"),
        missing=tuple(outcome for outcome in record.outcomes if outcome.status == "missing" and outcome.seed in needed),
    )


def pooled_sd(record: StudyRecord) -> float | None:
    """Standard deviation of accuracy between seeds, in points, over all variants; None with fewer than two seeds."""
    runs = _Runs(record)
    variances = [
        np.var(values, ddof=1) for name in runs.compared if len(values := [*runs.accuracies(name).values()]) > 1
    ]
    return float(np.sqrt(np.mean(variances))) if variances else None


class _Runs:
    """The finished runs of a study, as arrays.

    Args:
        record: of the study.
    """

    def __init__(self, record: StudyRecord) -> None:
        self.config, self.costs = record.config, record.costs
        self.outcomes: dict[str, dict[int, Outcome]] = {name: {} for name in self.config.variants}
        pending = set()
        for outcome in record.outcomes:
            if outcome.status == "finished" and outcome.variant is not None:
                self.outcomes[outcome.variant][outcome.seed] = outcome
            elif outcome.status == "missing":
                pending.add(outcome.seed)
        self.compared = [name for name in self.config.variants if name not in self.config.landmarks]
        # Looks whose seeds have all finished, or failed for good.
        self.looks = [look for look in self.config.all_looks if not pending & {*self.config.seeds[:look]}]

    def seeds(self, contrast: Contrast, look: int | None = None) -> list[int]:
        """The seeds that all variants of a contrast have finished, of those up to a look; none if fewer than two."""
        common = [
            seed for seed in self.config.seeds[:look] if all(seed in self.outcomes[name] for name in contrast.weights)
        ]
        return common if len(common) >= 2 else []

    def estimate(self, contrast: Contrast, look: int | None = None, *, pooled: bool = True) -> Estimate:
        """The contrast over the seeds up to a look."""
        seeds, names = self.seeds(contrast, look), [*contrast.weights]
        spread = self.spread(look) if pooled else None
        return estimate(
            self._accuracies(names, seeds), [*contrast.weights.values()], self._correct(names, seeds), spread
        )

    def gain(self, name: str, reference: str) -> Interval | None:
        """Difference of two variants with its own 95 % interval."""
        contrast = Contrast("", {name: 1.0, reference: -1.0})
        return self.estimate(contrast).interval() if self.seeds(contrast) else None

    def loss(self, contrast: Contrast) -> Interval | None:
        """The contrast of the cross-entropies of the test images."""
        seeds = self.seeds(contrast)
        losses = [[self.outcomes[name][seed].loss for seed in seeds] for name in contrast.weights]
        if any(loss is None for row in losses for loss in row):
            return None
        return estimate(np.array(losses, dtype=np.float64), [*contrast.weights.values()], None, None).interval()

    def accuracies(self, name: str) -> dict[int, float]:
        """Percent, by seed."""
        return {seed: run.result.accuracy for seed, run in self.outcomes[name].items() if run.result is not None}

    @functools.cache  # noqa: B019  # as long as the runs
    def spread(self, look: int | None = None) -> Spread | None:
        """The variance between seeds, pooled over all variants that are compared, if that is justified."""
        seeds = [
            seed for seed in self.config.seeds[:look] if all(seed in self.outcomes[name] for name in self.compared)
        ]
        return pool(self._accuracies(self.compared, seeds)) if len(seeds) >= 2 else None

    def _accuracies(self, names: Sequence[str], seeds: Sequence[int]) -> Floats:
        by_seed = [self.accuracies(name) for name in names]
        return np.array([[accuracies[seed] for seed in seeds] for accuracies in by_seed])

    def _correct(
        self, names: Sequence[str], seeds: Sequence[int]
    ) -> "np.ndarray[tuple[int, ...], np.dtype[np.bool_]] | None":
        found = [[self.outcomes[name][seed].correct_images() for seed in seeds] for name in names]
        sizes = {None if correct_M is None else len(correct_M) for row in found for correct_M in row}
        return np.array(found) if len(sizes) == 1 and None not in sizes else None


def _decide(contrast: Contrast, claim: Claim, runs: _Runs) -> ContrastSummary:
    """Test a contrast at every look so far; the first verdict stays."""
    config, looks = runs.config, runs.config.all_looks
    margin = claim.margin or config.margin
    alpha = ALPHA / len(config.tested)
    levels = nominal_levels(looks, alpha)
    verdict: Verdict = "undecided"
    decided_at, p_values = None, []
    for place, look in enumerate(looks):
        if look not in runs.looks or not runs.seeds(contrast, look):
            break
        estimated = runs.estimate(contrast, look)
        p_values.append(estimated.p_value)
        if verdict == "undecided":
            verdict = _verdict(estimated.interval(levels[place]), margin, claim)
            decided_at = None if verdict == "undecided" else look
    at = looks[len(p_values) - 1] if p_values else None
    estimated = runs.estimate(contrast, at)
    p_value = min(1.0, len(config.tested) * sequential_p_value(p_values, looks)) if p_values else np.nan
    seeds = runs.seeds(contrast, at)
    flips = len(seeds) <= MOST_SEEDS_TO_FLIP
    variance = estimated.standard_error**2
    return ContrastSummary(
        contrast=contrast,
        difference=estimated.interval(levels[max(0, len(p_values) - 1)]),
        p_value=float(p_value),
        p_sign_flip=sign_flip_p_value(estimated.values_S) if flips else None,
        p_improvement=_improvement(contrast, runs, seeds),
        loss=runs.loss(contrast),
        image_share=estimated.variance_of_images / variance if estimated.image_df and variance else None,
        seeds=len(seeds),
        verdict=verdict,
        look=decided_at,
        margin=margin,
    )


def _verdict(interval: Interval, margin: float | None, claim: Claim) -> Verdict:
    """What an interval says: on one side of 0, inside the margin, or neither."""
    if np.isnan(interval.low):
        return "undecided"
    if claim.expect == "not less" and margin is not None:
        return "better" if interval.low > -margin else "worse" if interval.high < -margin else "undecided"
    if interval.low > 0:
        return "better"
    if interval.high < 0:
        return "worse"
    return "equal" if margin is not None and -margin < interval.low and interval.high < margin else "undecided"


def _improvement(contrast: Contrast, runs: _Runs, seeds: Sequence[int]) -> float | None:
    if contrast.pair is None:
        return None
    ours, theirs = (np.array([runs.accuracies(name)[seed] for seed in seeds]) for name in contrast.pair)
    return probability_of_improvement(ours, theirs)


def _stopped_at(claims: Sequence[ClaimSummary], runs: _Runs) -> int | None:
    """The look at which the last claim was decided, or the last look once it is complete."""
    looks = runs.config.all_looks
    if claims and all(claim.decided for claim in claims):
        return max((claim.look for claim in claims if claim.look is not None), default=looks[-1])
    return looks[-1] if looks[-1] in runs.looks else None


def _variant(name: str, runs: _Runs) -> VariantSummary:
    accuracies, baseline = runs.accuracies(name), runs.config.baseline_of(name)
    alone = Contrast(name, {name: 1.0})
    if runs.seeds(alone):
        accuracy: Interval | None = runs.estimate(alone, pooled=False).interval()
    else:
        accuracy = Interval(next(iter(accuracies.values())), np.nan, np.nan) if accuracies else None
    return VariantSummary(
        name=name,
        accuracies=accuracies,
        accuracy=accuracy,
        gain=None if baseline is None else runs.gain(name, baseline),
        costs=runs.costs.get(name),
        curves={seed: run.result.epochs for seed, run in runs.outcomes[name].items() if run.result is not None},
    )


def _price(price: Price, costs: Mapping[str, Costs]) -> PriceSummary:
    ratios: dict[str, float] = {}
    if price.of in costs and price.than in costs:
        ours, theirs = costs[price.of], costs[price.than]
        for name in price.limits():
            if name == "training_time":
                values = theirs.training_images_per_second, ours.training_images_per_second
            else:
                values = getattr(ours, name), getattr(theirs, name)
            if values[0] is not None and values[1]:
                ratios[name] = values[0] / values[1]
    return PriceSummary(price, ratios)
