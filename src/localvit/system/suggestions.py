"""Turns "no such option" into "did you mean": the nearest right name for a wrong one."""

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
    """Dotted names of all fields of a dataclass, and of the dataclasses in it."""
    for name, annotation in typing.get_type_hints(config).items():
        yield f"{prefix}{name}"
        for choice in typing.get_args(annotation) or (annotation,):
            if dataclasses.is_dataclass(choice):
                yield from field_names(typing.cast(type, choice), f"{prefix}{name}.")


def with_suggestion(message: str, names: Iterable[str]) -> str:
    """An error of the parser and, where it refuses a name, the nearest of the right ``names``."""
    names = list(names)
    for pattern in _UNKNOWN:
        found = pattern.search(message)
        if found is None:
            continue
        group = found.groupdict().get("group")
        wrong = f"{group}.{found['name']}" if group else found["name"]
        hint = did_you_mean(wrong, names)
        return f"{message}.{hint}" if hint else message
    return message


def nearest(wrong: str, names: Iterable[Any]) -> str | None:
    """The nearest of the right names: of all of them, else of those with the same last part."""
    names = [str(name) for name in names]
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.75)
    if not close:
        ends = {name.rpartition(".")[2]: name for name in names}
        close = [ends[end] for end in difflib.get_close_matches(wrong.rpartition(".")[2], ends, n=1, cutoff=0.75)]
    return close[0] if close else None


def did_you_mean(wrong: str, names: Iterable[Any]) -> str:
    """A sentence for the end of an error, with a space in front; empty where no right name is near."""
    suggestion = nearest(wrong, names)
    return "" if suggestion is None else f" Did you mean {suggestion}?"
