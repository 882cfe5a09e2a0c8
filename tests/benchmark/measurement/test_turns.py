"""Contestants that take turns. A clock that only they advance keeps a busy machine out of it."""

import statistics
import time
from typing import Any

import pytest

from localvit.benchmark.measurement import Timed, rotated, take_turns


def test_everyone_is_first_in_turn() -> None:
    assert rotated(["a", "b", "c"], 4) == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]


def test_turns_alternate_in_one_process_after_a_warm_up_of_three_steps() -> None:
    taken: list[str] = []
    contestants = {name: Timed(lambda name=name: taken.append(name), 1) for name in "ab"}  # type: ignore[misc]
    # A turn of no time at all is one step.
    take_turns(contestants, 3, seconds_a_turn=0)
    assert len(taken) >= 12
    assert taken[-6:] == ["a", "b", "b", "a", "a", "b"]
    warmup = taken[:-6]
    assert warmup == sorted(warmup)
    assert min(warmup.count("a"), warmup.count("b")) >= 3


def test_a_contestant_that_takes_twice_as_long_is_half_as_fast(clock: Any) -> None:
    contestants = {seconds: Timed(lambda seconds=seconds: clock.sleep(seconds), 4) for seconds in (0.004, 0.008)}  # type: ignore[misc]
    rates = take_turns(contestants, 5, seconds_a_turn=0.04)
    slow, fast = rates[0.008], rates[0.004]
    assert not isinstance(slow, Exception)
    assert not isinstance(fast, Exception)
    assert len(slow) == len(fast) == 5
    assert statistics.median(slow) / statistics.median(fast) == pytest.approx(0.5)
    assert statistics.median(fast) == pytest.approx(4 / 0.004)


def test_a_warm_up_lasts_until_steps_have_settled(clock: Any) -> None:
    seconds = iter([0.04, 0.001, 0.001, 0.03])
    steps: list[float] = []

    def step() -> None:
        steps.append(next(seconds, 0.001))
        clock.sleep(steps[-1])

    take_turns({"late": Timed(step, 1)}, 1, seconds_a_turn=0)
    assert len(steps) == 4  # three to warm up, as the third was short again, and a turn
    seconds, steps[:] = iter([0.001, 0.001, 0.03]), []
    take_turns({"late": Timed(step, 1)}, 1, seconds_a_turn=0)
    assert len(steps) == 5  # the third was long, so a fourth, and a turn


def test_one_that_raises_takes_no_more_turns_and_stops_nobody() -> None:
    steps = iter(range(100))

    def fails_late() -> None:
        if next(steps) == 4:
            raise RuntimeError("no memory left")

    def fails_at_once() -> None:
        raise ValueError("no such layer")

    good = Timed(lambda: time.sleep(0.001), 1)
    told: list[tuple[str, float | None]] = []
    contestants = {"late": Timed(fails_late, 1), "good": good, "at once": Timed(fails_at_once, 1)}
    outcomes = take_turns(contestants, 4, seconds_a_turn=0, watch=lambda key, rate: told.append((key, rate)))
    assert str(outcomes["late"]) == "no memory left"
    assert str(outcomes["at once"]) == "no such layer"
    assert isinstance(outcomes["good"], list)
    assert len(outcomes["good"]) == 4
    assert [rate for key, rate in told if key == "good"] == [None, *outcomes["good"]]
