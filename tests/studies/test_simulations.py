"""The statistics of studies on simulated runs: error rates, coverage, power. Each simulation takes about a minute."""

import base64
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pytest
from scipy import stats

from localvit.studies.claims import Claim
from localvit.studies.config import StudyConfig
from localvit.studies.record import Outcome, StudyRecord
from localvit.studies.statistics.findings import StudySummary
from localvit.studies.statistics.power import power
from localvit.studies.statistics.summary import summarize
from localvit.training import RunResult

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
LOOKS = (4, 7, 10)
NAMES = ("base", "control", "local", "wide")


def study(*claims: Claim, margin: float | None = None, looks: tuple[int, ...] = LOOKS) -> StudyConfig:
    variants: dict[str, dict[str, Any]] = {name: {} for name in NAMES}
    return StudyConfig(
        *("s", "?", variants, "base"),
        claims=list(claims),
        margin=margin,
        seeds=list(range(looks[-1])),
        looks=list(looks[:-1]),
    )


CLAIMS = (Claim("local", "base"), Claim("local", "control"), Claim("wide", ["local", "control"]))


def summary(config: StudyConfig, accuracies_VS: Floats, correct_VSM: Any = None) -> StudySummary:
    outcomes = [
        Outcome(
            name,
            seed,
            f"{name}-{seed}",
            RunResult(1, 1, [{"epoch": 1, "val_top1": float(accuracies_VS[v, seed])}]),
            correct=None
            if correct_VSM is None
            else f"{correct_VSM.shape[-1]}:{base64.b64encode(np.packbits(correct_VSM[v, seed]).tobytes()).decode()}",
        )
        for v, name in enumerate(NAMES)
        for seed in config.seeds
    ]
    return summarize(StudyRecord(config, tuple(outcomes)))


def assert_at_most(count: int, of: int, rate: float) -> None:
    """The count is compatible with a probability of at most ``rate``."""
    assert stats.binomtest(count, of, rate, alternative="greater").pvalue > 0.01, f"{count} of {of}"


def verdicts(found: StudySummary) -> set[str]:
    return {part.verdict for claim in found.claims for part in claim.parts}


@pytest.mark.slow
@pytest.mark.parametrize("sds", [(0.5, 0.5, 0.5, 0.5), (0.5, 0.5, 0.5, 0.8)], ids=["equal", "unequal"])
def test_three_looks_at_three_claims_find_something_false_in_at_most_five_percent(sds: Sequence[float]) -> None:
    rng = np.random.default_rng(1)
    config, rounds = study(*CLAIMS), 600
    false = 0
    for _ in range(rounds):
        shared = rng.normal(size=(1, LOOKS[-1]))
        found = summary(config, 70 + shared + np.array(sds)[:, None] * rng.normal(size=(len(NAMES), LOOKS[-1])))
        false += bool(verdicts(found) & {"better", "worse"})
    assert_at_most(false, rounds, 0.05)


@pytest.mark.slow
def test_a_difference_of_the_margin_is_called_equal_in_at_most_five_percent() -> None:
    rng = np.random.default_rng(2)
    config, rounds = study(Claim("local", "base"), margin=0.5), 600
    means = np.array([70.0, 70.0, 70.5, 70.0])[:, None]
    equal = sum(
        "equal" in verdicts(summary(config, means + 0.3 * rng.normal(size=(len(NAMES), LOOKS[-1]))))
        for _ in range(rounds)
    )
    assert_at_most(equal, rounds, 0.05)


@pytest.mark.slow
def test_intervals_cover_the_difference_over_new_seeds_and_new_images() -> None:
    """Probit model: an image is hard to a degree, for each variant to another one, and a seed shifts all images."""
    rng = np.random.default_rng(3)
    config, rounds, images = study(Claim("local", "base"), looks=(5,)), 400, 300
    shifts = np.array([0.8, 0.8, 1.1, 0.8])[:, None, None]
    spread = np.sqrt(1 + 0.7**2 + 0.05**2 + 0.5**2)
    truth = 100 * float(stats.norm.cdf(1.1 / spread) - stats.norm.cdf(0.8 / spread))
    covered = covered_by_seeds = 0
    for _ in range(rounds):
        latent = (
            shifts
            + rng.normal(size=(1, 1, images))
            + 0.7 * rng.normal(size=(len(NAMES), 1, images))
            + 0.05 * rng.normal(size=(len(NAMES), 5, 1))
            + 0.5 * rng.normal(size=(len(NAMES), 5, images))
        )
        correct_VSM = latent > 0
        accuracies_VS = 100 * correct_VSM.mean(axis=2)
        (part,) = summary(config, accuracies_VS, correct_VSM).claims[0].parts
        covered += part.difference.low <= truth <= part.difference.high
        (alone,) = summary(config, accuracies_VS).claims[0].parts
        covered_by_seeds += alone.difference.low <= truth <= alone.difference.high
    assert stats.binomtest(covered, rounds, 0.95, alternative="less").pvalue > 0.01, f"{covered} of {rounds}"
    assert covered_by_seeds < 0.8 * rounds, "seeds alone say nothing about other images"


@pytest.mark.slow
@pytest.mark.parametrize("effect", [0.4, 0.8])
def test_effects_are_found_as_often_as_planned(effect: float) -> None:
    rng = np.random.default_rng(4)
    config, rounds = study(Claim("local", "base")), 400
    means = np.array([70.0, 70.0, 70.0 + effect, 70.0])[:, None]
    looks = [
        summary(config, means + 0.5 * rng.normal(size=(len(NAMES), LOOKS[-1]))).claims[0].look for _ in range(rounds)
    ]
    planned = power(effect, looks=LOOKS, seed_sd=0.5, variants=len(NAMES))
    for look, expected in zip(LOOKS, planned, strict=True):
        found = sum(at is not None and at <= look for at in looks) / rounds
        assert found == pytest.approx(expected, abs=0.01 + 3 * np.sqrt(expected * (1 - expected) / rounds))


def test_power_without_looks_is_that_of_a_t_test() -> None:
    from statsmodels.stats.power import TTestPower

    reference = TTestPower().power(effect_size=0.8 / (0.5 * np.sqrt(2)), nobs=8, alpha=0.05)
    assert power(0.8, looks=(8,), seed_sd=0.5, variants=2) == pytest.approx((reference,), abs=1e-6)
    assert power(0.0, looks=(8,), seed_sd=0.5) == pytest.approx((0.05,))
    assert power(0.8, looks=(8,), seed_sd=0.5, image_sd=0.5)[0] < reference
