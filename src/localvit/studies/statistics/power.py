"""How many seeds an effect needs, before anything runs."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from localvit.studies.statistics.sequential import nominal_levels


def power(
    effect: float,
    *,
    looks: tuple[int, ...],
    seed_sd: float,
    weights: Sequence[float] = (1.0, -1.0),
    variants: int = 2,
    image_sd: float = 0.0,
    alpha: float = 0.05,
) -> tuple[float, ...]:
    """Probability of finding an effect by each look, if it is there.

    The looks before are neglected, which is accurate to about a percent for boundaries as strict as these.

    Args:
        effect: the contrast, in points.
        looks: numbers of seeds, ascending.
        seed_sd: standard deviation of one variant's accuracy between seeds, in points.
        weights: of the contrast.
        variants: number of variants that the variance is pooled over; 1 to take the contrast's own.
        image_sd: standard error of the contrast from the choice of test images, in points.
        alpha: error rate of all looks together, two-sided.

    Returns:
        For each look the power, between 0 and 1.
    """
    square = float(np.square(weights).sum())
    found: list[float] = []
    for look, level in zip(looks, nominal_levels(looks, alpha), strict=True):
        df, error = max(1, variants - 1) * (look - 1), seed_sd * np.sqrt(square / look)
        # The images widen the interval and the distribution of the estimate alike.
        wider = np.sqrt(1 + (image_sd / error) ** 2)
        critical, noncentrality = stats.t.isf(level / 2, df), effect / (error * wider)
        missed = stats.nct.cdf(critical, df, noncentrality) - stats.nct.cdf(-critical, df, noncentrality)
        found.append(float(np.clip(1 - missed, 0.0, 1.0)))
    return tuple(np.maximum.accumulate(found).tolist())
