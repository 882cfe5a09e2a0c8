"""The campaign of bad disks in its short form, run as a user does, and how it judges what it finds."""

from pathlib import Path

import pytest
from campaigns import CAMPAIGN, log_of


def test_a_run_survives_bad_disks(tmp_path: Path) -> None:
    found, printed = log_of("disk", 2, tmp_path)
    assert sum(number for kind, number in found["kinds"].items() if kind.endswith(": a run")) == 2
    if "full disk: a run" not in found["kinds"]:
        assert "No file system can be mounted here" in printed


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.json", '{"a": 1'), ("a.csv", ""), ("a.html", "<html>"), ("a.safetensors", "\x08"), ("a.ckpt", "PK")],
)
def test_half_a_file_is_not_whole(name: str, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(CAMPAIGN)
    from disk import is_whole

    (tmp_path / name).write_text(content)
    assert not is_whole(tmp_path / name)
    (tmp_path / "whole.json").write_text('{"a": 1}')
    assert is_whole(tmp_path / "whole.json")
