"""Looking at a study more than once without more false findings than one look would give (group-sequential tests).

A study that is tested after 6, 10 and 16 seeds has three chances to find something by accident. So each look gets a
share of the error rate alpha, here by the spending function of Lan and DeMets (Biometrika 1983) that behaves like the
boundaries of O'Brien and Fleming (Biometrics 1979): strict early, nearly the full alpha at the last look. See Jennison
and Turnbull, Group Sequential Methods (2000), chapters 2 and 7.

Shape suffix: G nodes of the numerical integration.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy.special import ndtr, ndtri

_NODES_G, _WEIGHTS_G = np.polynomial.legendre.leggauss(128)
_FARTHEST = 12.0  # standard deviations; the normal tail beyond is below 1e-32
_SMALLEST_ALPHA = 1e-12


def spent(fraction: float, alpha: float) -> float:
    """Error rate that may be used up once a ``fraction`` (0 to 1) of the seeds of the last look is in."""
    return float(4 * ndtr(ndtri(alpha / 4) / math.sqrt(fraction)))  # alpha / 2 on either side


@functools.lru_cache(maxsize=4096)
def nominal_levels(looks: tuple[int, ...], alpha: float) -> tuple[float, ...]:
    """The level at which each look tests, two-sided, so that all looks together have an error rate of ``alpha``.

    Args:
        looks: numbers of seeds at which the study is tested, ascending.
        alpha: error rate of all looks together, between 0 and 1.

    Returns:
        For each look the p-value below which the study may stop.
    """
    fractions = [look / looks[-1] for look in looks]
    increments = np.diff([0.0, *(spent(fraction, alpha) for fraction in fractions)])
    process, bounds = _Process(), []
    for fraction, increment in zip(fractions, increments.tolist(), strict=True):
        bound = _FARTHEST
        if process.crossing(fraction, bound) < increment:
            bound = float(optimize.brentq(_excess, 0.0, _FARTHEST, args=(process, fraction, increment)))
        process.advance(fraction, bound)
        bounds.append(bound)
    return tuple((2 * ndtr(-np.asarray(bounds))).tolist())


def crossing_probability(looks: Sequence[int], bounds: Sequence[float]) -> float:
    """Probability that a test statistic without any effect leaves ``[-bound, bound]`` at one of the ``looks``.

    Args:
        looks: numbers of seeds, ascending.
        bounds: critical values of the standard normal statistic, one per look.
    """
    process, probability = _Process(), 0.0
    for look, bound in zip(looks, bounds, strict=True):
        probability += process.crossing(look / looks[-1], bound)
        process.advance(look / looks[-1], bound)
    return probability


def sequential_p_value(p_values: Sequence[float], looks: tuple[int, ...]) -> float:
    """The smallest error rate at which the study would have stopped by now; comparable with alpha, however many looks.

    Args:
        p_values: two-sided, one for each of the first looks.
        looks: all planned numbers of seeds, ascending.
    """
    return min(_alpha_of(place, p_value, looks) for place, p_value in enumerate(p_values))


def _alpha_of(place: int, p_value: float, looks: tuple[int, ...]) -> float:
    """The error rate whose boundary at this look is ``p_value``."""
    if len(looks) == 1:
        return p_value

    def difference(log_alpha: float) -> float:
        return nominal_levels(looks, math.exp(log_alpha))[place] - p_value

    low, high = math.log(_SMALLEST_ALPHA), math.log(0.999)
    if difference(low) >= 0:
        return _SMALLEST_ALPHA
    if difference(high) <= 0:
        return 1.0
    return math.exp(optimize.brentq(difference, low, high, xtol=1e-6))


def _excess(bound: float, process: "_Process", time: float, increment: float) -> float:
    return process.crossing(time, bound) - increment


class _Process:
    """A Brownian motion that starts at 0 and has stayed inside the bounds at all times so far.

    Its distribution is kept as ``masses_G`` at ``positions_G``, the nodes of a Gauss-Legendre quadrature.
    """

    def __init__(self) -> None:
        self.time = 0.0
        self.positions_G: NDArray[np.float64] = np.zeros(1)
        self.masses_G: NDArray[np.float64] = np.ones(1)

    def crossing(self, time: float, bound: float) -> float:
        """Probability of being outside ``[-bound, bound]`` standard deviations at a later ``time``, up to 1."""
        edge, step = bound * math.sqrt(time), math.sqrt(time - self.time)
        tails_G = ndtr((self.positions_G - edge) / step) + ndtr((-edge - self.positions_G) / step)
        return float(self.masses_G @ tails_G)

    def advance(self, time: float, bound: float) -> None:
        """Go on to a later ``time``, at which the motion is inside ``[-bound, bound]`` standard deviations."""
        edge, step = bound * math.sqrt(time), math.sqrt(time - self.time)
        positions_G = edge * _NODES_G
        distances_GG = (positions_G[:, None] - self.positions_G) / step
        density_GG = np.exp(-np.square(distances_GG) / 2) / (step * math.sqrt(2 * math.pi))
        self.masses_G = edge * _WEIGHTS_G * (density_GG @ self.masses_G)
        self.positions_G, self.time = positions_G, time
