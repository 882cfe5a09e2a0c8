"""A run's configuration from plain values, such as a recipe file has, with some of them set anew."""

import copy
import functools
from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from localvit.system.suggestions import did_you_mean, field_names, with_suggestion
from localvit.training.config import RunConfig

Overrides = Mapping[str, Any]


def with_overrides(config: RunConfig, overrides: Overrides) -> RunConfig:
    """``config`` with other values: ``{"model.locality.kernel_size": 5}`` sets that field and leaves its neighbours.

    Args:
        config: the configuration, which stays as it is.
        overrides: dotted names of fields to values, each of which takes the place of all that was there. They are set
            in their order.

    Raises:
        ValueError: for a field that a run has not, with the nearest that it has, or a value that it cannot have.
    """
    names = list(field_names(RunConfig))
    for name in overrides:
        free_form = any(name.startswith(f"{field}.") for field in ("model.arguments", "training.optimizer_arguments"))
        if name not in names and not free_form:
            raise ValueError(f"a run has no field {name}.{did_you_mean(name, names)}")
    values = config.to_dict()
    set_values(values, overrides)
    return run_config(values)


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
    """The configuration that nested ``values`` describe; what they leave out is the default.

    Raises:
        ValueError: for a field that a run has not, or a value that it cannot have.
    """
    parser = _parser()
    try:
        parsed = parser.instantiate(parser.parse_object(dict(values)))
    except ArgumentError as error:
        raise ValueError(with_suggestion(str(error), field_names(RunConfig))) from error
    return RunConfig(**vars(parsed))


@functools.cache
def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(RunConfig)
    return parser
