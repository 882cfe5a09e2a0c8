"""The memory of a step of training or inference."""

import torch

from gpu_steps.models import Place
from localvit.benchmark import Contestant, Setting, Stepper
from localvit.benchmark.measurement import peak_memory


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
