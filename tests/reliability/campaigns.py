"""Runs a campaign in its short form, as a user does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CAMPAIGN = Path(__file__).parents[2] / "benchmarks" / "campaign"


def log_of(name: str, count: int, folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """Have a campaign's script try until its log in ``folder`` has ``count`` trials, of which none may fail.

    Returns:
        The log, and what the script printed.
    """
    log = folder / f"{name}.json"
    command = [sys.executable, str(CAMPAIGN / f"{name}.py"), "--count", str(count), "--output", str(log), *options]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(log.read_text())
    assert (found["tried"], found["failures"]) == (count, [])
    return found, ended.stdout
