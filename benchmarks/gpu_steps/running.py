"""Carries out pieces of work within a time limit, and records what became of each."""

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import torch

from localvit.benchmark.comparison import in_words
from localvit.benchmark.result import provenance
from localvit.system.terminal import ERRORS

T = TypeVar("T")
Row = dict[str, Any]
DONE, FAILED, ERROR, CUT, NOT_RUN, SKIPPED = "done", "failed", "error", "cut short", "not run", "skipped"
_LEAST_SECONDS = 2.0  # with less left an item does not begin
_SECONDS_BETWEEN_ALARMS = 5.0  # an exception in a finalizer is swallowed; the next alarm raises again


class OutOfTime(BaseException):
    """The time is up. Not an ``Exception``: whoever notes those as the failure of a contestant must let this pass."""


class Skipped(Exception):
    """An item does not apply here; the message says why."""


@dataclass(frozen=True)
class Item:
    """A piece of work.

    Attributes:
        name: its name among those of its step.
        run: returns lines of the step's table, each a value by column. In ``fault`` a line says what is wrong; other
            columns that the step does not show are kept in the JSON.
    """

    name: str
    run: Callable[[], list[Row]]


@dataclass(frozen=True)
class Step:
    """Items of one kind, in order of worth.

    Attributes:
        name: its name, for ``--steps``.
        title: heading of its table.
        lead: what was compared, in a sentence or two.
        columns: columns of its table.
        share: its share of the time, relative to the other steps.
        items: what it does.
    """

    name: str
    title: str
    lead: str
    columns: tuple[str, ...]
    share: float
    items: tuple[Item, ...]


def within(seconds: float, function: Callable[[], T]) -> T:
    """``function()``, in which :class:`OutOfTime` is raised once the seconds have passed, and again while it goes on.

    In the main thread only.
    """
    may_raise = False

    def stop(number: int, frame: FrameType | None) -> None:
        if may_raise:
            raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001), _SECONDS_BETWEEN_ALARMS)
        may_raise = True
        return function()
    finally:
        # First, and by an assignment: Python handles signals in calls, and what follows must run to its end. In a
        # context manager, an alarm could arrive where __exit__ begins, and end it before its first line.
        may_raise = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)  # discards an alarm that is on its way
        signal.signal(signal.SIGALRM, before)


def deadlines(steps: Sequence[Step], start: float, seconds: float) -> dict[str, float]:
    """When each step must end. What a step leaves over, the next ones have."""
    total, passed, found = sum(step.share for step in steps), 0.0, {}
    for step in steps:
        passed += step.share / total
        found[step.name] = start + passed * seconds
    return found


def run_step(
    step: Step, results: dict[str, Any], deadline: float, *, resume: bool, write: Callable[[], object]
) -> None:
    """Run the items of a step until the deadline, and enter them into ``results["steps"]`` one by one.

    Args:
        step: the step.
        results: of all steps; earlier ones of this step are replaced.
        deadline: when to stop, by ``time.monotonic``.
        resume: whether to keep the items that are done in ``results``, if machine and code are the same.
        write: called after each item.
    """
    record, earlier = provenance(), results["steps"].get(step.name)
    same = earlier is not None and all(earlier["record"][part] == record[part] for part in ("machine", "code"))
    kept = earlier["items"] if earlier is not None and same and resume else {}
    items: dict[str, Any] = {}
    results["steps"][step.name] = {
        "title": step.title, "lead": step.lead, "columns": step.columns, "items": items, "record": record
    }  # fmt: skip
    for number, item in enumerate(step.items, start=1):
        known = kept.get(item.name)
        items[item.name] = known if known and known["status"] == DONE else _run(item, deadline)
        one = items[item.name]
        left = deadline - time.monotonic()
        ERRORS.print(
            f"{step.name} {number} of {len(step.items)}, {left:4.0f} s left: {item.name}: {one['status']}, "
            f"{one['seconds']:.1f} s{': ' if one['said'] else ''}{one['said']}",
            markup=False,
            soft_wrap=True,
        )
        write()


def _run(item: Item, deadline: float) -> dict[str, Any]:
    start = time.monotonic()
    if deadline - start < _LEAST_SECONDS:
        return _became(NOT_RUN, "no time was left", 0.0)
    try:
        rows = within(deadline - start, item.run)
    except OutOfTime:
        found = _became(CUT, "the time of the step was up", time.monotonic() - start)
    except Skipped as reason:
        found = _became(SKIPPED, str(reason), time.monotonic() - start)
    except Exception as error:
        found = _became(ERROR, in_words(error), time.monotonic() - start)
    else:
        faults = [row["fault"] for row in rows if row.get("fault")]
        found = _became(FAILED if faults else DONE, "; ".join(faults), time.monotonic() - start, rows)
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found


def _became(status: str, said: str, seconds: float, rows: Sequence[Row] = ()) -> dict[str, Any]:
    return {"status": status, "said": said, "seconds": round(seconds, 1), "rows": list(rows)}
