"""The campaign of kills in its short form, run as a user does, and what it compares with."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from campaigns import CAMPAIGN, log_of
from safetensors.torch import save_file


def test_commands_that_are_killed_end_as_if_they_were_not(tmp_path: Path) -> None:
    log, _ = log_of("kills", 2, tmp_path)
    assert log["kinds"]["killed: training on a folder"] == 2
    assert sum(number for kind, number in log["kinds"].items() if kind.startswith("fell: ")) == 2
    assert log["kinds"]["chains compared with an undisturbed command"] == 1


def run_folder(folder: Path, *, seconds: float = 1.0, bit: float = 0.0) -> Path:
    """What a run leaves, in short."""
    folder.mkdir()
    save_file({"weight": torch.tensor([1.0, bit])}, folder / "last.safetensors")
    (folder / "result.json").write_text(json.dumps({"epochs": [0.5], "timing": [seconds]}))
    (folder / "metrics.csv").write_text(f"epoch,seconds\n1,{seconds}\n")
    (folder / ".lock").touch()
    return folder


def test_folders_are_the_same_but_for_durations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(CAMPAIGN)
    from sameness import difference

    whole = run_folder(tmp_path / "whole")
    assert difference(run_folder(tmp_path / "slower", seconds=2.0), whole) is None
    changed = run_folder(tmp_path / "bit", bit=float(np.nextafter(np.float32(0), np.float32(1))))
    assert difference(changed, whole) == "last.safetensors differs"
    (tmp_path / "slower" / ".result.json.7.tmp").touch()
    assert difference(tmp_path / "slower", whole) == ".result.json.7.tmp is left over"
    (tmp_path / "bit" / "metrics.csv").unlink()
    assert difference(tmp_path / "bit", whole) == "metrics.csv is missing"


def study_folder(folder: Path, *, time: str, gain: float = 1.0) -> Path:
    """What a study leaves, in short."""
    folder.mkdir()
    values = {
        "command": f"localvit study {folder}",
        "record": {"time": time},
        "looks": [{"runs": 3, "time": time, "gain": gain}],
    }
    (folder / "results.json").write_text(json.dumps(values))
    return folder


def test_studies_are_the_same_but_for_the_times_of_their_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(CAMPAIGN)
    from sameness import difference

    whole = study_folder(tmp_path / "whole", time="2026-11-27T01:39:19+00:00")
    assert difference(study_folder(tmp_path / "later", time="2026-11-27T01:41:18+00:00"), whole) is None
    other = study_folder(tmp_path / "other", time="2026-11-27T01:39:19+00:00", gain=2.0)
    assert difference(other, whole) == "results.json differs"


def test_only_a_needless_folder_may_stay_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(CAMPAIGN)
    from sameness import difference

    for name in ("whole/runs/log.json", "whole/study.csv", "found/study.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    whole, found = tmp_path / "whole", tmp_path / "found"
    assert difference(found, whole) == "runs/log.json is missing"
    assert difference(found, whole, needless="runs") is None
    (found / "study.csv").rename(found / "other.csv")
    assert difference(found, whole, needless="runs") == "study.csv is missing"
