"""Looks at growing numbers of seeds, against the published tables and properties of alpha spending."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from localvit.studies.statistics.sequential import crossing_probability, nominal_levels, sequential_p_value, spent

# Jennison and Turnbull (2000), table 2.3: C_B(K, 0.05), for which bounds C_B * sqrt(K / k) have error rate 0.05.
O_BRIEN_FLEMING = {1: 1.960, 2: 1.977, 3: 2.004, 4: 2.024, 5: 2.040, 6: 2.053, 8: 2.072, 10: 2.087}
# The same book, table 2.1, and Pocock (1977): equal bounds at every look.
POCOCK = {2: 2.178, 3: 2.289, 4: 2.361, 5: 2.413, 10: 2.555}
# Bounds of the spending function of Lan and DeMets (1983) for equal steps, as tables of the method print them.
LAN_DEMETS = {
    2: [2.963, 1.969],
    3: [3.710, 2.511, 1.993],
    4: [4.333, 2.963, 2.359, 2.014],
    5: [4.877, 3.357, 2.680, 2.290, 2.031],
}

looks = st.lists(st.integers(2, 40), min_size=1, max_size=4, unique=True).map(lambda found: tuple(sorted(found)))


@pytest.mark.parametrize(("number", "constant"), O_BRIEN_FLEMING.items())
def test_the_boundaries_of_o_brien_and_fleming_have_their_published_error_rate(number: int, constant: float) -> None:
    bounds = [constant * math.sqrt(number / look) for look in range(1, number + 1)]
    assert crossing_probability(range(1, number + 1), bounds) == pytest.approx(0.05, abs=1.5e-4)


@pytest.mark.parametrize(("number", "constant"), POCOCK.items())
def test_the_boundaries_of_pocock_have_their_published_error_rate(number: int, constant: float) -> None:
    assert crossing_probability(range(1, number + 1), [constant] * number) == pytest.approx(0.05, abs=1.5e-4)


@pytest.mark.parametrize(("number", "published"), LAN_DEMETS.items())
def test_levels_are_those_of_the_published_spending_function(number: int, published: list[float]) -> None:
    levels = nominal_levels(tuple(range(1, number + 1)), 0.05)
    assert [stats.norm.isf(level / 2) for level in levels] == pytest.approx(published, abs=1e-3)


@settings(max_examples=30, deadline=None)
@given(looks, st.floats(0.001, 0.2))
def test_all_looks_together_spend_alpha_and_no_more(planned: tuple[int, ...], alpha: float) -> None:
    levels = nominal_levels(planned, alpha)
    assert all(0 <= level <= alpha + 1e-12 for level in levels)
    bounds = [stats.norm.isf(level / 2) for level in levels]
    assert crossing_probability(planned, bounds) == pytest.approx(alpha, rel=1e-6)
    for place in range(1, len(planned)):
        # As a study that never stops at the end: a bound of 40 standard deviations is none.
        times = [*planned[:place], planned[-1]]
        so_far = crossing_probability(times, [*bounds[:place], 40.0])
        assert so_far == pytest.approx(spent(planned[place - 1] / planned[-1], alpha), rel=1e-4, abs=1e-12)


def test_one_look_is_an_ordinary_test() -> None:
    assert nominal_levels((7,), 0.05) == pytest.approx([0.05])
    assert sequential_p_value([0.031], (7,)) == 0.031


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(1e-6, 0.9), min_size=1, max_size=3), st.floats(0.005, 0.2))
def test_the_sequential_p_value_is_below_alpha_exactly_if_a_look_would_have_stopped(
    p_values: list[float], alpha: float
) -> None:
    planned = (6, 10, 16)
    stops = any(p <= level for p, level in zip(p_values, nominal_levels(planned, alpha), strict=False))
    found = sequential_p_value(p_values, planned)
    if abs(found - alpha) > 1e-5:
        assert (found < alpha) == stops
