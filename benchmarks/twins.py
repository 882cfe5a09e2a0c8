"""A baseline and its LocalViT twin, side by side: what is compared, and what follows from the measurements."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from localvit.benchmark import Contestant, Measurement, Setting, SettingResult, Spread, memory_ratio, ratio
from localvit.models.catalog import PUBLISHED

BASELINES = {model.name: model.baseline for model in PUBLISHED if model.baseline}
TINY = "localvit_tiny_patch16_224"
# Twins of other families, with the batch size of their training.
FAMILIES = {
    "localvit_t2t_7": 32,
    "localvit_pvt_tiny": 32,
    "localvit_tnt_small_patch16_224": 16,
    "localvit_swin_tiny_patch4_window7_224": 16,
}
# By row, or by row and precision: the lowest acceptable ratio (for memory, the highest), and one to aim for.
GOALS = {
    "A": {"bound": 0.85, "aim": 1.0},
    "B": {"bound": 0.90, "aim": 1.1},
    "C": {"bound": 0.80, "aim": 1.0},
    "D": {"bound": 0.95, "aim": 1.1},
    "E fp32": {"bound": 0.80, "aim": 1.0},
    "E bf16-mixed": {"bound": 0.70, "aim": 1.0},
    "F": {"bound": 1.15, "aim": 1.0},
    "G": {"bound": 0.80, "aim": 1.0},
    "H": {"bound": 0.90, "aim": 1.0},
}


@dataclass(frozen=True)
class Comparison:
    """A baseline and its twin in one setting.

    Attributes:
        row: row of the table.
        twin: a LocalViT model.
        setting: the shared setting.
        compiles: the values of ``compile`` to try. The best result counts.
        stand_in: what runs for a model of this name: the model itself, or a function that builds a smaller one.
    """

    row: str
    twin: str
    setting: Setting
    compiles: tuple[bool, ...] = (False,)
    stand_in: Callable[[str], str | Callable[[], nn.Module]] = str

    @property
    def baseline(self) -> str:
        """The model that the twin localizes."""
        return BASELINES[self.twin]

    @property
    def goal(self) -> dict[str, float]:
        """The ratio to reach."""
        return GOALS.get(self.row) or GOALS[f"{self.row} {self.setting.precision}"]

    @property
    def memory(self) -> bool:
        """Whether it compares memory instead of speed."""
        return self.row == "F"

    def contestants(self) -> list[Contestant]:
        """The forms of the baseline, then those of the twin."""
        return [
            Contestant(self.stand_in(model), f"{model}, {'compiled' if compiled else 'eager'}", {"compile": compiled})
            for model in (self.baseline, self.twin)
            for compiled in self.compiles
        ]

    def words(self) -> str:
        """The comparison as one line of text."""
        setting = replace(self.setting, compile=self.compiles[0]).words()
        if len(self.compiles) > 1:
            setting = setting.replace("eager", "better of eager and compiled")
        return setting if self.twin == TINY else f"{self.twin}: {setting}"


def verdict(comparison: Comparison, result: SettingResult) -> dict[str, Any]:
    """The ratio of the better forms, whether it reaches the goal, and the ratio of each form."""
    number = len(comparison.compiles)
    baselines, twins = result.measurements[:number], result.measurements[number:]
    best = _pair(_better(baselines, comparison), _better(twins, comparison), comparison)
    forms = [_pair(baseline, twin, comparison) for baseline, twin in zip(baselines, twins, strict=True)]
    goal, sign = comparison.goal, -1 if comparison.memory else 1
    found = best["ratio"]
    return {
        "comparison": comparison.words(),
        "quantity": "memory" if comparison.memory else "speed",
        **best,
        "forms": forms if number > 1 else [],
        **goal,
        "met": found is not None and sign * found["median"] >= sign * goal["bound"],
        "aim_met": found is not None and sign * found["median"] >= sign * goal["aim"],
        "errors": [one.error or one.memory_error for one in result.measurements if one.error or one.memory_error],
    }


def _pair(baseline: Measurement | None, twin: Measurement | None, comparison: Comparison) -> dict[str, Any]:
    found = _ratio(twin, baseline, comparison) if baseline and twin else None
    return {
        "baseline": baseline and baseline.name,
        "twin": twin and twin.name,
        "figures": [_figure(one, comparison) for one in (baseline, twin)],
        "ratio": found and dataclasses.asdict(found),
    }


def _better(forms: Sequence[Measurement], comparison: Comparison) -> Measurement | None:
    known = {figure: form for form in forms if (figure := _figure(form, comparison)) is not None}
    return known[min(known) if comparison.memory else max(known)] if known else None


def _figure(measurement: Measurement | None, comparison: Comparison) -> float | None:
    """Images per second, or bytes."""
    if measurement is None:
        return None
    if comparison.memory:
        return measurement.memory
    return measurement.images_per_second.median if measurement.images_per_second else None


def _ratio(twin: Measurement, baseline: Measurement, comparison: Comparison) -> Spread | None:
    if not comparison.memory:
        return ratio(twin, baseline)
    return None if (times := memory_ratio(twin, baseline)) is None else Spread.of([times])


def verdict_table(row: str, verdicts: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The verdicts of a row as headers and lines of text, with one more line per form."""
    memory = verdicts[0]["quantity"] == "memory"
    unit = "MiB" if memory else "images/s"
    headers = ["row and setting", f"baseline, {unit}", f"twin, {unit}", "ratio", "quartiles"]
    headers += ["at most" if memory else "at least", "aim", "verdict"]
    lines = []
    for one in verdicts:
        met = "met, and the aim" if one["aim_met"] else "met" if one["met"] else "not met"
        verdict_cells = [f"{one['bound']:.2f}", f"{one['aim']:.2f}", met]
        lines.append([f"{row}. {one['comparison']}", *_cells(one, memory=memory), *verdict_cells])
        lines += [
            [f"… {form['baseline'].rpartition(', ')[2]}", *_cells(form, memory=memory), "", "", ""]
            for form in one["forms"]
        ]
    return headers, lines


def _cells(pair: dict[str, Any], *, memory: bool) -> list[str]:
    """Figures of baseline and twin, their ratio and its quartiles."""
    figures = ["–" if value is None else f"{value / (2**20 if memory else 1):,.4g}" for value in pair["figures"]]
    found = pair["ratio"]
    ratios = [f"{found['median']:.2f}", f"{found['low']:.2f}–{found['high']:.2f}"] if found else ["–", "–"]
    return [*figures, *ratios]


def row_a(results: dict[str, Any] | None) -> dict[str, Any]:
    """Row A of the table in the form of the other rows, from what ``benchmarks/gpu.py`` wrote; None if it never ran.

    A trial, and a run that did not come to the clock, measured nothing.
    """
    step = (results or {"steps": {}})["steps"].get("clock", {"items": {}})
    verdicts = [row["judged"] for item in step["items"].values() for row in item["rows"]]
    if results is None or results["quick"] or results["device"] != "cuda" or not verdicts:
        return {"not_measured": "python benchmarks/gpu.py measures it on a GPU"}
    return {"benchmark": {"record": step["record"]}, "notes": [], "verdicts": verdicts, "quick": False}
