"""The campaign of hostile files, in short: the script as a user runs it, and its log."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "campaign" / "fuzz_files.py"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets its count of memory")
def test_no_hostile_file_fails(tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    command = [sys.executable, str(SCRIPT), "--count", "30", "--every", "30", "--output", str(log)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(log.read_text())
    assert (found["tried"], found["failures"]) == (30, [])
    endings = [number for kind, number in found["kinds"].items() if kind.startswith("ends in ")]
    assert sum(endings) == 30
    assert sum(number for kind, number in found["kinds"].items() if kind.startswith("command, exit status")) == 1
