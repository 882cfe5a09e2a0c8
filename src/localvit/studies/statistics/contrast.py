"""How much a contrast of variants is, and how sure that is over new seeds and new test images.

A contrast is a weighted sum of the accuracies of variants, such as one minus another. Its runs cross two samples: every
seed is tested on the same images. A two-way random effects model (Searle, Casella and McCulloch, Variance Components,
chapter 4) splits its variance accordingly; an interval from the seeds alone would say nothing about other images.

Shape suffixes: V variants, S seeds, M test images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

CONFIDENCE = 0.95
_DECIMALS = 9  # of percentages; what lies beyond is rounding noise
_SMALLEST_LEVEL = 1e-15
_LEVEL_OF_POOLING = 0.25
MOST_SEEDS_TO_FLIP = 16  # seeds, whose 65,536 sign patterns are enumerated

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval; the bounds are nan if there is nothing to estimate them from."""

    mean: float
    low: float
    high: float

    def short_text(self, *, signed: bool = False) -> str:
        """For narrow tables: ``93.20 ± 2.20``, with half the width of the interval."""
        mean = f"{self.mean:{'+' if signed else ''}.2f}"
        return mean if np.isnan(self.low) else f"{mean} ± {self.high - self.mean:.2f}"

    def text(self, *, signed: bool = False) -> str:
        """For tables: ``93.20 [91.00, 95.40]``, with signs for differences."""
        sign = "+" if signed else ""
        mean = f"{self.mean:{sign}.2f}"
        return mean if np.isnan(self.low) else f"{mean} [{self.low:{sign}.2f}, {self.high:{sign}.2f}]"


@dataclass(frozen=True)
class Estimate:
    """A contrast and its standard error.

    Attributes:
        mean: the contrast, averaged over seeds.
        variance_of_seeds: variance of ``mean`` over new seeds.
        variance_of_images: variance of ``mean`` over new test images; 0 if the images were not recorded.
        seed_df: degrees of freedom of ``variance_of_seeds``.
        image_df: degrees of freedom of ``variance_of_images``.
        values_S: the contrast of each seed.
    """

    mean: float
    variance_of_seeds: float
    variance_of_images: float
    seed_df: int
    image_df: int
    values_S: Floats

    @property
    def standard_error(self) -> float:
        """Over new seeds and new images."""
        return float(np.sqrt(self.variance_of_seeds + self.variance_of_images))

    @property
    def p_value(self) -> float:
        """Two-sided p-value that the contrast is 0; 1 if it does not vary at all.

        Accuracies are whole numbers of images, so a few seeds may agree by accident, and a test would take that for
        certainty.
        """
        if self.standard_error == 0:
            return 1.0
        if self.variance_of_images == 0:
            return float(2 * stats.t.sf(abs(self.mean) / self.standard_error, self.seed_df))
        if self.half_width(_SMALLEST_LEVEL) < abs(self.mean):
            return _SMALLEST_LEVEL
        excess = lambda log_level: self.half_width(np.exp(log_level)) - abs(self.mean)  # noqa: E731
        return float(np.exp(optimize.brentq(excess, np.log(_SMALLEST_LEVEL), 0.0, xtol=1e-9)))

    def interval(self, level: float = 1 - CONFIDENCE) -> Interval:
        """The interval that contains the contrast with probability 1 - ``level``."""
        if self.standard_error == 0:
            return Interval(self.mean, np.nan, np.nan)
        half = self.half_width(level)
        return Interval(self.mean, self.mean - half, self.mean + half)

    def half_width(self, level: float) -> float:
        """Half the width of the interval.

        The two parts have their own quantiles, and their squares add up (Howe, JASA 1974), so the interval is never
        narrower than that of the seeds alone, however few there are.
        """
        parts = [(self.variance_of_seeds, self.seed_df), (self.variance_of_images, self.image_df)]
        return float(np.sqrt(sum(variance * stats.t.isf(level / 2, df) ** 2 for variance, df in parts if variance)))


@dataclass(frozen=True)
class Spread:
    """The variance of accuracies between seeds, pooled over the variants of a study.

    Attributes:
        variance: of one accuracy, in points squared, after the means of variants and seeds are taken out.
        df: degrees of freedom.
    """

    variance: float
    df: int


def pool(accuracies_VS: Floats) -> Spread | None:
    """Pool the variance between seeds over variants, or return None if that is not justified.

    The justification is a rule fixed in advance: at least two variants and three seeds, and no sign that the variants
    vary differently (Brown-Forsythe test at 25 %, the level that Bancroft, Biometrics 1964, advises before pooling: at
    5 %, a test of a few seeds would miss most differences that do harm).
    """
    variants, seeds = accuracies_VS.shape
    if variants < 2 or seeds < 3:
        return None
    residuals_VS = (
        accuracies_VS
        - accuracies_VS.mean(axis=1, keepdims=True)
        - accuracies_VS.mean(axis=0, keepdims=True)
        + accuracies_VS.mean()
    )
    df = (variants - 1) * (seeds - 1)
    variance = float(np.square(np.round(residuals_VS, _DECIMALS)).sum() / df)
    if variance == 0:
        return None
    p_equal = float(stats.levene(*accuracies_VS, center="median").pvalue)
    return None if p_equal < _LEVEL_OF_POOLING else Spread(variance, df)


def estimate(
    accuracies_VS: Floats, weights_V: Sequence[float], correct_VSM: NDArray[np.bool_] | None, spread: Spread | None
) -> Estimate:
    """Estimate the contrast ``weights_V`` of accuracies in percent.

    Args:
        accuracies_VS: percent, of each variant and seed.
        weights_V: of the variants.
        correct_VSM: whether each test image was classified correctly; None if that was not recorded.
        spread: the pooled variance; None to use the contrast's own, which needs two seeds.
    """
    weights = np.asarray(weights_V, dtype=np.float64)
    values_S = np.round(weights @ accuracies_VS, _DECIMALS)
    seeds = len(values_S)
    if spread is None:
        variance, df = float(values_S.var(ddof=1)) if np.ptp(values_S) else 0.0, seeds - 1
    else:
        variance, df = spread.variance * float(weights @ weights), spread.df
    of_images, image_df = 0.0, 0
    if correct_VSM is not None:
        of_images, image_df = _variance_of_images(100 * np.tensordot(weights, correct_VSM.astype(np.float64), axes=1))
    return Estimate(float(values_S.mean()), variance / seeds, of_images, df, image_df, values_S)


def _variance_of_images(contrasts_SM: Floats) -> tuple[float, int]:
    """Variance of the mean contrast over new images, beyond what the seeds explain, and its degrees of freedom."""
    seeds, images = contrasts_SM.shape
    mean_M = contrasts_SM.mean(axis=0)
    image_square = seeds * float(mean_M.var(ddof=1))
    residuals_SM = contrasts_SM - mean_M - contrasts_SM.mean(axis=1, keepdims=True) + contrasts_SM.mean()
    residual_square = float(np.square(residuals_SM).sum() / ((images - 1) * (seeds - 1)))
    return max(0.0, (image_square - residual_square) / (seeds * images)), images - 1


def sign_flip_p_value(values_S: Floats) -> float:
    """Two-sided p-value of the sign-flip test, which assumes that differences are symmetric around 0, and no more.

    Exact: all sign patterns of up to 16 seeds are enumerated. The smallest possible value is 2 / 2^S.

    Raises:
        ValueError: for more than 16 seeds.
    """
    seeds = len(values_S)
    if seeds > MOST_SEEDS_TO_FLIP:
        raise ValueError(f"got {seeds} seeds; the exact test enumerates sign patterns of up to {MOST_SEEDS_TO_FLIP}")
    signs_PS = 1 - 2 * ((np.arange(2**seeds)[:, None] >> np.arange(seeds)) & 1)
    sums_P = np.abs(signs_PS @ values_S)
    return float(np.mean(np.round(sums_P, _DECIMALS) >= np.round(abs(values_S.sum()), _DECIMALS)))


def probability_of_improvement(ours_S: Floats, theirs_S: Floats) -> float:
    """Probability that a run of one variant beats a run of another, ties counting half (Agarwal et al. 2021)."""
    differences_SS = np.round(ours_S[:, None] - theirs_S, _DECIMALS)
    return float(np.mean(differences_SS > 0) + np.mean(differences_SS == 0) / 2)
