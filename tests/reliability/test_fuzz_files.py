"""The campaign of hostile files, in short: the script as a user runs it, and its log."""

from pathlib import Path

import pytest
from campaigns import log_of


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets its count of memory")
def test_no_hostile_file_fails(tmp_path: Path) -> None:
    found, _ = log_of("fuzz_files", 30, tmp_path, "--every", "30")
    endings = [number for kind, number in found["kinds"].items() if kind.startswith("ends in ")]
    assert sum(endings) == 30
    assert sum(number for kind, number in found["kinds"].items() if kind.startswith("command, exit status")) == 1
