"""Builds dataclasses from plain values of a file that anybody may have written, and checks the types on the way."""

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def build(kind: type[T], values: Any, builders: Mapping[type, Callable[[Any], Any]] | None = None) -> T:
    """A dataclass from the mapping that ``dataclasses.asdict`` made of it, perhaps by way of JSON.

    Args:
        kind: the dataclass. Its fields may be dataclasses, unions, literals, lists, tuples of one type, and mappings.
        values: the mapping; fields with defaults may be missing.
        builders: functions that build certain types instead.

    Raises:
        ValueError: for an unknown or missing field, or a value of another type, or one that the dataclass refuses.
    """
    built: T = _build(kind, values, kind.__name__, builders or {})
    return built


def _build(kind: Any, value: Any, name: str, builders: Mapping[type, Callable[[Any], Any]]) -> Any:
    if kind is Any:
        return value
    if kind in builders:
        return builders[kind](value)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, name, builders)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _first(inner, value, name, builders)
    if origin is Literal:
        if not any(type(value) is type(allowed) and value == allowed for allowed in inner):
            raise ValueError(f"{name} is {value!r:.100}; it must be one of {', '.join(map(str, inner))}")
        return value
    if origin in (list, tuple, Sequence) and isinstance(value, list | tuple):
        items = [_build(inner[0], item, f"{name}[{place}]", builders) for place, item in enumerate(value)]
        return items if origin is list else tuple(items)
    if origin in (dict, Mapping) and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _build(inner[1], item, f"{name}.{key}", builders) for key, item in value.items()}
    if kind is float and (type(value) is float or (type(value) is int and abs(value) < 2**63)):
        return value
    if kind in (int, str, bool, types.NoneType) and type(value) is kind:
        return value
    raise ValueError(f"{name} is {value!r:.100}; it must be {_words(kind)}")


def _dataclass(kind: Any, value: Any, name: str, builders: Mapping[type, Callable[[Any], Any]]) -> Any:
    hints = get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(value, dict) or (unknown := [key for key in value if key not in known]):
        given = f"has {unknown[0]!r:.100}" if isinstance(value, dict) else f"is {value!r:.100}"
        raise ValueError(f"{name} {given}; it must map {', '.join(sorted(known))} to values")
    fields = {key: _build(hints[key], item, f"{name}.{key}", builders) for key, item in value.items()}
    try:
        return kind(**fields)
    except TypeError as error:
        raise ValueError(f"{name} cannot be built: {error}") from error


def _first(kinds: tuple[Any, ...], value: Any, name: str, builders: Mapping[type, Callable[[Any], Any]]) -> Any:
    """The value as the first of several types that fits; the error is that of the last."""
    for place, kind in enumerate(kinds):
        try:
            return _build(kind, value, name, builders)
        except ValueError:
            if place == len(kinds) - 1 or (value is not None and len(kinds) == 2 and kinds[1] is types.NoneType):
                raise
    raise AssertionError


def _words(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)
