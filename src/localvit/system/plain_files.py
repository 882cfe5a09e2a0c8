"""Reads JSON and YAML that anybody may have written: plain values of a plausible size, or an error that names the file.

A small YAML file can describe billions of values by aliases of aliases, and JSON can nest deeper than Python recurses.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

_MOST_VALUES = 2_000_000
_MOST_DEPTH = 60


def read_json(path: Path) -> Any:
    """The values in a JSON file; ``ValueError`` if it is damaged, too large or too deep."""
    return _read(path, "JSON", json.loads)


def read_yaml(path: Path) -> Any:
    """The values in a YAML file; ``ValueError`` if it is damaged, has tags of objects, is too large or too deep."""
    return _read(path, "YAML", yaml.safe_load)


def parse_json(text: str, called: str) -> Any:
    """The values in a text of JSON; ``called`` is its name in errors."""
    return _parsed(text, called, "JSON", json.loads)


def _read(path: Path, kind: str, parse: Callable[[str], Any]) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not valid {kind}: {error}") from error
    return _parsed(text, str(path), kind, parse)


def _parsed(text: str, called: str, kind: str, parse: Callable[[str], Any]) -> Any:
    try:
        values = parse(text)
    except Exception as error:  # YAML's constructors of numbers and dates raise whatever they meet
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{called} is not valid {kind}: {reason}") from error
    if _size(values, {}, _MOST_DEPTH, called) > _MOST_VALUES:
        raise ValueError(f"{called} has more than {_MOST_VALUES:,} values or is nested deeper than {_MOST_DEPTH}")
    return values


def _size(value: Any, known: dict[int, int], depth: int, called: str) -> int:
    """Number of values, those that aliases repeat counted each time; too many if it is nested deeper than ``depth``."""
    for one in (value, *(value if isinstance(value, dict) else ())):
        if not isinstance(one, str | int | float | None | (dict | list if one is value else str)):
            kind = type(one).__name__
            raise ValueError(
                f"{called} has the {kind} {one!s:.100}; it may have texts, numbers, lists and mappings only"
            )
    if not isinstance(value, dict | list):
        return 1
    if depth == 0:
        return _MOST_VALUES + 1  # an alias of what is around it ends here, too
    if id(value) not in known:
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(one, known, depth - 1, called) for one in inner)
    return known[id(value)]
