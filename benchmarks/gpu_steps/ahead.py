"""Builds the contestants of the clock beforehand, side by side, so that the clock need not wait for the compiler.

Building fills the compiler's caches on disk, and shows the memory of a step, which needs no quiet GPU as speed does. A
contestant that fails here compiles, or shows its memory, during the clock.
"""

import functools
from collections.abc import Sequence
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._inductor.runtime.autotune_cache import AutotuneCache
from twins import Comparison

from gpu_steps.children import Children
from gpu_steps.memory import memory
from gpu_steps.models import Place
from gpu_steps.running import Item, Row, Step
from localvit.benchmark import Contestant, Setting
from localvit.system.machine import cores

NAME = "ahead"
COLUMNS = ("contestant", "peak MiB")


def step(comparisons: Sequence[Comparison], place: Place, children: Children) -> Step:
    """The step that builds the contestants of these comparisons: first those that are compiled."""
    order = sorted(comparisons, key=lambda one: not any(one.compiles))
    return Step(
        NAME,
        "Built ahead of the clock",
        "Each contestant took three steps in a process beside others, which fills the compiler's caches and shows its "
        "memory. What did not get done here was done within the clock.",
        COLUMNS,
        0.18,
        tuple(
            Item(_name(contestant, one.setting), functools.partial(build, contestant, one.setting, place))
            for one in order
            for contestant in one.contestants()
        ),
        children.outcomes,
    )


def processes(place: Place) -> int:
    """How many contestants are built side by side. Each may take up to 25 GB of a GPU, rarely all at once."""
    return 1 if place.device == "cpu" else max(1, min(4, cores() // 4))


def memory_found(results: dict[str, Any], contestant: Contestant, shared: Setting) -> float | None:
    """The memory of a contestant in MiB if it was built ahead."""
    items = results["steps"].get(NAME, {"items": {}})["items"]
    rows = items.get(_name(contestant, shared), {"rows": []})["rows"]
    return rows[0]["peak MiB"] if rows else None


def build(contestant: Contestant, shared: Setting, place: Place) -> list[Row]:
    """Build a contestant as the clock does, and take its first steps.

    Among some variants of a kernel the compiler keeps the fastest. What it finds while others use the GPU is not kept:
    the clock tries the variants by itself.
    """
    _use_libraries(place.device)
    with mock.patch.object(AutotuneCache, "save"):
        mebibytes = memory(contestant, shared, place)
    return [{"contestant": _name(contestant, shared), "peak MiB": mebibytes}]


@functools.cache
def _use_libraries(device: str) -> None:
    """Let the libraries of matrix products allocate what they work with, once a process: it belongs to no model."""
    for dtype in (torch.bfloat16, torch.float32):
        layer = nn.Linear(64, 64, device=device, dtype=dtype)
        layer(torch.ones(64, 64, device=device, dtype=dtype)).sum().backward()


def _name(contestant: Contestant, shared: Setting) -> str:
    return f"{contestant.name}, {shared.mode}"
