"""Findings as plain data: JSON for programs, and a table with one number a row for spreadsheets."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from localvit.analysis.analysis import Analysis, Finding
from localvit.analysis.measures.alignment import Alignment
from localvit.analysis.measures.attention_distance import QUANTILES, AttentionDistance
from localvit.analysis.measures.frequencies import FrequencyAmplitudes
from localvit.analysis.measures.kernels import DepthwiseKernels
from localvit.analysis.measures.receptive_field import ReceptiveField
from localvit.analysis.measures.robustness import Robustness
from localvit.analysis.reporting.galleries import coarse
from localvit.analysis.reporting.summary import headline
from localvit.analysis.reporting.wording import answer
from localvit.analysis.table import MEASURES

_DIGITS = 6


def results(analysis: Analysis, pictures: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Everything that was found, with None for what is not known or not finite.

    Args:
        analysis: what was found.
        pictures: for each measure, captions of its charts by the names of their files.
    """
    return {
        "title": analysis.title,
        "images": analysis.images,
        "models": list(analysis.names),
        "measures": {
            name: {
                "title": MEASURES[name].title,
                "unit": MEASURES[name].unit,
                "source": MEASURES[name].source,
                "answer": answer(analysis, name),
                "not_measurable": analysis.sentences(name),
                "pictures": dict(pictures[name]),
                "overall": {model: _interval(analysis, name, model) for model in analysis.names},
            }
            for name in analysis.measures
        },
        "findings": [_finding(one) for one in analysis.findings],
        "record": dict(analysis.record),
    }


def frame(analysis: Analysis) -> pd.DataFrame:
    """A row per number: model, seed, state, measure, series, layer or condition, value."""
    rows = [
        (one.subject, one.seed, one.state, one.measure, series, place, value)
        for one in analysis.findings
        if one.result is not None
        for series, values in one.result.series().items()
        for place, value in zip(_places(one.result), values, strict=True)
        if value is not None
    ]
    columns = ["model", "seed", "state", "measure", "series", "place", "value"]
    return pd.DataFrame(rows, columns=columns).astype({"seed": "Int64"})


def _places(result: Any) -> list[str]:
    return list(result.conditions if isinstance(result, Robustness) else result.layers)


def _interval(analysis: Analysis, measure: str, name: str) -> dict[str, float | None] | None:
    found = headline(analysis, measure, name)
    return None if found is None else {part: _known(getattr(found, part)) for part in ("mean", "low", "high")}


def _finding(one: Finding) -> dict[str, Any]:
    values: dict[str, Any] = {"model": one.subject, "seed": one.seed, "state": one.state, "measure": one.measure}
    if one.result is None:
        return {**values, "not_measurable": one.sentence}
    series = {name: [_known(value) for value in found] for name, found in one.result.series().items()}
    return {**values, "places": _places(one.result), "series": series, **_details(one.result)}


def _details(result: Any) -> dict[str, Any]:
    """What a measure found beyond its series."""
    match result:
        case AttentionDistance():
            quantiles = [None if found is None else _numbers(found) for found in result.quantiles]
            heads = [None if found is None else _numbers(found) for found in result.heads]
            return {
                "heads": heads,
                "quantiles_at": list(QUANTILES),
                "quantiles": quantiles,
                "notes": list(result.notes),
            }
        case ReceptiveField():
            return {"centre": _numbers(result.centres_L2), "last_map": _numbers(coarse(result.maps_LYX[-1]))}
        case FrequencyAmplitudes():
            names = ("frequencies", "after_attention", "after_feed_forward")
            return {name: [_numbers(found) for found in getattr(result, name)] for name in names}
        case Alignment():
            return {"other_layers": list(result.other_layers), "cka": _numbers(result.cka_LK)}
        case DepthwiseKernels():
            return {
                "kernels": [
                    {
                        "layer": found.layer,
                        "components": _numbers(found.components_TYX),
                        "explained": _numbers(found.explained_T),
                        "spectrum": _numbers(found.spectrum_FF),
                    }
                    for found in result.found
                ]
            }
        case Robustness():
            return {"images": result.images}
    return {}


def _numbers(values: Any) -> Any:
    """Nested lists of numbers, rounded, for JSON."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    return [_numbers(value) for value in values] if isinstance(values, list) else _known(values)


def _known(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}")
