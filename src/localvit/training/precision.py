"""Tells whether the processor is made for the precision that a run asks for."""

import time

import torch

from localvit.training.config import HardwareConfig

_SIDE, _TURNS = 384, 7


def advice(hardware: HardwareConfig) -> str | None:
    """What to change if training in bfloat16 is slower here than in float32, as on processors that emulate it.

    Args:
        hardware: of a run.

    Returns:
        A sentence, or None if there is nothing to say.
    """
    on_cpu = hardware.accelerator == "cpu" or (hardware.accelerator == "auto" and not torch.accelerator.is_available())
    if not on_cpu or not hardware.precision.startswith("bf16") or bfloat16_is_fast():
        return None
    return (
        f"hardware.precision is {hardware.precision}, which this processor emulates; 32-true is faster here, and "
        "differs in rounding only"
    )


def bfloat16_is_fast() -> bool:
    """Whether this processor multiplies bfloat16 matrices at least as fast as float32 ones. Takes milliseconds."""
    return _seconds(torch.bfloat16) <= _seconds(torch.float32)


def _seconds(dtype: torch.dtype) -> float:
    """The shortest of a few matrix products, because other processes may disturb some."""
    square = torch.ones(_SIDE, _SIDE, dtype=dtype)
    durations = []
    for _ in range(_TURNS):
        start = time.perf_counter()
        square @ square
        durations.append(time.perf_counter() - start)
    return min(durations)
