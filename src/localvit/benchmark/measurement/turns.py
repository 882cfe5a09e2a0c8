"""Times contestants in turns, so that a slow moment of the machine affects all of them."""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K", bound=Hashable)

_WARMUP = 3
_MOST_WARMUP = 20
_SETTLED = 1.5  # a step that still compiles or allocates takes longer than this multiple of the shortest


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Timed:
    """Code to time.

    Attributes:
        step: runs it once.
        images: images per step.
        wait: waits until the device is idle. Not needed on the CPU.
        prepare: called before each turn, outside the measured time.
    """

    step: Callable[[], object]
    images: int
    wait: Callable[[], object] = _nothing
    prepare: Callable[[], object] = _nothing

    def seconds(self, steps: int) -> float:
        """Duration of a number of steps."""
        self.wait()
        start = time.perf_counter()
        for _ in range(steps):
            self.step()
        self.wait()
        return time.perf_counter() - start

    def warm_up(self) -> float:
        """Take three steps, and more (at most 20) until their duration settles. Returns the shortest in seconds."""
        self.prepare()
        seconds: list[float] = []
        while len(seconds) < _WARMUP or (seconds[-1] > _SETTLED * min(seconds) and len(seconds) < _MOST_WARMUP):
            seconds.append(self.seconds(1))
        return min(seconds)


def rotated(keys: Sequence[K], rounds: int) -> list[list[K]]:
    """The order of each round. It rotates, so that no contestant always runs after the same other one."""
    return [[*keys[number % len(keys) :], *keys[: number % len(keys)]] if keys else [] for number in range(rounds)]


def take_turns(
    contestants: Mapping[K, Timed],
    rounds: int,
    *,
    seconds_a_turn: float,
    watch: Callable[[K, float | None], object] = lambda key, rate: None,
) -> dict[K, list[float] | Exception]:
    """Warm up all contestants, then let each take one turn per round.

    Args:
        contestants: contestants by name.
        rounds: number of turns per contestant.
        seconds_a_turn: approximate duration of a turn, which has at least one step.
        watch: called after each turn with its rate, and after the warm-up with None.

    Returns:
        For each contestant, images per second in each round; or the exception it raised, after which it is left out.
    """
    steps: dict[K, int] = {}
    outcomes: dict[K, list[float] | Exception] = {}
    for key, timed in contestants.items():
        try:
            steps[key] = max(1, round(seconds_a_turn / timed.warm_up()))
            outcomes[key] = []
        except Exception as error:
            outcomes[key] = _without_frames(error)
        watch(key, None)
    for order in rotated(list(contestants), rounds):
        for key in order:
            timed, rates = contestants[key], outcomes[key]
            if isinstance(rates, Exception):
                continue
            try:
                timed.prepare()
                rates.append(steps[key] * timed.images / timed.seconds(steps[key]))
            except Exception as error:
                outcomes[key] = _without_frames(error)
            else:
                watch(key, rates[-1])
    return outcomes


def _without_frames(error: Exception) -> Exception:
    """Drop the traceback, whose frames would keep tensors alive after running out of memory."""
    error.__context__ = None
    return error.with_traceback(None)
