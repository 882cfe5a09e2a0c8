"""JSON and YAML that anybody may have written: plain values, or an error that names the file, in no time."""

from pathlib import Path

import pytest

from localvit.system.plain_files import read_json, read_yaml

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


def test_plain_values_are_read(tmp_path: Path) -> None:
    (tmp_path / "it.json").write_text('{"a": [1, 2.5, null, "é"]}', encoding="utf-8")
    assert read_json(tmp_path / "it.json") == {"a": [1, 2.5, None, "é"]}
    (tmp_path / "it.yaml").write_text("base: &base {x: 1}\nsame: *base\n")
    assert read_yaml(tmp_path / "it.yaml") == {"base": {"x": 1}, "same": {"x": 1}}


@pytest.mark.parametrize("content", [b"", b"[1,", b"\xff\xfe", b"9" * 5000, b"[" * 100_000])
def test_damaged_json_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "it.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"it\.json is not valid JSON: "):
        read_json(tmp_path / "it.json")


@pytest.mark.parametrize(
    "content",
    [
        b"a: [1",
        b"\xff\xfe",
        b"a: !!python/object/apply:os.getpid []",
        b"a: !!python/name:os.system",
        b"a: !!int x",
        b"a: !!timestamp x",
        b"a: " + b"[" * 5000,
    ],
)
def test_damaged_yaml_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "it.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"it\.yaml is not valid YAML: "):
        read_yaml(tmp_path / "it.yaml")


@pytest.mark.parametrize("content", ["a: 2021-04-05", "a: !!binary '////'", "a: !!set {b, c}", "2021-04-05: a"])
def test_values_that_are_not_plain_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "it.yaml").write_text(content)
    with pytest.raises(
        ValueError, match=r"it\.yaml has the (date|bytes|set) .*texts, numbers, lists and mappings only"
    ):
        read_yaml(tmp_path / "it.yaml")


@pytest.mark.parametrize("content", [LAUGHS, "a: &a [*a]", "a: " + "[" * 70 + "]" * 70])
def test_values_without_end_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "it.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"it\.yaml has more than 2,000,000 values or is nested deeper than 60"):
        read_yaml(tmp_path / "it.yaml")
