"""Which layers and which families explain the accuracies of a study, for the page about its analysis.

A family is a baseline with its controls and its variant. Two questions:

- Within families: does a measure of the low, middle or high layers put networks in the order of their accuracies?
- Between families: does locality bring more accuracy where it changes a measure more?
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rank_correlation import FEWEST, RankCorrelation, rank_correlation  # a script beside this one
from statsmodels.stats.multitest import multipletests

from localvit.analysis.reporting.wording import figure
from localvit.analysis.table import ALIGNMENT, MEASURES
from localvit.benchmark.look import markdown_text
from localvit.studies.reporting.tables import NOTHING, p_cell
from localvit.studies.reporting.wording import listed, signed
from localvit.studies.statistics.contrast import Interval
from localvit.studies.statistics.findings import StudySummary

THIRDS = ("low", "middle", "high")
ROBUSTNESS, WHOLE = "robustness", ""  # the measure that has no layers, and what stands for them
LEVEL = 0.05

Families = Mapping[str, Sequence[str]]
Part = tuple[str, str]  # a measure, and a third of the layers (or WHOLE)
Found = Mapping[str, Any]  # what an analysis writes to results.json


def explained(summary: StudySummary, accuracies: Mapping[str, float], found: Found) -> list[str]:
    """Lines of Markdown: where measures go with accuracy.

    Args:
        summary: of a study.
        accuracies: test accuracy of the analyzed variants, in percent.
        found: what its analysis wrote to ``results.json``.
    """
    families: dict[str, list[str]] = {}
    for name in accuracies:
        families.setdefault(summary.config.baseline_of(name) or name, []).append(name)
    lines = ["### Where it explains the accuracies", "", *_within(accuracies, families, found), ""]
    return [*lines, *_between(summary, found), ""] if len(families) >= FEWEST else lines


def _within(accuracies: Mapping[str, float], families: Families, found: Found) -> list[str]:
    correlations: dict[Part, RankCorrelation] = {}
    for measure in _compared(found):
        parts = (
            {WHOLE: _means(found, measure)}
            if measure == ROBUSTNESS
            else by_third(found, measure, MEASURES[measure].headline, list(accuracies))
        )
        for third, values in parts.items():
            one = rank_correlation(values, accuracies, list(families.values()))
            if one.mean is not None:
                correlations[measure, third] = one
    corrected = multipletests([one.p_value for one in correlations.values()], LEVEL, "holm")[1]
    p_values = dict(zip(correlations, map(float, corrected), strict=True))
    measures = list(dict.fromkeys(measure for measure, _ in correlations))

    def row(name: str, texts: Mapping[Part, str]) -> str:
        cells = [" / ".join(text for (of, _), text in texts.items() if of == measure) for measure in measures]
        return f"| {name} | {' | '.join(cells)} |"

    rows = [
        row(markdown_text(family), {part: _sign(one.of[index]) for part, one in correlations.items()})
        for index, family in enumerate(families)
    ]
    if len(families) > 1:
        rows.append(row("*mean of families*", {part: _sign(one.mean) for part, one in correlations.items()}))
    rows.append(row("*p-value*", {part: p_cell(value) for part, value in p_values.items()}))
    return [
        _which_layers(correlations, p_values, families),
        "",
        "Rank correlations with accuracy over the networks of a family, for the low / middle / high third of the "
        f"layers. The p-values are exact, and corrected for {len(p_values)} of them by Holm's method.",
        "",
        f"| family | {' | '.join(MEASURES[measure].title for measure in measures)} |",
        f"|---|{'--:|' * len(measures)}",
        *rows,
    ]


def _which_layers(
    correlations: Mapping[Part, RankCorrelation], p_values: Mapping[Part, float], families: Families
) -> str:
    def text(part: Part) -> str:
        title = MEASURES[part[0]].title.lower()
        return f"{title} of the {part[1]} layers" if part[1] else title

    def mean(part: Part) -> float:
        return correlations[part].mean or 0.0

    orders = math.prod(math.factorial(len(names)) for names in families.values())
    if 2 * len(p_values) / orders > LEVEL:  # two of the orders are perfect
        return (
            f"**Which layers.** {sum(map(len, families.values()))} networks cannot tell: within families, they have "
            f"{orders} orders, too few to exclude chance in {len(p_values)} comparisons."
        )
    sure = [part for part in correlations if p_values[part] < LEVEL]
    sentences = []
    for verb, sign in (("rises", 1), ("falls", -1)):
        goes = [
            f"{text(part)} ({_sign(mean(part))}, p {cell if cell.startswith('<') else '= ' + cell})"
            for part in sure
            if mean(part) * sign > 0 and (cell := p_cell(p_values[part]))
        ]
        sentences += [f"Within a family, accuracy {verb} with {listed(goes)}."] if goes else []
    unsure = [part for part in correlations if part not in sure]
    if unsure:
        closest = max(unsure, key=lambda part: abs(mean(part)))
        none = "Nothing else" if sure else "Within a family, no measure"
        sentences.append(f"{none} goes with it beyond chance; {text(closest)} comes closest ({_sign(mean(closest))}).")
    return f"**Which layers.** {' '.join(sentences)}"


def _between(summary: StudySummary, found: Found) -> list[str]:
    isolates = summary.config.isolates
    gains = {name: gain.mean for name, gain in summary.isolated.items()}
    changes: dict[str, dict[str, float]] = {}
    for measure in _compared(found):
        means = _means(found, measure)
        changes[measure] = {name: means[name] - means[of] for name, of in isolates.items() if {name, of} <= set(means)}
    ranks = {measure: rank_correlation(change, gains, [list(gains)]) for measure, change in changes.items()}
    ranks = {measure: one for measure, one in ranks.items() if one.mean is not None}

    def change(name: str, measure: str) -> str:
        value = changes[measure].get(name)
        return NOTHING if value is None else figure(Interval(value, math.nan, math.nan), measure, sign=True)

    highest = max(abs(one.mean or 0.0) for one in ranks.values())
    best = [measure for measure, one in ranks.items() if math.isclose(abs(one.mean or 0.0), highest)]
    found_by = [f"{MEASURES[measure].title.lower()} ({_sign(ranks[measure].mean)})" for measure in best]
    sure = "beyond chance" if (ranks[best[0]].p_value or 1.0) < LEVEL / len(ranks) else "not beyond chance"
    order = sorted(gains, key=lambda name: -gains[name])
    return [
        f"**Which families.** Locality alone brings most to {order[0]} ({signed(gains[order[0]])} points) and least to "
        f"{order[-1]} ({signed(gains[order[-1]])}). Of what it changes inside, {listed(found_by)} "
        f"{'orders' if len(best) == 1 else 'order'} these gains best, {sure}: {len(gains)} families have "
        f"{math.factorial(len(gains))} orders, and {len(ranks)} measures were tried.",
        "",
        f"| locality alone changes | accuracy, points | {' | '.join(MEASURES[measure].title for measure in ranks)} |",
        f"|---|{'--:|' * (1 + len(ranks))}",
        *(
            f"| {markdown_text(name)} | {signed(gains[name])} | {' | '.join(change(name, one) for one in ranks)} |"
            for name in order
        ),
        f"| *rank correlation with the gain* | | {' | '.join(_sign(one.mean) for one in ranks.values())} |",
    ]


def _compared(found: Found) -> list[str]:
    """The measures that networks can be ordered by: similarity of layers has another reference in each of them."""
    return [measure for measure in found["measures"] if measure != ALIGNMENT]


def _means(found: Found, measure: str) -> dict[str, float]:
    overall = found["measures"][measure]["overall"]
    return {name: values["mean"] for name, values in overall.items() if values is not None}


def by_third(found: Found, measure: str, series: str, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """A series of networks, averaged over seeds and over the low, middle and high third of the layers.

    Returns:
        Values by third, then by name. A network without a value there is left out.
    """
    thirds: dict[str, dict[str, float]] = {third: {} for third in THIRDS}
    for name in names:
        of_seeds = [
            one["series"][series]
            for one in found["findings"]
            if (one["measure"], one["model"], one["state"]) == (measure, name, "trained") and "series" in one
        ]
        if not of_seeds:
            continue
        values_SL = np.array(of_seeds, dtype=float)  # S seeds, L layers; nan where a layer has no value
        for third, values_SK in zip(THIRDS, np.array_split(values_SL, len(THIRDS), axis=1), strict=True):
            if np.isfinite(values_SK).any():
                thirds[third][name] = float(np.nanmean(values_SK))
    return thirds


def _sign(value: float | None) -> str:
    return NOTHING if value is None else signed(value)
