"""Memory, and calls in processes of their own."""

import os
from collections.abc import Callable

import pytest
import torch

from localvit.benchmark.measurement import ProcessError, in_process, peak_memory

_MEBIBYTE = 2**20


def buffer(mebibytes: int) -> torch.Tensor:
    """So much memory, written to: what is only asked for takes none."""
    return torch.ones(mebibytes * _MEBIBYTE, dtype=torch.uint8)


def holds_and_takes(held: int, taken: int, once: int) -> int | None:
    """The memory of steps that take some, of a model that holds some, after a first step that takes more."""
    before = buffer(64)

    def prepare() -> Callable[[], None]:
        model = buffer(held)
        steps: list[torch.Size] = []

        def step() -> None:
            buffer(taken if steps else once)
            steps.append(model.shape)

        return step

    found = peak_memory(prepare)
    del before
    return found


def test_the_peak_is_what_the_model_holds_and_a_step_takes() -> None:
    found = in_process(holds_and_takes, 50, 80, 300)
    # Linux counts pages in batches, so that a count is off by some (proc(5)).
    assert 129 * _MEBIBYTE <= found <= 136 * _MEBIBYTE, "the first step counted, or what was there before"


def fails(message: str) -> None:
    raise ValueError(message)


def test_a_call_has_a_process_of_its_own() -> None:
    assert in_process(os.getpid) not in (os.getpid(), os.getppid())


@pytest.mark.parametrize(
    ("function", "argument", "message"),
    [(fails, "no such layer", "ValueError: no such layer"), (os._exit, 9, "killed, probably out of memory")],
)
def test_what_goes_wrong_there_is_told_here(function: Callable[..., None], argument: object, message: str) -> None:
    with pytest.raises(ProcessError, match=message):
        in_process(function, argument)


def test_what_cannot_be_handed_over_is_said() -> None:
    with pytest.raises(ProcessError, match="lambda"):
        in_process(lambda: None)
