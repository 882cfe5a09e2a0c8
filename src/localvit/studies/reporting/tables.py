"""Results as plain data, as a pandas frame, and as rows for pages and papers."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from localvit.studies.record import Costs
from localvit.studies.reporting.wording import MINUS, agreement_text, limit_text, signed, verdict_text
from localvit.studies.statistics.contrast import Interval
from localvit.studies.statistics.findings import ClaimSummary, ContrastSummary, StudySummary, VariantSummary

NOTHING = "–"
_NO_GAIN = Interval(0.0, 0.0, 0.0)
MIB = 2**20
_COSTS = ("training_images_per_second", "inference_images_per_second", "training_memory")
_COLUMNS = {
    **{"study": "study", "scale": "scale", "name": "name", "parameters": "parameters", "macs": "macs"},
    **{f"accuracy.{part}": f"accuracy_{part}" for part in ("mean", "low", "high")},
    "gain.over": "gain_over",
    **{f"gain.{part}": f"gain_{part}" for part in ("mean", "low", "high")},
    **{name: name for name in _COSTS},
}
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", '"': "''"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
}


@dataclass(frozen=True)
class Cell:
    """A cell of a table: the text it shows, and the value it is sorted by (None if nothing is known)."""

    text: str
    value: float | str | None = None


def results(summary: StudySummary) -> dict[str, Any]:
    """A study's results for JSON, in percent, points, bytes and images per second; None if something is not known."""
    config, record = summary.config, summary.record
    return {
        "study": config.name,
        "data": config.recipe.data.source,
        "baseline": config.baseline,
        "variants": [_variant(summary, variant) for variant in summary.variants],
        "scale": config.scale,
        "question": config.question,
        "agreement": summary.agreement,
        "locality": {name: {**_bounds(gain), "over": config.isolates[name]} for name, gain in summary.isolated.items()},
        "claims": [_claim(claim) for claim in summary.claims],
        "prices": [
            {**asdict(price.price), "ratios": dict(price.ratios), "agreement": price.agreement}
            for price in summary.prices
        ],
        "seeds": len(config.seeds),
        "stopped_at": summary.stopped_at,
        "looks": [asdict(look) for look in record.looks],
        "sweep": [asdict(outcome) for outcome in record.sweep],
        "failed": [{"variant": run.variant, "seed": run.seed, "error": run.error} for run in summary.failed],
        "missing": [{"variant": run.variant, "seed": run.seed} for run in summary.missing],
        "command": record.command,
        "machine": record.machine,
        "plan": record.plan,
    }


def frame(summaries: Sequence[StudySummary]) -> pd.DataFrame:
    """All variants of all studies as a table with one number per column; accuracies of runs by place of the seed."""
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
    """A row per variant: name, parameters, MACs, accuracy, gain, two rates, and memory in MiB."""
    return [_row(summary, variant) for variant in summary.variants]


def claim_rows(summary: StudySummary) -> list[list[str]]:
    """A row per contrast and price: what is claimed, difference, p, sign-flip p, P(A > B), look, verdict, the paper."""
    rows = []
    for claim in summary.claims:
        if claim.expected > 1:
            text = agreement_text(claim.agreement, [part.margin for part in claim.parts])
            rows.append([f"{claim.claim}: each of {claim.expected}", *[""] * 5, text, ""])
        rows += [_contrast_row(claim, part) for part in claim.parts]
        if claim.expected == 1 and not claim.parts:
            rows.append([str(claim.claim), *[NOTHING] * 5, claim.agreement, NOTHING])
    for found in summary.prices:
        for name, limit in found.price.limits().items():
            ratio = found.ratios.get(name)
            holds = "undecided" if ratio is None else "agrees" if ratio <= limit else "differs"
            claimed = f"{limit_text(name)} of {found.price.of} at most {limit:g} times {found.price.than}'s"
            rows.append([claimed, NOTHING if ratio is None else f"{ratio:.3f} times", *[""] * 4, holds, ""])
    return rows


def latex(summaries: Sequence[StudySummary]) -> str:
    """A table for papers per study, which needs the package booktabs."""
    return "\n".join(_latex_table(summary, alone=len(summaries) == 1) for summary in summaries)


def latex_text(text: str) -> str:
    """``text`` escaped for LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)


def interval_text(interval: Interval, *, sign: bool = False) -> str:
    """Mean and half the width of the interval, if it is known."""
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
        "gain": None if baseline and variant.gain is None else {**_bounds(variant.gain or _NO_GAIN), "over": baseline},
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


def _claim(summary: ClaimSummary) -> dict[str, Any]:
    claim = summary.claim
    return {
        "claim": str(claim),
        "finding": claim.finding,
        "expect": claim.expect,
        "agreement": summary.agreement,
        "look": summary.look,
        "parts": [
            {
                "contrast": part.contrast.name,
                "weights": dict(part.contrast.weights),
                **_bounds(part.difference),
                "p_value": _known(part.p_value),
                "p_sign_flip": part.p_sign_flip,
                "p_improvement": part.p_improvement,
                "loss": None if part.loss is None else _bounds(part.loss),
                "image_share": part.image_share,
                "seeds": part.seeds,
                "verdict": part.verdict,
                "look": part.look,
                "margin": part.margin,
                "points": claim.paper_points(part.contrast),
            }
            for part in summary.parts
        ],
    }


def _contrast_row(claim: ClaimSummary, part: ContrastSummary) -> list[str]:
    points = claim.claim.paper_points(part.contrast)
    if claim.expected > 1:
        name, verdict = part.contrast.name, verdict_text(part)
    elif claim.claim.expect == "any":
        name, verdict = str(claim.claim), verdict_text(part)
    else:
        name, verdict = str(claim.claim), agreement_text(claim.agreement, [part.margin])
    return [
        name,
        interval_text(part.difference, sign=True),
        NOTHING if math.isnan(part.p_value) else p_cell(part.p_value),
        NOTHING if part.p_sign_flip is None else p_cell(part.p_sign_flip),
        NOTHING if part.p_improvement is None else f"{part.p_improvement:.2f}",
        str(part.look or part.seeds),
        verdict,
        NOTHING if points is None else signed(points, 1),
    ]


def _row(summary: StudySummary, variant: VariantSummary) -> list[Cell]:
    costs, gain, accuracy = variant.costs, variant.gain, variant.accuracy
    if summary.config.baseline_of(variant.name) is None:
        gain_cell = Cell("baseline")
    elif gain is None:
        gain_cell = Cell(NOTHING)
    else:
        gain_cell = Cell(interval_text(gain, sign=True), gain.mean)
    memory = costs.training_memory if costs else None
    return [
        Cell(variant.name, variant.name),
        _count(costs.parameters if costs else None),
        _count(costs.macs if costs else None),
        Cell(NOTHING) if accuracy is None else Cell(interval_text(accuracy), accuracy.mean),
        gain_cell,
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
        *("Variant", r"Params (M)", r"MACs (M)", r"Accuracy (\%)", f"Gain {latex_text(over)}", "Train (img/s)"),
    ]
    cells = [[_latex_cell(cell.text) for cell in row] for row in variant_rows(summary)]
    table = pd.DataFrame(
        [
            [
                latex_text(variant.name),
                *(("--", "--") if variant.costs is None else _millions(variant.costs)),
                *(row[place] for place in (3, 4, 5)),
            ]
            for variant, row in zip(summary.variants, cells, strict=True)
        ],
        columns=headers,
    )
    caption = (
        f"{latex_text(config.question)} Test accuracy after the last epoch, mean over "
        f"{summary.stopped_at or len(config.seeds)} seeds $\\pm$ "
        r"half the width of the 95\,\% interval over seeds and images; gains are paired by seed."
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
