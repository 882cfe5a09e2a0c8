"""From the runs of a study to what it found out."""

from collections.abc import Mapping, Sequence

import numpy as np

from localvit.studies.claims import Claim, Contrast, Price
from localvit.studies.record import Costs, StudyRecord
from localvit.studies.statistics.contrast import (
    CONFIDENCE,
    MOST_SEEDS_TO_FLIP,
    Interval,
    probability_of_improvement,
    sign_flip_p_value,
)
from localvit.studies.statistics.findings import (
    ClaimSummary,
    ContrastSummary,
    PriceSummary,
    StudySummary,
    VariantSummary,
    Verdict,
)
from localvit.studies.statistics.finished_runs import FinishedRuns
from localvit.studies.statistics.sequential import nominal_levels, sequential_p_value

ALPHA = 1 - CONFIDENCE


def summarize(record: StudyRecord) -> StudySummary:
    """Estimates and verdicts from what the runs of a study have given so far."""
    config, runs = record.config, FinishedRuns(record)
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
    runs = FinishedRuns(record)
    variances = [
        np.var(values, ddof=1) for name in runs.compared if len(values := [*runs.accuracies(name).values()]) > 1
    ]
    return float(np.sqrt(np.mean(variances))) if variances else None


def _decide(contrast: Contrast, claim: Claim, runs: FinishedRuns) -> ContrastSummary:
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


def _improvement(contrast: Contrast, runs: FinishedRuns, seeds: Sequence[int]) -> float | None:
    if contrast.pair is None:
        return None
    ours, theirs = (np.array([runs.accuracies(name)[seed] for seed in seeds]) for name in contrast.pair)
    return probability_of_improvement(ours, theirs)


def _stopped_at(claims: Sequence[ClaimSummary], runs: FinishedRuns) -> int | None:
    """The look at which the last claim was decided, or the last look once it is complete."""
    looks = runs.config.all_looks
    if claims and all(claim.decided for claim in claims):
        return max((claim.look for claim in claims if claim.look is not None), default=looks[-1])
    return looks[-1] if looks[-1] in runs.looks else None


def _variant(name: str, runs: FinishedRuns) -> VariantSummary:
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
