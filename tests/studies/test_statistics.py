"""Means, intervals and paired gains against textbook formulas."""

import math
from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from localvit import LocalityConfig
from localvit.studies import StudyConfig, VariantConfig
from localvit.studies.statistics import interval, summarize
from localvit.training import RunResult

STUDY = StudyConfig(
    name="s",
    question="?",
    paper_finding=".",
    baseline="base",
    variants=[
        VariantConfig("base"),
        VariantConfig("local", LocalityConfig(), control="pointwise"),
        VariantConfig("pointwise", LocalityConfig(depthwise=False)),
    ],
)


def runs(*accuracies: float) -> list[RunResult]:
    return [RunResult(10, 20, [{"epoch": 1, "val_top1": 0}, {"epoch": 2, "val_top1": a}]) for a in accuracies]


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


def test_equal_values_have_an_interval_without_width() -> None:
    assert interval([95.5, 95.5, 95.5]).text() == "95.50 [95.50, 95.50]"


def test_gains_are_paired_by_seed() -> None:
    # Seeds differ by ten points and variants by one: only a paired difference is sure of it.
    base, local, pointwise = summarize(
        STUDY, {"base": runs(70, 80, 90), "local": runs(71.1, 81, 90.9), "pointwise": runs(70.5, 80.5, 90.5)}
    )
    differences = [1.1, 1.0, 0.9]
    half = 4.302653 * stdev(differences) / math.sqrt(3)
    assert local.gain.mean == pytest.approx(mean(differences))
    assert (local.gain.low, local.gain.high) == pytest.approx((1 - half, 1 + half), abs=1e-5)
    assert local.accuracy.low < base.accuracy.mean
    assert local.gain_over_control is not None
    assert local.gain_over_control.mean == pytest.approx(0.5)
    assert (base.gain.low, base.gain.high) == (0, 0)
    assert pointwise.gain_over_control is None


def test_accuracy_is_that_of_the_last_epoch() -> None:
    result = RunResult(1, 1, [{"epoch": 1, "val_top1": 99.0}, {"epoch": 2, "val_top1": 97.0}])
    assert result.accuracy == 97.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"baseline": "bass"}, r"baseline is 'bass'; it must be one of the variants: base, local"),
        ({"seeds": [0]}, r"an interval needs at least two"),
        ({"seeds": [0, 0, 1]}, r"seeds has 0 more than once"),
        ({"variants": [VariantConfig("base"), VariantConfig("base")]}, r"variants has base more than once"),
        ({"variants": [VariantConfig("base", control="x")]}, r"control of 'base' is 'x'"),
    ],
)
def test_a_study_that_cannot_be_is_refused(arguments: dict[str, object], message: str) -> None:
    good: dict[str, object] = {
        "name": "s",
        "question": "?",
        "paper_finding": ".",
        "baseline": "base",
        "variants": [VariantConfig("base"), VariantConfig("local")],
    }
    with pytest.raises(ValueError, match=message):
        StudyConfig(**{**good, **arguments})  # type: ignore[arg-type]
