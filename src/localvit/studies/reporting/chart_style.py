"""How the variants of a study look in charts: color, symbol and dash."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from localvit.benchmark.look import COLOURS, GREY
from localvit.studies.config import StudyConfig
from localvit.studies.statistics.contrast import Interval

SYMBOLS = ("square", "diamond", "triangle-up", "star", "x", "cross", "triangle-down", "pentagon", "hexagram")
DASHES = ("solid", "longdash", "dashdot", "dot", "longdashdot")


@dataclass(frozen=True)
class Look:
    """How a variant is drawn."""

    colour: str
    symbol: str
    dash: str


def looks(config: StudyConfig) -> dict[str, Look]:
    """The look of each variant. A single baseline is grey; pairs share a color, with hollow baselines."""
    if isinstance(config.baseline, str):
        others = [name for name in config.variants if name != config.baseline]
        baseline = {config.baseline: Look(GREY, "circle", "dash")}
        return baseline | {name: _look(index) for index, name in enumerate(others)}
    pairs = {baseline: variant for variant, baseline in config.baseline.items()}
    if len(pairs) < len(config.baseline):  # variants share a baseline, so colors cannot tell pairs
        return {name: _look(index) for index, name in enumerate(config.variants)}
    found: dict[str, Look] = {}
    alone = [name for name in config.variants if name not in pairs and name not in pairs.values()]
    for index, name in enumerate([*pairs, *alone]):
        look = _look(index)
        if name in pairs:
            found[pairs[name]] = Look(look.colour, look.symbol, "solid")
        found[name] = Look(look.colour, f"{look.symbol}-open", "dot") if name in pairs else look
    return found


def _look(index: int) -> Look:
    return Look(COLOURS[index % len(COLOURS)], SYMBOLS[index % len(SYMBOLS)], DASHES[index % len(DASHES)])


def error_bar(interval: Interval, colour: str) -> dict[str, Any] | None:
    """The interval around a mean, or None if it is unknown."""
    if np.isnan(interval.low):
        return None
    return {
        "symmetric": False,
        "array": [interval.high - interval.mean],
        "arrayminus": [interval.mean - interval.low],
        "color": colour,
        "thickness": 2,
        "width": 5,
    }
