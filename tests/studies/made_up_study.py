"""Studies whose runs are made up, for the tests of what is reported about them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from localvit.data.config import DataConfig
from localvit.studies.claims import Claim
from localvit.studies.config import StudyConfig
from localvit.studies.record import Costs, Outcome, StudyRecord
from localvit.studies.statistics.findings import StudySummary
from localvit.studies.statistics.summary import summarize
from localvit.training import RunConfig, RunResult

EPOCHS = 12
ODD = """<b>odd</b> & "depth-wise" 100 %_$"""
STUDY = StudyConfig(
    name="drawn",
    question="Is <b>this</b> escaped & shown, 100 % of it?",
    paper_finding="Yes.",
    baseline="DeiT",
    variants={
        "DeiT": {},
        "no depth-wise": {"model.locality": {"depthwise": False}},
        ODD: {"model.locality": {}},
    },
    claims=[Claim(ODD, "DeiT", points=2.6), Claim(ODD, "no depth-wise"), Claim("DeiT", "no depth-wise")],
    recipe=RunConfig(data=DataConfig(source="digits")),
)
ACCURACIES = {"DeiT": (93.0, 94.0, 93.5), "no depth-wise": (95.0, 95.5, 96.0), ODD: (98.0, 97.5, 98.2)}
COSTS = {
    "DeiT": Costs(86_506, 1_730_120, 1500.0, 4000.0, 100 * 2**20),
    "no depth-wise": Costs(86_938, 1_802_000, 1200.0, 3000.0, 110 * 2**20),
    ODD: Costs(93_274, 1_865_480, 750.0, 2000.0, 120 * 2**20),
}
PAIRS = StudyConfig(
    name="pairs",
    scale="tiny",
    question="Does it help others?",
    paper_finding="All improve.",
    baseline={"A+": "A", "B+": "B"},
    variants={name: {} for name in ("A", "A+", "B", "B+")},
    claims=[Claim("A+", "A", points=1.0), Claim("B+", "B")],
)
PAIRS_ACCURACIES = {
    **{"A": (50.0, 51.0, 52.0), "A+": (53.0, 54.1, 54.9)},
    **{"B": (60.0, 61.0, 62.0), "B+": (61.0, 60.5, 62.5)},
}


def summary(
    config: StudyConfig = STUDY,
    accuracies: Mapping[str, Sequence[float | str | None]] = ACCURACIES,
    costs: Mapping[str, Costs] = COSTS,
    **changes: Any,
) -> StudySummary:
    """What is known of a study with these final accuracies by variant and place of the seed.

    Args:
        config: the study.
        accuracies: percent; a text is the error of a failed run, and None stands for a run that is still to be trained.
        costs: of the variants.
        changes: to the configuration.
    """
    config = replace(config, **changes)
    outcomes = tuple(
        _outcome(name, seed, accuracies[name][place], costs.get(name, Costs(10, 20)))
        for place, seed in enumerate(config.seeds)
        for name in config.variants
    )
    return summarize(StudyRecord(config, outcomes, costs, "localvit study drawn.yaml", "2 cores", "localvit 1.2.3"))


def _outcome(name: str, seed: int, accuracy: float | str | None, costs: Costs) -> Outcome:
    if not isinstance(accuracy, float):
        return Outcome(name, seed, f"{name}-{seed}", error=accuracy)
    curve = [accuracy * (1 - math.exp(-epoch / 2)) for epoch in range(1, EPOCHS)] + [accuracy]
    epochs: list[dict[str, float]] = [{"epoch": i + 1, "val_top1": value} for i, value in enumerate(curve)]
    return Outcome(name, seed, f"{name}-{seed}", RunResult(costs.parameters, costs.macs, epochs))
