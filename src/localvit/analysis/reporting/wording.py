"""What an analysis found, in sentences."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from localvit.analysis.analysis import Analysis
from localvit.analysis.measures.attention_distance import AttentionDistance
from localvit.analysis.reporting.summary import by_layer, difference, headline, headline_series
from localvit.analysis.table import ALIGNMENT, MEASURES
from localvit.studies.reporting.tables import NOTHING
from localvit.studies.reporting.wording import listed, signed
from localvit.studies.statistics.contrast import Interval

_SPACE = "\N{NO-BREAK SPACE}"
DIGITS = {"": 3, "px": 2, "%": 1}  # decimals, by unit
GROWS = 1.05  # how much farther the last third of the layers must look than the first
_KINDS = ("identity", "blur", "edge")


def answer(analysis: Analysis, measure: str) -> list[str]:
    """The answer of one measure: locality's own effect, the differences from baselines, and particulars.

    Returns:
        Sentences. If there are several families: one about locality's own effect in all of them, and a paragraph for
        each.
    """
    families = analysis.families()
    if len(families) == 1:
        return _of_family(analysis, measure)
    paragraphs = [" ".join(_of_family(family, measure)) for family in families]
    return [*_isolated(analysis, measure), *filter(None, paragraphs)]


def _of_family(analysis: Analysis, measure: str) -> list[str]:
    found = _of_alignment(analysis) if measure == ALIGNMENT else _comparisons(analysis, measure)
    particulars = _PARTICULARS.get(measure)
    return [*(found or _values(analysis, measure)), *(particulars(analysis) if particulars else [])]


def figure(interval: Interval, measure: str, *, sign: bool = False, bounds: bool = True) -> str:
    """A headline with its unit and interval: ``46.2 px (95 % interval 44.0 to 48.4)``; differences in % are points."""
    unit = MEASURES[measure].unit
    digits = DIGITS[unit]
    ending = f"{_SPACE}{'points' if sign and unit == '%' else unit}" if unit else ""

    def text(value: float) -> str:
        return signed(value, digits) if sign else signed(value, digits).removeprefix("+")

    found = f"{text(interval.mean)}{ending}"
    if not bounds or math.isnan(interval.low):
        return found
    return f"{found} (95{_SPACE}% interval {text(interval.low)} to {text(interval.high)})"


def cell(interval: Interval | None, measure: str) -> str:
    """A headline for a table: mean and half the width of its interval, as far as they are known."""
    if interval is None:
        return NOTHING
    mean = figure(interval, measure, bounds=False).removesuffix(MEASURES[measure].unit).strip()
    if math.isnan(interval.low):
        return mean
    digits = DIGITS[MEASURES[measure].unit]
    return f"{mean} ± {signed(interval.high - interval.mean, digits).removeprefix('+')}"


def _isolated(analysis: Analysis, measure: str) -> list[str]:
    """What locality itself changes in every family, as one sentence."""
    changes = [
        f"{figure(change, measure, sign=True)} in {name}"
        for name, control in analysis.isolates.items()
        if measure != ALIGNMENT and (change := difference(analysis, measure, name, control)) is not None
    ]
    what = _what(analysis, measure).removesuffix(" is")
    return [f"{what} changes through locality alone by {listed(changes)}."] if changes else []


def _comparisons(analysis: Analysis, measure: str) -> list[str]:
    """Models against the controls that differ in locality alone, then against their baselines."""
    sentences = []
    for name, control in analysis.isolates.items():
        ours, theirs = headline(analysis, measure, name), headline(analysis, measure, control)
        change = difference(analysis, measure, name, control)
        if ours is not None and theirs is not None and change is not None:
            sentences.append(
                f"{_what(analysis, measure)} {figure(ours, measure, bounds=False)} in {name} and "
                f"{figure(theirs, measure, bounds=False)} in {control}, which differs in locality alone: "
                f"{figure(change, measure, sign=True)}."
            )
    by_baseline: dict[str, list[str]] = {}
    for name in analysis.names:
        baseline = analysis.baseline_of(name)
        change = None if baseline is None else difference(analysis, measure, name, baseline)
        ours = headline(analysis, measure, name)
        if baseline is not None and ours is not None and change is not None:
            words = f"{figure(ours, measure, bounds=False)} in {name} ({_change(change, measure)})"
            by_baseline.setdefault(baseline, []).append(words)
    for baseline, changes in by_baseline.items():
        theirs = headline(analysis, measure, baseline)
        if theirs is not None:
            start = "It is" if sentences else _what(analysis, measure)
            sentences.append(f"{start} {figure(theirs, measure, bounds=False)} in {baseline}, and {listed(changes)}.")
    return sentences


def _change(change: Interval, measure: str) -> str:
    """A difference with its interval, without brackets of its own."""
    return figure(change, measure, sign=True).replace(" (95", ", 95").rstrip(")")


def _values(analysis: Analysis, measure: str) -> list[str]:
    known = {name: found for name in analysis.names if (found := headline(analysis, measure, name)) is not None}
    if not known:
        return []
    words = listed([f"{figure(found, measure)} in {name}" for name, found in known.items()])
    return [f"{_what(analysis, measure)} {words}."]


def _what(analysis: Analysis, measure: str) -> str:
    """The start of a sentence about a headline."""
    if measure == "robustness":
        series = headline_series(measure, [one for one in analysis.findings if one.measure == measure])
        what = "accuracy" if series == "accuracy" else "share of predictions that stay the same"
        return f"On changed images, the {what} is"
    names = {
        "receptive-field": "radius that holds half of the receptive field",
        "frequencies": "relative log amplitude at the highest frequency",
        "kernels": "share of the middle tap",
    }
    title = MEASURES[measure].title
    return f"Averaged over layers, the {names.get(measure, title[0].lower() + title[1:])} is"


def _of_alignment(analysis: Analysis) -> list[str]:
    found = []
    for name in analysis.names:
        other = analysis.isolates.get(name) or analysis.baseline_of(name)
        mean = headline(analysis, ALIGNMENT, name)
        if other is not None and mean is not None:
            found.append(f"{figure(mean, ALIGNMENT, bounds=False)} of {name} with {other}")
    return [f"Layers at the same depth have a mean similarity of {listed(found)}."] if found else []


def _mean_of_layers(analysis: Analysis, measure: str, series: str, name: str) -> float | None:
    known = [one.mean for one in by_layer(analysis, measure, series, name) if one is not None]
    return float(np.mean(known)) if known else None


def _by_name(analysis: Analysis, words: Callable[[str], str | None]) -> list[str]:
    return [found for name in analysis.names if (found := words(name)) is not None]


def _of_branches(analysis: Analysis) -> list[str]:
    """Which branch locality comes from."""

    def words(name: str) -> str | None:
        parts = [_mean_of_layers(analysis, "locality-index", part, name) for part in ("attention", "feed-forward")]
        known = [part for part in parts if part is not None]
        return f"{known[0]:.3f} + {known[1]:.3f} in {name}" if len(known) == 2 else None

    found = _by_name(analysis, words)
    uniform = [_mean_of_layers(analysis, "locality-index", "uniform", name) for name in analysis.names]
    alike = next((value for value in uniform if value is not None), None)
    if not found or alike is None:
        return []
    return [
        f"It comes from attention + feed-forward network: {listed(found)}. A branch that treats all tokens alike has "
        f"{alike:.3f}."
    ]


def _of_depth(analysis: Analysis) -> list[str]:
    """Whether attention reaches farther with depth, and whether the heads of a layer differ (Raghu et al. 2021)."""

    def words(name: str) -> str | None:
        layers = by_layer(analysis, "attention-distance", "mean", name)
        means = [found.mean for found in layers if found is not None]
        if len(means) < 2:
            return None
        third = max(1, len(means) // 3)
        low, high = float(np.mean(means[:third])), float(np.mean(means[-third:]))
        verb = "grows" if high > GROWS * low else "shrinks" if low > GROWS * high else "stays about the same"
        return f"{verb} in {name} ({low:.2f} to {high:.2f}{_SPACE}px)"

    def spread(name: str) -> str | None:
        found = analysis.of("attention-distance", name)
        if not found or not isinstance(found[0].result, AttentionDistance):
            return None
        heads = next(heads_A for heads_A in found[0].result.heads if heads_A is not None)
        return f"{heads.min():.2f} and {heads.max():.2f}{_SPACE}px in {name}" if len(heads) > 1 else None

    depth, heads = _by_name(analysis, words), _by_name(analysis, spread)
    sentences = [f"From the first third of the layers to the last, it {listed(depth)}."] if depth else []
    return sentences + ([f"Heads of the first layer lie between {listed(heads)}."] if heads else [])


def _of_training(analysis: Analysis) -> list[str]:
    """How training changed the receptive field."""

    def words(name: str) -> str | None:
        before, after = (headline(analysis, "receptive-field", name, state) for state in ("initial", "trained"))
        if before is None or after is None:
            return None
        return f"from {before.mean:.2f} to {after.mean:.2f}{_SPACE}px in {name}"

    found = _by_name(analysis, words)
    return [f"Training changed it {listed(found)}."] if found else []


def _of_smoothing(analysis: Analysis) -> list[str]:
    """Whether feed-forward networks sharpen."""

    def words(name: str) -> str | None:
        mean = _mean_of_layers(analysis, "frequencies", "change by feed-forward", name)
        return None if mean is None else f"{signed(mean, 3)} in {name}"

    found = _by_name(analysis, words)
    if not found:
        return []
    return [f"The feed-forward network of a layer changes it by {listed(found)}; above 0, it sharpens."]


def _of_kinds(analysis: Analysis) -> list[str]:
    """What most kernels are."""

    def words(name: str) -> str | None:
        shares: Mapping[str, float | None] = {
            kind: _mean_of_layers(analysis, "kernels", f"{kind} kernels", name) for kind in _KINDS
        }
        known = [f"{100 * share:.0f}{_SPACE}% {kind}" for kind, share in shares.items() if share is not None]
        return f"{', '.join(known)}" if known else None

    found = [f"{words(name)} in {name}" for name in analysis.names if words(name)]
    return [f"By kind, the kernels are {'; '.join(found)}."] if found else []


_PARTICULARS: dict[str, Callable[[Analysis], list[str]]] = {
    "locality-index": _of_branches,
    "attention-distance": _of_depth,
    "receptive-field": _of_training,
    "frequencies": _of_smoothing,
    "kernels": _of_kinds,
}
