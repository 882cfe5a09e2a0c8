"""Carries out pieces of work within a time limit, and records what became of each."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gpu_steps.time_limit import OutOfTime, TimeLimit
from localvit.benchmark.comparison import in_words
from localvit.benchmark.result import provenance
from localvit.system.terminal import ERRORS

Row = dict[str, Any]
Outcome = dict[str, Any]
DONE, FAILED, ERROR, CUT, NOT_RUN, SKIPPED = "done", "failed", "error", "cut short", "not run", "skipped"
_LEAST_SECONDS = 2.0  # with less left an item does not begin


class Skipped(Exception):
    """An item does not apply here; the message says why."""


@dataclass(frozen=True)
class Item:
    """A piece of work.

    Attributes:
        name: its name among those of its step.
        run: returns lines of the step's table, each a value by column. In ``fault`` a line says what is wrong; other
            columns that the step does not show are kept in the JSON. Picklable if the step runs side by side.
    """

    name: str
    run: Callable[[], list[Row]]


def became(status: str, said: str, seconds: float, rows: Sequence[Row] = ()) -> Outcome:
    """What became of an item."""
    return {"status": status, "said": said, "seconds": round(seconds, 1), "rows": list(rows)}


def too_late(deadline: float) -> Outcome | None:
    """What becomes of an item that would begin now, if too little time is left for it."""
    return became(NOT_RUN, "no time was left", 0.0) if deadline - time.monotonic() < _LEAST_SECONDS else None


def cut(start: float) -> Outcome:
    """What becomes of an item that began then, and goes on at the deadline."""
    return became(CUT, "the time of the step was up", time.monotonic() - start)


def carry_out(item: Item) -> Outcome:
    """Run an item, however long it takes, and leave neither compiled models nor unused memory of the GPU."""
    start = time.monotonic()
    try:
        rows = item.run()
    except Skipped as reason:
        found = became(SKIPPED, str(reason), time.monotonic() - start)
    except Exception as error:
        found = became(ERROR, in_words(error), time.monotonic() - start)
    else:
        faults = [row["fault"] for row in rows if row.get("fault")]
        found = became(FAILED if faults else DONE, "; ".join(faults), time.monotonic() - start, rows)
    finally:
        torch.compiler.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return found


def in_turn(items: Sequence[Item], deadline: float) -> Iterator[tuple[Item, Outcome]]:
    """Run items one after the other in this process."""
    for item in items:
        start = time.monotonic()
        found = too_late(deadline)
        if found is None:
            try:
                with TimeLimit(deadline - start):
                    found = carry_out(item)
            except OutOfTime:
                found = cut(start)
        yield item, found


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
        outcomes: carries out items until a deadline, by ``time.monotonic``, and gives each with what became of it.
    """

    name: str
    title: str
    lead: str
    columns: tuple[str, ...]
    share: float
    items: tuple[Item, ...]
    outcomes: Callable[[Sequence[Item], float], Iterator[tuple[Item, Outcome]]] = in_turn


def deadlines(steps: Sequence[Step], start: float, seconds: float) -> dict[str, float]:
    """When each step must end. What a step leaves over, the next ones have."""
    total, passed, found = sum(step.share for step in steps), 0.0, {}
    for step in steps:
        passed += step.share / total
        found[step.name] = start + passed * seconds
    return found


def done_before(step: str, results: dict[str, Any]) -> dict[str, Outcome]:
    """The items of a step that are done in earlier results, if machine and code are the same."""
    earlier, now = results["steps"].get(step), provenance()
    if earlier is None or any(earlier["record"][part] != now[part] for part in ("machine", "code")):
        return {}
    return {name: found for name, found in earlier["items"].items() if found["status"] == DONE}


def run_step(
    step: Step, results: dict[str, Any], deadline: float, *, resume: bool, write: Callable[[], object]
) -> None:
    """Run the items of a step until the deadline, and enter them into ``results["steps"]`` one by one.

    Args:
        step: the step.
        results: of all steps; earlier ones of this step are replaced. Items are in the order of the step, whichever
            ended first.
        deadline: when to stop, by ``time.monotonic``.
        resume: whether to keep the items that are done in ``results``, if machine and code are the same.
        write: called after each item.
    """
    kept = done_before(step.name, results) if resume else {}
    known = {item.name: kept[item.name] for item in step.items if item.name in kept}
    entry = {"title": step.title, "lead": step.lead, "columns": step.columns, "items": known, "record": provenance()}
    results["steps"][step.name] = entry
    for name, found in known.items():
        _say(step, name, found, deadline)
    for item, found in step.outcomes([item for item in step.items if item.name not in kept], deadline):
        known[item.name] = found
        entry["items"] = {one.name: known[one.name] for one in step.items if one.name in known}
        _say(step, item.name, found, deadline)
        write()
    write()


def _say(step: Step, name: str, found: Outcome, deadline: float) -> None:
    number = [item.name for item in step.items].index(name) + 1
    said = f"{': ' if found['said'] else ''}{found['said']}"
    ERRORS.print(
        f"{step.name} {number} of {len(step.items)}, {deadline - time.monotonic():4.0f} s left: {name}: "
        f"{found['status']}, {found['seconds']:.1f} s{said}",
        markup=False,
        soft_wrap=True,
    )
