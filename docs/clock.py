"""Write row A of ``docs/clock.md`` from ``benchmarks/results/gpu.json``.

python docs/clock.py
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from localvit.system.files import write_text

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from twins import FAMILIES, GOALS, TINY, row_a

ROOT = Path(__file__).parents[1]
PAGE, NUMBERS = ROOT / "docs" / "clock.md", ROOT / "benchmarks" / "results" / "gpu.json"
SHORT = dict(zip((TINY, *FAMILIES), ("LocalViT-T", "T2T-ViT", "PVT", "TNT", "Swin"), strict=True))


def line(results: dict[str, Any] | None) -> str:
    """Row A of the page's table: LocalViT-T mode by mode, and the range of the other families."""
    bound, row = GOALS["A"]["bound"], row_a(results)
    if "not_measured" in row:
        return f"| A, GPU | {bound:.2f} | | not measured: no GPU |"
    verdicts = row["verdicts"]
    met = [one for one in verdicts if one["met"]]
    missed = [_named(one) for one in verdicts if not one["met"]]
    outcome = "met" if not missed else f"met by {len(met)} of {len(verdicts)}; not by {', '.join(missed)}"
    return f"| A, GPU, bf16, batch 256 | {bound:.2f} | {'; '.join(_shown(verdicts))} | {outcome} |"


def _shown(verdicts: Sequence[dict[str, Any]]) -> list[str]:
    own = [one for one in verdicts if _twin(one) == TINY]
    others = sorted(one["ratio"]["median"] for one in verdicts if _twin(one) != TINY)
    shown = [f"{_named(one)} {one['ratio']['median']:.2f}" for one in own]
    return shown + ([f"other families {others[0]:.2f} to {others[-1]:.2f}"] if others else [])


def _twin(verdict: dict[str, Any]) -> str:
    return str(verdict["twin"]).rpartition(", ")[0]


def _named(verdict: dict[str, Any]) -> str:
    """Such as Swin training compiled."""
    twin, _, form = str(verdict["twin"]).rpartition(", ")
    mode = "training" if "training" in verdict["comparison"] else "inference"
    return f"{SHORT[twin]} {mode} {form}"


def page(text: str, results: dict[str, Any] | None) -> str:
    """The page with its row A replaced."""
    found, count = re.subn(r"^\| A, GPU.*$", lambda _: line(results), text, flags=re.MULTILINE)
    assert count == 1, "docs/clock.md has no row A"
    return found


def main() -> None:
    """Read the numbers, and write the page."""
    results = json.loads(NUMBERS.read_text()) if NUMBERS.exists() else None
    write_text(PAGE, page(PAGE.read_text(), results))


if __name__ == "__main__":
    main()
