"""Rank correlation within families, with an exact p-value."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

FEWEST = 4  # members of a family: a rank correlation over fewer says nothing
_DECIMALS = 9  # what lies beyond is rounding noise

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation of two quantities within families.

    Attributes:
        of: the correlation in each family; None where too few members have both quantities, or one does not vary.
        mean: over the families that have one; None if none has.
        p_value: two-sided. Of all ways to deal out one quantity within families, the share that gives a mean as far
            from 0. None without a mean.
    """

    of: tuple[float | None, ...]
    mean: float | None
    p_value: float | None


def rank_correlation(
    first: Mapping[str, float], second: Mapping[str, float], families: Sequence[Sequence[str]]
) -> RankCorrelation:
    """The rank correlation of two quantities, within each family and over all of them.

    Args:
        first: a quantity of members, by name; some may lack it.
        second: another one.
        families: names of members. All orders of a family are enumerated, so it should have at most eight.
    """
    of: list[float | None] = []
    orders: list[Counter[float]] = []
    for names in families:
        known = [name for name in names if name in first and name in second]
        first_N, second_N = (_standard_ranks([one[name] for name in known]) for one in (first, second))
        if len(known) < FEWEST or not first_N.any() or not second_N.any():
            of.append(None)
            continue
        of.append(float(first_N @ second_N))
        orders.append(_all_orders(first_N, second_N))
    defined = [value for value in of if value is not None]
    if not defined:
        return RankCorrelation(tuple(of), None, None)
    sums = reduce(_sums, orders)
    least = round(abs(sum(defined)), _DECIMALS - 1)
    as_far = sum(count for total, count in sums.items() if round(abs(total), _DECIMALS - 1) >= least)
    return RankCorrelation(tuple(of), float(np.mean(defined)), as_far / sums.total())


def _standard_ranks(values: Sequence[float]) -> Floats:
    """Ranks with mean 0 and length 1; zeros if they do not differ."""
    ranks_N = rankdata(values) - (len(values) + 1) / 2
    length = np.linalg.norm(ranks_N)
    return ranks_N / length if length else ranks_N


def _all_orders(first_N: Floats, second_N: Floats) -> Counter[float]:
    """How often each correlation occurs if the second ranks are dealt out in all ways."""
    orders_PN = np.array(list(itertools.permutations(second_N)))
    return Counter(np.round(orders_PN @ first_N, _DECIMALS).tolist())


def _sums(some: Counter[float], others: Counter[float]) -> Counter[float]:
    """How often each sum of two independent numbers occurs."""
    sums: Counter[float] = Counter()
    for (one, often), (other, as_often) in itertools.product(some.items(), others.items()):
        sums[round(one + other, _DECIMALS)] += often * as_often
    return sums
