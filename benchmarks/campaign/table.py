"""Write ``docs/reliability/README.md`` from the logs beside it.

python benchmarks/campaign/table.py
"""

import json
from pathlib import Path
from typing import Any

from campaign import LOGS

from localvit.system.files import write_text

HEAD = """# What was tried, how often, and what was lost

Written by `python benchmarks/campaign/table.py` from the logs in this folder. A campaign goes on where its log ends:
the same command with a larger `--count` adds trials. Its short form, a few seconds long, is one of the tests.

| every trial shows | tried | failed | command |
|---|--:|--:|---|
"""
FOOT = """
[slow_tests.md](slow_tests.md) tells how the slow tests went, the simulations of the statistics among them.
"""


def section(name: str, log: dict[str, Any]) -> str:
    """A campaign's kinds of trials, figures and failures."""
    session = log["sessions"][-1]
    lines = [f"\n## {name.replace('_', ' ').capitalize()}\n", f"{log['claim']}\n"]
    lines += ["| trials | number |", "|---|--:|"]
    lines += [f"| {kind} | {number:,} |" for kind, number in log["kinds"].items()]
    if rows := log.get("rows"):
        lines += [f"\n| {' | '.join(rows[0])} |", "|---|" + "--:|" * (len(rows[0]) - 1)]
        lines += [f"| {' | '.join(map(str, row.values()))} |" for row in rows]
    if log["figures"]:
        lines += ["\n| largest | value |", "|---|--:|"]
        lines += [f"| {quantity} | {value:,.4g} |" for quantity, value in log["figures"].items()]
    lines += [f"\n- trial {failure['trial']}: {failure['what']}" for failure in log["failures"]]
    lines.append(f"\nLast session: {session['machine']}, {session['time'][:10]}, log [{name}.json]({name}.json).\n")
    return "\n".join(lines)


def page(logs: dict[str, dict[str, Any]]) -> str:
    """The page, from the logs by name."""
    rows = "".join(
        f"| {log['claim']} | {log['tried']:,} {log['unit']} | {len(log['failures'])} "
        f"| `python benchmarks/campaign/{name}.py --count {log['tried']}` |\n"
        for name, log in logs.items()
    )
    return HEAD + rows + FOOT + "".join(section(name, log) for name, log in logs.items())


def main(folder: Path = LOGS) -> None:
    """Read the logs, and write the page."""
    logs = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    write_text(folder / "README.md", page(logs))


if __name__ == "__main__":
    main()
