"""The results as plain data, as a pandas frame, and as rows for pages and papers."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from localvit.studies.record import Costs
from localvit.studies.reporting.statistics import ClaimSummary, Comparison, Interval, StudySummary, VariantSummary
from localvit.studies.reporting.wording import MINUS, signed

NOTHING = "–"
MIB = 2**20
_COSTS = ("training_images_per_second", "inference_images_per_second", "training_memory")
_COLUMNS = {
    **{"study": "study", "scale": "scale", "name": "name", "parameters": "parameters", "macs": "macs"},
    **{f"accuracy.{part}": f"accuracy_{part}" for part in ("mean", "low", "high")},
    "gain.over": "gain_over",
    **{f"gain.{part}": f"gain_{part}" for part in ("mean", "low", "high")},
    **{f"gain.{part}": part for part in ("p_value", "p_holm", "verdict")},
    **{name: name for name in _COSTS},
}
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", '"': "''"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
}


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what it shows, and what it is sorted by; none where nothing is known."""

    text: str
    value: float | str | None = None


def results(summary: StudySummary) -> dict[str, Any]:
    """A study's results as JSON has them: percent, points, bytes and images a second; None where nothing is known."""
    config, record = summary.config, summary.record
    return {
        "study": config.name,
        "data": config.recipe.data.source,
        "baseline": config.baseline,
        "variants": [_variant(summary, variant) for variant in summary.variants],
        "scale": config.scale,
        "question": config.question,
        "agreement": summary.agreement,
        "claims": [_claim(claim) for claim in summary.claims],
        "failed": [{"variant": run.variant, "seed": run.seed, "error": run.error} for run in summary.failed],
        "missing": [{"variant": run.variant, "seed": run.seed} for run in summary.missing],
        "command": record.command,
        "machine": record.machine,
    }


def frame(summaries: Sequence[StudySummary]) -> pd.DataFrame:
    """All variants of all studies as a table with a column for each number; accuracies of runs by place of the seed."""
    rows = pd.concat(
        [
            pd.json_normalize(found["variants"]).assign(study=found["study"], scale=found["scale"])
            for found in map(results, summaries)
        ],
        ignore_index=True,
    )
    whole = dict.fromkeys(("parameters", "macs", "training_memory"), "Int64")
    seeds = [
        [variant.accuracies.get(seed) for seed in summary.config.seeds]
        for summary in summaries
        for variant in summary.variants
    ]
    runs = pd.DataFrame(seeds, index=rows.index).add_prefix("accuracy_run_")
    return pd.concat([rows.reindex(columns=list(_COLUMNS)).rename(columns=_COLUMNS).astype(whole), runs], axis=1)


def variant_rows(summary: StudySummary) -> list[list[Cell]]:
    """A row a variant: name, parameters, MACs, accuracy, gain, Holm's p, verdict, two rates and memory in MiB."""
    return [_row(summary, variant) for variant in summary.variants]


def claim_rows(summary: StudySummary) -> list[list[str]]:
    """A row a claim: the claim, the difference found, Holm's p, the agreement, and the points of the paper."""
    return [
        [
            str(claim.claim),
            NOTHING if claim.comparison is None else interval_text(claim.comparison.difference, sign=True),
            NOTHING if claim.comparison is None else p_cell(claim.comparison.p_holm),
            claim.agreement,
            NOTHING if claim.claim.points is None else signed(claim.claim.points, 1),
        ]
        for claim in summary.claims
    ]


def latex(summaries: Sequence[StudySummary]) -> str:
    """A table for papers for each study; they need the package booktabs."""
    return "\n".join(_latex_table(summary, alone=len(summaries) == 1) for summary in summaries)


def latex_text(text: str) -> str:
    """``text`` so that LaTeX prints it letter by letter."""
    return "".join(_LATEX.get(character, character) for character in text)


def interval_text(interval: Interval, *, sign: bool = False) -> str:
    """Mean and half the width of the interval, which is left out where a single seed leaves it unknown."""
    mean = signed(interval.mean) if sign else f"{interval.mean:.2f}"
    return mean if math.isnan(interval.low) else f"{mean} ± {interval.high - interval.mean:.2f}"


def p_cell(p_value: float) -> str:
    """A p-value for a column of them."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _variant(summary: StudySummary, variant: VariantSummary) -> dict[str, Any]:
    costs, baseline = variant.costs, summary.config.baseline_of(variant.name)
    accuracy = variant.accuracy
    return {
        "name": variant.name,
        "parameters": None if costs is None else costs.parameters,
        "macs": None if costs is None else costs.macs,
        "accuracy": {
            **_bounds(accuracy),
            "per_seed": [variant.accuracies[seed] for seed in _finished(summary, variant)],
        },
        "gain": _no_gain() if baseline is None else None if variant.gain is None else _gain(variant.gain),
        **{name: None if costs is None else getattr(costs, name) for name in _COSTS},
        "seeds": _finished(summary, variant),
    }


def _finished(summary: StudySummary, variant: VariantSummary) -> list[int]:
    return [seed for seed in summary.config.seeds if seed in variant.accuracies]


def _bounds(interval: Interval | None) -> dict[str, float | None]:
    found = (math.nan,) * 3 if interval is None else (interval.mean, interval.low, interval.high)
    return {name: _known(value) for name, value in zip(("mean", "low", "high"), found, strict=True)}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _gain(comparison: Comparison) -> dict[str, Any]:
    return {
        **_bounds(comparison.difference),
        **{"p_value": _known(comparison.p_value), "p_holm": _known(comparison.p_holm)},
        **{"verdict": comparison.verdict, "over": comparison.reference},
    }


def _no_gain() -> dict[str, Any]:
    return {"mean": 0, "low": 0, "high": 0, "p_value": None, "p_holm": None, "verdict": "baseline", "over": None}


def _claim(summary: ClaimSummary) -> dict[str, Any]:
    claim, comparison = summary.claim, summary.comparison
    return {
        **{"better": claim.better, "than": claim.than, "points": claim.points, "agreement": summary.agreement},
        "difference": None if comparison is None else _bounds(comparison.difference),
        "p_value": None if comparison is None else _known(comparison.p_value),
        "p_holm": None if comparison is None else _known(comparison.p_holm),
    }


def _row(summary: StudySummary, variant: VariantSummary) -> list[Cell]:
    costs, gain, accuracy = variant.costs, variant.gain, variant.accuracy
    if summary.config.baseline_of(variant.name) is None:
        gain_cells = [Cell("baseline"), Cell(""), Cell("baseline", "baseline")]
    elif gain is None:
        gain_cells = [Cell(NOTHING)] * 3
    else:
        gain_cells = [
            Cell(interval_text(gain.difference, sign=True), gain.difference.mean),
            Cell(p_cell(gain.p_holm), gain.p_holm),
            Cell(gain.verdict, gain.verdict),
        ]
    memory = costs.training_memory if costs else None
    return [
        Cell(variant.name, variant.name),
        _count(costs.parameters if costs else None),
        _count(costs.macs if costs else None),
        Cell(NOTHING) if accuracy is None else Cell(interval_text(accuracy), accuracy.mean),
        *gain_cells,
        _count(costs.training_images_per_second if costs else None),
        _count(costs.inference_images_per_second if costs else None),
        _count(None if memory is None else memory / MIB),
    ]


def _count(value: float | None) -> Cell:
    """Whole numbers with commas; small measured ones keep a decimal."""
    if value is None:
        return Cell(NOTHING)
    return Cell(f"{value:,.0f}" if isinstance(value, int) or value >= 100 else f"{value:.1f}", value)


def _latex_table(summary: StudySummary, *, alone: bool) -> str:
    config = summary.config
    over = f"over {config.baseline}" if isinstance(config.baseline, str) else "over the baseline"
    headers = [
        *("Variant", r"Params (M)", r"MACs (M)", r"Accuracy (\%)", f"Gain {latex_text(over)}", r"Holm $p$"),
        "Train (img/s)",
    ]
    cells = [[_latex_cell(cell.text) for cell in row] for row in variant_rows(summary)]
    table = pd.DataFrame(
        [
            [
                latex_text(variant.name),
                *(("--", "--") if variant.costs is None else _millions(variant.costs)),
                *(row[place] for place in (3, 4, 5, 7)),
            ]
            for variant, row in zip(summary.variants, cells, strict=True)
        ],
        columns=headers,
    )
    caption = (
        f"{latex_text(config.question)} Test accuracy after the last epoch, mean over {len(config.seeds)} seeds $\\pm$ "
        r"half the width of the 95\,\% interval; gains are paired by seed, $p$ after Holm's correction."
    )
    name = config.name if alone or not config.scale else f"{config.name}-{config.scale}"
    text: str = table.style.hide(axis="index").to_latex(
        column_format="l" + "r" * (len(headers) - 1),
        hrules=True,
        position="t",
        position_float="centering",
        caption=caption,
        label="tab:" + re.sub(r"[^\w:.-]+", "-", name),
    )
    return text


def _latex_cell(text: str) -> str:
    if text == NOTHING:
        return "--"
    if not any(sign in text for sign in ("±", "<", "+", MINUS)):
        return latex_text(text)
    return "$" + text.replace(MINUS, "-").replace("±", r"\pm") + "$"


def _millions(costs: Costs) -> tuple[str, str]:
    return f"{costs.parameters / 1e6:.3f}", f"{costs.macs / 1e6:.2f}"
