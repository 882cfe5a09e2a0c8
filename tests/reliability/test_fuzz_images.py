"""The campaign of broken images, in short: the script as a user runs it, and its log."""

from pathlib import Path

import pytest
from campaigns import log_of


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets its count of memory")
def test_no_broken_image_fails_and_the_log_goes_on(tmp_path: Path) -> None:
    log_of("fuzz_images", 30, tmp_path, "--every", "40")
    found, _ = log_of("fuzz_images", 40, tmp_path, "--every", "40")
    assert found["kinds"]["ends in a row"] + found["kinds"]["ends in an error that names the file"] == 40
    assert found["kinds"]["command, JSON, over 40 trials"] == 1
    assert 0 < found["figures"]["MiB of memory for an image"] < 1024
    assert [session["first_trial"] for session in found["sessions"]] == [0, 30]
