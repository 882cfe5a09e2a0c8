"""Step 2, row A of the clock: each baseline and its twin in turns, eager and compiled, training and inference."""

from functools import partial
from typing import Any

import torch
from twins import Comparison, verdict

from gpu_steps.models import PAIRS, Place, Size, stand_in
from gpu_steps.running import Item, Row, Step
from localvit.benchmark import Contestant, Setting, Stepper, measure
from localvit.benchmark.measurement import peak_memory
from localvit.system.progress import progress_bar
from localvit.system.terminal import ERRORS

COLUMNS = (
    "row A", "form", "baseline, images/s", "twin, images/s", "ratio", "quartiles", "at least", "verdict",
    "baseline, MiB", "twin, MiB", "memory ratio",
)  # fmt: skip
BATCH_SIZE = 256


def step(place: Place) -> Step:
    """The step for a machine."""
    return Step(
        "clock",
        "Row A: what locality costs",
        "Each baseline and its LocalViT twin took turns in one process; a ratio is the twin's images per second "
        "divided by the baseline's, as the median over rounds with quartiles. Inference is in bf16, of fused twins; "
        "training is in bf16-mixed. Memory is the peak of an eager step, model, optimizer and images included.",
        COLUMNS,
        0.42,
        tuple(Item(_name(one), partial(_compare, one, place)) for one in comparisons(place)),
    )


def comparisons(place: Place) -> list[Comparison]:
    """All of row A, in order of worth: LocalViT-T, then the other families eager, then compiled."""
    training = Setting("training", "bf16-mixed", batch_size=BATCH_SIZE, device=place.device)
    inference = Setting(precision="bf16", fuse=True, batch_size=BATCH_SIZE, device=place.device)
    if place.quick:
        return [_trial(training, compiled=False), _trial(inference, compiled=True)]
    first, *others = PAIRS
    order = [(first, compiled) for compiled in (False, True)]
    order += [(twin, compiled) for compiled in (False, True) for twin in others]
    return [Comparison("A", twin, setting, (one,)) for twin, one in order for setting in (training, inference)]


def _trial(setting: Setting, *, compiled: bool) -> Comparison:
    size: Size = "tiny"
    small = Setting(setting.mode, setting.precision, fuse=setting.fuse, batch_size=4, image_size=32, device="auto")
    return Comparison("A", PAIRS[0], small, (compiled,), stand_in(size))


def _name(one: Comparison) -> str:
    return f"{one.twin}: {one.setting.mode}, {'compiled' if one.compiles[0] else 'eager'}"


def _compare(one: Comparison, place: Place) -> list[Row]:
    setting, contestants = one.setting, one.contestants()
    how: dict[str, Any] = {"rounds": 2, "seconds_a_turn": 0.02} if place.quick else {}
    with progress_bar(ERRORS) as progress:
        task = progress.add_task(_name(one), total=None, figures="")
        found = measure(
            contestants, setting, watch=lambda name, news: progress.update(task, figures=f"{name}: {news}"), **how
        )
    judged = verdict(one, found)
    if judged["errors"]:
        raise RuntimeError("; ".join(judged["errors"]))
    speeds, ratio = judged["figures"], judged["ratio"]
    # Compiled, a model would have to be compiled again for it.
    memories = [None, None] if one.compiles[0] else [memory(contestant, setting, place) for contestant in contestants]
    return [
        {
            "row A": one.words(),
            "form": "compiled" if one.compiles[0] else "eager",
            "baseline, images/s": speeds[0],
            "twin, images/s": speeds[1],
            "ratio": ratio["median"],
            "quartiles": f"{ratio['low']:.2f} to {ratio['high']:.2f}",
            "at least": judged["bound"],
            "verdict": "met" if judged["met"] else "not met",
            "baseline, MiB": memories[0],
            "twin, MiB": memories[1],
            "memory ratio": over(memories[1], memories[0]),
            "judged": judged,
            "rates": [one.rates for one in found.measurements],
        }
    ]


def memory(contestant: Contestant, shared: Setting, place: Place) -> float | None:
    """Peak memory of a step in MiB, in this process, which on a GPU knows what each model allocates.

    On a CPU a process must be new for it (``localvit.benchmark.contestant_memory``), so a trial only exercises it.
    """
    setting = contestant.setting(shared)
    torch.compiler.reset()
    try:
        found = peak_memory(lambda: Stepper(contestant, setting).step, device=place.device)
    finally:
        torch.compiler.reset()
    return None if found is None else found / 2**20


def over(mebibytes: float | None, baseline: float | None) -> float | None:
    """A ratio of memories; None if either is unknown."""
    return mebibytes / baseline if mebibytes and baseline else None
