"""Builds the configuration of a run from plain values, such as those of a recipe file, and changes fields of it."""

import copy
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from localvit.system.parsing import import_nothing
from localvit.system.suggestions import did_you_mean, field_names, with_suggestion
from localvit.training.config import RunConfig

Overrides = Mapping[str, Any]
_FIELDS = tuple(field.name for field in dataclasses.fields(RunConfig))


def with_overrides(config: RunConfig, overrides: Overrides) -> RunConfig:
    """``config`` with other values: ``{"model.locality.kernel_size": 5}`` sets only that field.

    Args:
        config: the configuration, which is left unchanged.
        overrides: dotted field names and their values, applied in order. A value replaces the whole previous one.

    Raises:
        ValueError: for an unknown field, with the nearest known one, or an invalid value.
    """
    if not overrides:
        return config
    names = list(field_names(RunConfig))
    for name in overrides:
        if name not in names and not name.startswith(("model.arguments.", "training.optimizer_arguments.")):
            raise ValueError(f"a run has no field {name}.{did_you_mean(name, names)}")
    values = config.to_dict()
    set_values(values, overrides)
    changed = tuple(sorted({name.partition(".")[0] for name in overrides}))
    return dataclasses.replace(config, **_built({group: values[group] for group in changed}, changed))


def set_values(values: dict[str, Any], overrides: Overrides) -> None:
    """Set fields of nested ``values`` by their dotted names."""
    for name, value in overrides.items():
        *groups, last = name.split(".")
        place = values
        for group in groups:
            if not isinstance(place.get(group), dict):
                place[group] = {}
            place = place[group]
        place[last] = copy.deepcopy(value)


def run_config(values: Mapping[str, Any]) -> RunConfig:
    """The configuration that nested ``values`` describe; missing fields get their defaults.

    Raises:
        ValueError: for an unknown field or an invalid value.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"a run is {values!r:.100}; it must map names to values")
    return RunConfig(**_built(values, _FIELDS))


def _built(values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The fields ``names`` of a run, built from plain ``values``. Parsing few fields takes a fraction of the time."""
    parser = _parser(names)
    try:
        built: dict[str, Any] = vars(parser.instantiate(parser.parse_object(dict(values))))
    except (ArgumentError, TypeError, AttributeError) as error:  # the last two for names that are no text
        raise ValueError(with_suggestion(str(error), field_names(RunConfig))) from error
    return built


@functools.cache
def _parser(names: tuple[str, ...]) -> ArgumentParser:
    import_nothing()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(RunConfig, skip=set(_FIELDS) - set(names))
    return parser
