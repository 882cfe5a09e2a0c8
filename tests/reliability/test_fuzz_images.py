"""The campaign of broken images, in short: the script as a user runs it, and its log."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "campaign" / "fuzz_images.py"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets its count of memory")
def test_no_broken_image_fails_and_the_log_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    for count in (30, 40):
        command = [sys.executable, str(SCRIPT), "--count", str(count), "--every", "40", "--output", str(log)]
        ended = subprocess.run(command, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
    found = json.loads(log.read_text())
    assert (found["tried"], found["failures"]) == (40, [])
    assert found["kinds"]["ends in a row"] + found["kinds"]["ends in an error that names the file"] == 40
    assert found["kinds"]["command, JSON, over 40 trials"] == 1
    assert 0 < found["figures"]["MiB of memory for an image"] < 1024
    assert [session["first_trial"] for session in found["sessions"]] == [0, 30]
