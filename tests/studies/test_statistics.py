"""Means, intervals, paired differences and verdicts, against textbook formulas and statsmodels."""

import gc
import math
from collections.abc import Iterator
from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from localvit.studies.config import Claim, StudyConfig
from localvit.studies.record import Outcome, StudyRecord
from localvit.studies.reporting.statistics import StudySummary, holm, interval, paired_p_value, summarize
from localvit.training import RunResult

STUDY = StudyConfig(
    name="s",
    question="?",
    baseline="base",
    variants={"base": {}, "local": {"model.locality": {}}, "pointwise": {"model.locality": {"depthwise": False}}},
    claims=[Claim("local", "base", 2.6), Claim("local", "pointwise")],
)


def outcome(variant: str, seed: int, accuracy: float | None) -> Outcome:
    if accuracy is None:
        return Outcome(variant, seed, f"{variant}-{seed}", error="out of memory")
    epochs = [{"epoch": 1, "val_top1": 0.0}, {"epoch": 2, "val_top1": accuracy}]
    return Outcome(variant, seed, f"{variant}-{seed}", RunResult(10, 20, epochs))


def found(study: StudyConfig = STUDY, **accuracies: list[float | None]) -> StudySummary:
    """A study that found these accuracies, a number a seed; None for a run that failed."""
    outcomes = [outcome(name, seed, value) for name, values in accuracies.items() for seed, value in enumerate(values)]
    return summarize(StudyRecord(study, tuple(outcomes)))


def test_an_interval_is_that_of_the_t_table() -> None:
    # t(0.975, 2) = 4.303; mean 92, s = 2, so 92 +- 4.303 * 2 / sqrt(3).
    got = interval([90.0, 92.0, 94.0])
    assert got.mean == pytest.approx(92)
    assert (got.low, got.high) == pytest.approx(
        (92 - 4.303 * 2 / math.sqrt(3), 92 + 4.303 * 2 / math.sqrt(3)), abs=1e-3
    )


@given(st.lists(st.floats(0, 100), min_size=2, max_size=8))
def test_an_interval_agrees_with_the_t_test_that_it_inverts(values: list[float]) -> None:
    got = interval(values)
    assert got.low <= got.mean <= got.high
    if stdev(values) > 1e-3:
        assert stats.ttest_1samp(values, got.low).pvalue == pytest.approx(0.05, rel=1e-6)
        assert stats.ttest_1samp(values, got.high).pvalue == pytest.approx(0.05, rel=1e-6)


def test_equal_values_have_an_interval_without_width_and_a_single_one_has_none() -> None:
    assert interval([95.5, 95.5, 95.5]).text() == "95.50 [95.50, 95.50]"
    assert interval([95.5]).text() == interval([95.5]).short_text() == "95.50"


def test_gains_are_paired_by_seed() -> None:
    # Seeds differ by ten points and variants by one: only a paired difference is sure of it.
    summary = found(base=[70, 80, 90], local=[71.1, 81, 90.9], pointwise=[70.5, 80.5, 90.7])
    differences = [1.1, 1.0, 0.9]
    half = 4.302653 * stdev(differences) / math.sqrt(3)
    gain = summary.variant("local").gain
    assert gain is not None
    assert gain.difference.mean == pytest.approx(mean(differences))
    assert (gain.difference.low, gain.difference.high) == pytest.approx((1 - half, 1 + half), abs=1e-5)
    assert gain.p_value == pytest.approx(stats.ttest_rel([71.1, 81, 90.9], [70, 80, 90]).pvalue, rel=1e-6)
    assert summary.variant("local").accuracy.low < summary.variant("base").accuracy.mean  # type: ignore[union-attr]
    assert summary.variant("base").gain is None


@pytest.fixture(scope="module")
def quick_collection() -> Iterator[None]:
    """Statsmodels collects garbage in every call, which takes a third of a second with PyTorch loaded."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("quick_collection")
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holms_correction_is_that_of_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


def test_all_comparisons_of_a_study_are_corrected_together_and_each_counts_once() -> None:
    summary = found(base=[70, 80, 91], local=[73.1, 83, 93.9], pointwise=[70.5, 81, 90.7])
    local, pointwise = summary.variant("local").gain, summary.variant("pointwise").gain
    against_control = summary.claims[1].comparison
    assert local is not None
    assert pointwise is not None
    assert against_control is not None
    # Three tests: both gains, and the claim against the control; the claim over the baseline is one of the gains.
    raw = [local.p_value, pointwise.p_value, against_control.p_value]
    corrected = [local.p_holm, pointwise.p_holm, against_control.p_holm]
    assert corrected == pytest.approx(multipletests(raw, method="holm")[1].tolist())
    assert summary.claims[0].comparison == local


def test_a_claim_against_the_direction_of_a_gain_is_the_same_test() -> None:
    study = StudyConfig(name="s", question="?", baseline="b", variants={"a": {}, "b": {}}, claims=[Claim("b", "a")])
    summary = found(study, a=[80, 81, 79.5], b=[85, 86.5, 84.9])
    gain, claim = summary.variant("a").gain, summary.claims[0].comparison
    assert gain is not None
    assert claim is not None
    assert gain.p_holm == claim.p_holm == gain.p_value == claim.p_value
    assert gain.difference.mean == pytest.approx(-claim.difference.mean)
    assert (gain.verdict, claim.verdict, summary.claims[0].agreement) == ("worse", "better", "agrees")


@pytest.mark.parametrize(
    ("local", "pointwise", "agreement"),
    [
        ([75, 85.1, 95, 65.2], [70.1, 80, 90.2, 60], "agrees"),
        ([65, 75.1, 85, 55.2], [60, 70.3, 80.1, 50], "differs"),
        ([75, 85.1, 95, 65.2], [74, 86, 94, 66], "undecided"),
    ],
)
def test_a_study_agrees_where_every_claim_does_and_differs_where_one_does(
    local: list[float | None], pointwise: list[float | None], agreement: str
) -> None:
    assert found(base=[70, 80, 90, 60], local=local, pointwise=pointwise).agreement == agreement


def test_without_claims_there_is_nothing_to_agree_with() -> None:
    study = StudyConfig(name="s", question="?", baseline="a", variants={"a": {}, "b": {}})
    assert found(study, a=[1, 2], b=[2, 3.5]).agreement is None


def test_differences_that_do_not_vary_are_no_evidence() -> None:
    # Two seeds that differ by the same whole number of images, by chance: the test would take it for certain.
    assert paired_p_value([0.1 + 0.2, 0.3]) == 1.0
    assert paired_p_value([0.0, 0.0, 0.0]) == 1.0


def test_seeds_that_one_of_both_lacks_are_left_out() -> None:
    summary = found(base=[70, 80, None], local=[75, 84, 90], pointwise=[None, None, 90])
    local = summary.variant("local").gain
    assert local is not None
    assert local.seeds == 2
    assert local.difference.mean == pytest.approx(4.5)
    assert summary.variant("pointwise").gain is None
    assert summary.claims[1].agreement == "undecided"
    assert [(run.variant, run.seed, run.error) for run in summary.failed] == [
        ("base", 2, "out of memory"),
        ("pointwise", 0, "out of memory"),
        ("pointwise", 1, "out of memory"),
    ]


def test_each_variant_can_have_its_own_baseline() -> None:
    study = StudyConfig(name="s", question="?", baseline={"b": "a", "d": "c"}, variants={name: {} for name in "abcd"})
    summary = found(study, a=[1, 2, 3.3], b=[2, 3.1, 4], c=[50, 60, 70], d=[51, 61.5, 72])
    gains = {variant.name: variant.gain and round(variant.gain.difference.mean, 3) for variant in summary.variants}
    assert gains == {"a": None, "b": 0.933, "c": None, "d": 1.5}
