"""The JSON and the Markdown of what ``benchmarks/gpu.py`` found so far."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_steps.running import DONE, ERROR, FAILED
from localvit.system.files import write_text

HEAD = """# On a GPU

Written by `python benchmarks/gpu.py`, in order of worth. What a time limit cut short is listed as such, and
`python benchmarks/gpu.py --resume` goes on with it.
"""


def write(results: dict[str, Any], folder: Path) -> None:
    """Write ``gpu.json`` and ``gpu.md``."""
    write_text(folder / "gpu.json", json.dumps(results, indent=1) + "\n")
    write_text(folder / "gpu.md", page(results))


def page(results: dict[str, Any]) -> str:
    """All steps as Markdown."""
    parts = [HEAD]
    if results["quick"] or results["device"] == "cpu":
        parts.append(f"This is only a trial on small models, on {results['device']}.\n")
    parts += [_section(step) for step in results["steps"].values()]
    return "\n".join(parts)


def failures(results: dict[str, Any], steps: Sequence[str]) -> list[str]:
    """The items of these steps that raised an error or found a fault, as lines of text."""
    return [
        f"{name}: {item}: {found['said']}"
        for name in steps
        for item, found in results["steps"][name]["items"].items()
        if found["status"] in (ERROR, FAILED)
    ]


def _section(step: dict[str, Any]) -> str:
    record, items = step["record"], step["items"]
    lines = [f"## {step['title']}\n", f"{step['lead']}\n"]
    code = record["code"]
    commit = "" if code is None else f", commit {code['commit'][:10]}{' and changes' if code['changed'] else ''}"
    lines.append(f"Measured on {record['time'][:10]}: {record['machine']}{commit}.\n")
    rows = [row for found in items.values() for row in found["rows"]]
    if rows:
        lines.append(f"| {' | '.join(step['columns'])} |")
        lines.append("|---|" + "--:|" * (len(step["columns"]) - 1))
        lines += [f"| {' | '.join(_cell(row.get(column)) for column in step['columns'])} |" for row in rows]
        lines.append("")
    lines += [
        f"- {name}: {found['status']}{': ' if found['said'] else ''}{_cell(found['said'])}"
        for name, found in items.items()
        if found["status"] != DONE
    ]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    text = f"{value:,.3g}" if isinstance(value, float) and abs(value) < 1000 else str(value)
    text = f"{value:,.0f}" if isinstance(value, float) and abs(value) >= 1000 else text
    return text.replace("|", "\\|").replace("\n", " ")
