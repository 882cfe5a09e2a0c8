"""Estimates of contrasts, against SciPy, statsmodels, and plain formulas."""

import math
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from localvit.studies.statistics.contrast import (
    Spread,
    estimate,
    pool,
    probability_of_improvement,
    sign_flip_p_value,
)

percent = st.floats(0, 100).map(lambda value: round(value, 2))
pairs = st.integers(3, 8).flatmap(
    lambda seeds: st.lists(st.lists(percent, min_size=seeds, max_size=seeds), min_size=2, max_size=2)
)


def accuracies(seed: int, variants: int = 4, seeds: int = 6) -> "np.ndarray[Any, np.dtype[np.float64]]":
    rng = np.random.default_rng(seed)
    return 70 + rng.normal(size=(variants, 1)) + rng.normal(size=(1, seeds)) + 0.5 * rng.normal(size=(variants, seeds))


@given(pairs)
def test_a_difference_alone_is_a_paired_t_test(values: list[list[float]]) -> None:
    found = estimate(np.array(values), (1, -1), None, None)
    differences = np.round(np.subtract(values[0], values[1]), 9)
    if np.ptp(differences) < 1e-6:
        return
    reference = stats.ttest_rel(values[0], values[1])
    assert found.p_value == pytest.approx(reference.pvalue, rel=1e-6)
    interval, expected = found.interval(), reference.confidence_interval()
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-6)


def test_an_interval_is_that_of_the_t_table() -> None:
    # t(0.975, 2) = 4.303; mean 92, s = 2, so 92 +- 4.303 * 2 / sqrt(3).
    got = estimate(np.array([[90.0, 92.0, 94.0]]), (1,), None, None).interval()
    assert got.mean == pytest.approx(92)
    half = 4.303 * 2 / math.sqrt(3)
    assert (got.low, got.high) == pytest.approx((92 - half, 92 + half), abs=1e-3)


@pytest.mark.parametrize("weights", [(1, -1, 0, 0), (1, -0.5, -0.5, 0), (-1.5, -0.5, 0.5, 1.5)])
def test_the_pooled_variance_is_the_residual_of_a_two_way_analysis_of_variance(weights: tuple[float, ...]) -> None:
    values_VS = accuracies(1)
    rows = [(f"v{v}", f"s{s}", values_VS[v, s]) for v, s in product(range(4), range(6))]
    frame = pd.DataFrame(rows, columns=["variant", "seed", "accuracy"])
    fit = smf.ols("accuracy ~ C(variant) - 1 + C(seed, Sum)", frame).fit()
    spread = pool(values_VS)
    assert spread is not None
    assert (spread.variance, spread.df) == pytest.approx((fit.mse_resid, fit.df_resid))
    found = estimate(values_VS, weights, None, spread)
    reference = fit.t_test(np.array([*weights, *[0] * 5]))
    assert found.mean == pytest.approx(float(reference.effect[0]))
    assert found.p_value == pytest.approx(float(reference.pvalue))
    assert (found.interval().low, found.interval().high) == pytest.approx(tuple(reference.conf_int()[0]))


def test_variances_that_differ_are_not_pooled() -> None:
    rng = np.random.default_rng(0)
    steady, wild = 0.1 * rng.normal(size=(3, 10)), 10 * rng.normal(size=(1, 10))
    assert pool(np.concatenate([steady, wild])) is None
    assert pool(steady) is not None
    assert pool(steady[:, :2]) is None, "two seeds cannot show it"
    assert pool(steady[:1]) is None


def test_the_variance_of_images_is_that_of_crossed_random_effects() -> None:
    """By the expected mean squares: images * seeds cells, one observation in each."""
    rng = np.random.default_rng(3)
    seeds, images = 5, 40
    correct_VSM = rng.random((2, seeds, images)) < rng.random((1, 1, images))
    cells = 100.0 * (correct_VSM[0].astype(float) - correct_VSM[1])
    grand = sum(cells[s][m] for s in range(seeds) for m in range(images)) / (seeds * images)
    of_seed = [sum(cells[s]) / images for s in range(seeds)]
    of_image = [sum(cells[s][m] for s in range(seeds)) / seeds for m in range(images)]
    image_square = seeds * sum((mean - grand) ** 2 for mean in of_image) / (images - 1)
    residual_square = sum(
        (cells[s][m] - of_seed[s] - of_image[m] + grand) ** 2 for s in range(seeds) for m in range(images)
    ) / ((images - 1) * (seeds - 1))
    found = estimate(100 * correct_VSM.mean(axis=2), (1, -1), correct_VSM, None)
    assert found.variance_of_images == pytest.approx(max(0.0, (image_square - residual_square) / seeds) / images)
    assert found.variance_of_seeds == pytest.approx(np.var(of_seed, ddof=1) / seeds)
    assert found.standard_error**2 == pytest.approx(found.variance_of_seeds + found.variance_of_images)
    of_seeds, of_images = stats.t.isf(0.025, 4) ** 2, stats.t.isf(0.025, images - 1) ** 2
    half = math.sqrt(found.variance_of_seeds * of_seeds + found.variance_of_images * of_images)
    assert found.interval().high - found.mean == pytest.approx(half)
    at_p = found.interval(found.p_value)
    assert min(abs(at_p.low), abs(at_p.high)) == pytest.approx(0, abs=1e-6), "the p-value inverts the interval"


def test_images_that_every_run_gets_right_add_nothing() -> None:
    correct_VSM = np.ones((2, 4, 30), dtype=bool)
    correct_VSM[0, :, :3] = False
    all_seeds_alike = estimate(100 * correct_VSM.mean(axis=2), (1, -1), correct_VSM, Spread(1.0, 6))
    assert all_seeds_alike.variance_of_images > 0, "other images would have other hard ones among them"
    correct_VSM[:] = True
    assert estimate(100 * correct_VSM.mean(axis=2), (1, -1), correct_VSM, Spread(1.0, 6)).variance_of_images == 0


def test_differences_that_do_not_vary_are_no_evidence() -> None:
    found = estimate(np.array([[95.0, 96.0], [94.9, 95.9]]), (1, -1), None, None)
    assert found.p_value == 1.0
    assert math.isnan(found.interval().low)


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=9))
def test_the_sign_flip_test_is_scipys_exact_permutation_test(values: list[int]) -> None:
    sample: Any = (np.array(values, dtype=float),)
    reference = stats.permutation_test(
        sample,
        lambda sample, axis: np.sum(sample, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**20,
    )
    assert sign_flip_p_value(np.array(values, dtype=float)) == pytest.approx(reference.pvalue)


def test_the_sign_flip_test_refuses_what_it_cannot_enumerate() -> None:
    assert sign_flip_p_value(np.arange(1.0, 7.0)) == 2 / 2**6
    with pytest.raises(ValueError, match="got 17 seeds; the exact test enumerates sign patterns of up to 16"):
        sign_flip_p_value(np.ones(17))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_the_probability_of_improvement_is_mann_and_whitneys(ours: list[int], theirs: list[int]) -> None:
    statistic = stats.mannwhitneyu(ours, theirs).statistic
    found = probability_of_improvement(np.array(ours, dtype=float), np.array(theirs, dtype=float))
    assert found == pytest.approx(statistic / (len(ours) * len(theirs)))
