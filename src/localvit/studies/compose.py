"""From a study's file and a scale to the values of its configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from localvit.system.shipped import find, shipped
from localvit.system.suggestions import did_you_mean
from localvit.training.overrides import set_values

_OF_A_SCALE = ("recipe", "variants", "seeds", "start")


def compose(study: Mapping[str, Any], scale: str | None) -> dict[str, Any]:
    """A study's values at one scale, as :class:`StudyConfig` takes them.

    The recipe is the scale's, with the fields that the study sets for all variants and then those that it sets at this
    scale; variants too have what they set everywhere, then what they set at this scale.

    Args:
        study: what its file holds. Beside the fields of a :class:`StudyConfig`, ``scales`` has for each scale the
            ``recipe``, ``variants``, ``seeds`` and ``start`` that hold there; ``recipe`` sets fields by dotted names.
        scale: ``digits``, ``cifar10``, ``imagenet``, or the file of a recipe; the first of ``scales`` by default, or
            ``digits``.

    Raises:
        ValueError: for a scale that is not there, or one with unknown fields.
    """
    own: dict[str, Any] = study.get("scales") or {}
    scale = scale or next(iter(own), "digits")
    path = _recipe_of(scale)
    at_scale: dict[str, Any] = own.get(scale) or {}
    _require_known(at_scale, scale, study)

    values = {name: value for name, value in study.items() if name not in ("scales", *_OF_A_SCALE)}
    values["scale"] = Path(scale).stem
    values["recipe"] = read_yaml(path)
    for overrides in (study.get("recipe"), at_scale.get("recipe")):
        set_values(values["recipe"], overrides or {})
    variants_here = at_scale.get("variants") or {}
    values["variants"] = {
        name: {**(overrides or {}), **(variants_here.get(name) or {})}
        for name, overrides in (study.get("variants") or {}).items()
    }
    for name in ("seeds", "start"):
        if (value := at_scale.get(name, study.get(name))) is not None:
            values[name] = value
    return values


def _recipe_of(scale: str) -> Path:
    """The recipe of a scale: one of ours, or any recipe by name or file."""
    scales, recipes = shipped("scale"), shipped("recipe")
    if scale in scales:
        return scales[scale]
    if scale in recipes or scale.endswith((".yaml", ".yml")):
        return find(scale, "recipe")
    raise ValueError(
        f"scale is {scale!r}; it must be one of {', '.join(scales)}, the name of a recipe, or the file of one."
        f"{did_you_mean(scale, [*scales, *recipes])}"
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ValueError: where it holds something else.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {values!r:.80}; it must map names to values")
    return values


def _require_known(at_scale: Mapping[str, Any], scale: str, study: Mapping[str, Any]) -> None:
    for given, known, what in (
        (at_scale, _OF_A_SCALE, f"scales.{scale}"),
        (at_scale.get("variants") or {}, study.get("variants") or {}, f"scales.{scale}.variants"),
    ):
        for name in given:
            if name not in known:
                allowed = ", ".join(map(str, known))
                raise ValueError(f"{what} has {name!r}; it may have {allowed}.{did_you_mean(name, known)}")
