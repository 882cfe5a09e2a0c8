"""Contestants that take turns, so that a machine that slows down slows all of them."""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K", bound=Hashable)

_WARMUP = 3
_MOST_WARMUP = 20
_SETTLED = 1.5  # a step that still compiles, or allocates, takes longer than this many times the shortest


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Timed:
    """What is timed.

    Attributes:
        step: does it once.
        images: of one step.
        wait: until the device has done what it was given; nothing to do on the CPU.
        prepare: before each turn, off the clock.
    """

    step: Callable[[], object]
    images: int
    wait: Callable[[], object] = _nothing
    prepare: Callable[[], object] = _nothing

    def seconds(self, steps: int) -> float:
        """Time of so many steps."""
        self.wait()
        start = time.perf_counter()
        for _ in range(steps):
            self.step()
        self.wait()
        return time.perf_counter() - start

    def warm_up(self) -> float:
        """Take three steps, and more until they have settled (20 at most): seconds of the shortest."""
        self.prepare()
        seconds: list[float] = []
        while len(seconds) < _WARMUP or (seconds[-1] > _SETTLED * min(seconds) and len(seconds) < _MOST_WARMUP):
            seconds.append(self.seconds(1))
        return min(seconds)


def rotated(keys: Sequence[K], rounds: int) -> list[list[K]]:
    """The order of each round: everyone is first in turn, so that none always follows the same heat or quiet."""
    return [[*keys[number % len(keys) :], *keys[: number % len(keys)]] if keys else [] for number in range(rounds)]


def take_turns(
    contestants: Mapping[K, Timed],
    rounds: int,
    *,
    seconds_a_turn: float,
    watch: Callable[[K, float | None], object] = lambda key, rate: None,
) -> dict[K, list[float] | Exception]:
    """Warm all contestants up, then let each take a turn in every round.

    Args:
        contestants: by name.
        rounds: how many turns each takes.
        seconds_a_turn: about how long a turn is; at least one step.
        watch: is told of each turn, with its rate; None for the warm-up.

    Returns:
        Images a second of each contestant, round by round; the exception of one that raised, which takes no more turns.
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
    """The error alone: the frames of its traceback would keep the tensors that did not fit."""
    error.__context__ = None
    return error.with_traceback(None)
