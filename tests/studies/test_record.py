"""Records of studies that are damaged, or that someone made up: an error that names the file and the field."""

import json
from pathlib import Path
from typing import Any

import pytest
from made_up_study import summary

from localvit.studies.record import StudyError, StudyRecord


@pytest.fixture
def record(tmp_path: Path) -> StudyRecord:
    saved = summary().record
    saved.save(tmp_path)
    return saved


def test_a_record_is_read_as_it_was_saved(record: StudyRecord, tmp_path: Path) -> None:
    assert StudyRecord.load(tmp_path) == record


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["config", "seeds"], 3, r"StudyConfig|config.seeds is 3"),
        (["config", "variants"], [], r"config.variants is \[\]"),
        (["config", "recipe"], None, r"a run is None; it must map names to values"),
        (["outcomes", 0, "seed"], "0", r"seed is '0'; it must be int"),
        (["outcomes", 0, "variant"], "other", r"a variant 'other', which is not one of its study"),
        (["outcomes", 0, "result", "epochs"], [], r"it has no accuracy"),
        (["outcomes", 0, "result", "parameters"], None, r"parameters is None; it must be int"),
        (["outcomes", 0, "correct"], "1000000000000:AAAA", r"which are not of so many images"),
        (["outcomes", 0, "correct"], "x:AAAA", r"which are not of so many images"),
        (["costs"], {"other": {"parameters": 1, "macs": 1}}, r"a variant 'other'"),
        (["looks"], [{"seeds": 3}], r"looks\[0\] cannot be built"),
        (["surprise"], 1, r"has 'surprise'"),
    ],
)
def test_what_does_not_fit_is_named(
    place: list[Any], value: Any, message: str, record: StudyRecord, tmp_path: Path
) -> None:
    content = json.loads((tmp_path / "study.json").read_text())
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (tmp_path / "study.json").write_text(json.dumps(content))
    with pytest.raises(StudyError, match=rf"study\.json is not the record of a study: .*({message})"):
        StudyRecord.load(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, '{"version": 2}'])
def test_what_is_no_record_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(StudyError, match=r"study\.json is not the record of a study: "):
        StudyRecord.load(tmp_path)
