"""How the campaign of ten commands at once judges their ends, and its short form."""

from pathlib import Path

import pytest
from campaigns import CAMPAIGN, log_of


@pytest.mark.slow
def test_ten_runs_at_once_leave_what_one_leaves(tmp_path: Path) -> None:
    found, _ = log_of("concurrency", 1, tmp_path)
    assert sum(number for kind, number in found["kinds"].items() if kind.startswith("commands that")) == 10


def test_a_command_must_work_or_say_who_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(CAMPAIGN)
    from concurrency import wrong

    said = "localvit train: another process trains\nin runs/a; wait for it"
    assert wrong([(0, "done"), (1, said)]) == []
    assert wrong([(1, said), (1, said)]) == ["none did the work"]
    assert wrong([(0, ""), (None, "")]) == ["one did not end"]
    assert wrong([(0, ""), (1, "no such file")]) == ["one failed with status 1: no such file"]
    assert wrong([(0, ""), (1, "Traceback (most recent call last)")])[0].startswith("a traceback")
