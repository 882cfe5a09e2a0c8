"""Suggests the nearest valid name for an unknown one."""

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterable, Iterator
from typing import Any

_UNKNOWN = (
    re.compile(r"unrecognized arguments: --(?P<name>[\w.]+)"),
    re.compile(r"Group '(?P<group>[\w.]+)' does not accept option '(?P<name>[\w.]+)'"),
    re.compile(r"key \"(?P<group>[\w.]+)\".*Option '(?P<name>[\w.]+)' is not accepted", re.DOTALL),
    re.compile(r"Option '(?P<name>[\w.]+)' is not accepted"),
)


def field_names(config: type, prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields of a dataclass and of its nested dataclasses."""
    for name, annotation in typing.get_type_hints(config).items():
        yield f"{prefix}{name}"
        for choice in typing.get_args(annotation) or (annotation,):
            if dataclasses.is_dataclass(choice):
                yield from field_names(typing.cast(type, choice), f"{prefix}{name}.")


def with_suggestion(message: str, names: Iterable[str]) -> str:
    """Append the nearest of ``names`` to a parser error about an unknown name."""
    found = next(filter(None, (pattern.search(message) for pattern in _UNKNOWN)), None)
    if found is None:
        return message
    group = found.groupdict().get("group")
    hint = did_you_mean(f"{group}.{found['name']}" if group else found["name"], names)
    return f"{message}.{hint}" if hint else message


def nearest(wrong: str, names: Iterable[Any]) -> str | None:
    """Find the nearest valid name: by the whole name, or else by its last part."""
    names = [str(name) for name in names]
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.75)
    if not close:
        ends = {name.rpartition(".")[2]: name for name in names}
        close = [ends[end] for end in difflib.get_close_matches(wrong.rpartition(".")[2], ends, n=1, cutoff=0.75)]
    return close[0] if close else None


def did_you_mean(wrong: str, names: Iterable[Any]) -> str:
    """A sentence to append to an error, starting with a space. Empty if no name is near."""
    suggestion = nearest(wrong, names)
    return "" if suggestion is None else f" Did you mean {suggestion}?"
