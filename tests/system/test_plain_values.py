"""Dataclasses from plain values: what ``asdict`` made of them, and nothing else."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from localvit.system.plain_values import build


@dataclasses.dataclass(frozen=True)
class Inner:
    number: float
    kind: Literal["a", "b"] = "a"


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner | None
    several: tuple[Inner, ...]
    counts: Mapping[str, list[int]]
    either: str | dict[str, str] = ""
    rest: Any = None
    flag: bool = False


WHOLE = Outer("n", Inner(2.0), (Inner(1, "b"), Inner(float("inf"))), {"x": [1, 2]}, {"a": "b"}, [None, {}], flag=True)


def plain(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(WHOLE)))
    return values | changes


def test_there_and_back() -> None:
    assert build(Outer, plain()) == WHOLE
    assert build(Outer, plain(inner=None, either="x")) == dataclasses.replace(WHOLE, inner=None, either="x")


def test_a_builder_takes_the_place_of_a_type() -> None:
    assert build(Outer, plain(inner=5, several=[]), {Inner: Inner}).inner == Inner(5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 3}, "Outer.name is 3; it must be str"),
        ({"flag": 1}, "Outer.flag is 1; it must be bool"),
        ({"counts": {"x": [1, True]}}, r"Outer.counts.x\[1\] is True; it must be int"),
        ({"counts": []}, r"Outer.counts is \[\]"),
        ({"inner": {"number": "1"}}, "Outer.inner.number is '1'; it must be float"),
        ({"inner": {"number": 10**400}}, "Outer.inner.number is 1000"),
        ({"inner": {}}, "Outer.inner cannot be built: .*number"),
        ({"several": [{"number": 1, "kind": "c"}]}, r"Outer.several\[0\].kind is 'c'; it must be one of a, b"),
        ({"several": [{"number": 1, "other": 1}]}, r"Outer.several\[0\] has 'other'; it must map kind, number"),
        ({"several": [7]}, r"Outer.several\[0\] is 7; it must map kind, number"),
        ({"either": 4}, "Outer.either is 4"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(Outer, plain(**changes))
