"""Composes the file of a study and a scale into the values of its configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from localvit.system import plain_files
from localvit.system.shipped import find, shipped
from localvit.system.suggestions import did_you_mean
from localvit.training.overrides import set_values

_OF_A_SCALE = ("recipe", "variants", "landmarks", "seeds", "looks", "margin", "sweep", "start", "grid")


def compose(study: Mapping[str, Any], scale: str | None) -> dict[str, Any]:
    """The values of a study at one scale, for :class:`StudyConfig`.

    The recipe comes from the scale. The study overrides it for all variants, then for all variants at this scale, then
    for single variants, then for single variants at this scale.

    Args:
        study: the content of its file. ``recipe`` sets fields by their dotted names; ``scales`` has for each scale the
            ``recipe``, ``variants``, ``seeds`` and so on that hold there only; ``landmarks`` are further variants that
            take part in no statistics; ``grid`` multiplies the variants by the points of a grid, see :func:`_on_grid`.
        scale: ``digits``, ``cifar10``, ``imagenet``, or the file of a recipe. Defaults to the first of ``scales``, or
            to ``digits``.

    Raises:
        ValueError: for an unknown scale, or a scale with unknown fields.
    """
    own = _mapping(study.get("scales"), "scales")
    scale = scale or next(iter(own), "digits")
    path = _recipe_of(scale)
    at_scale = _mapping(own.get(scale), f"scales.{scale}")
    _require_known(at_scale, scale, study)

    values = {name: value for name, value in study.items() if name not in ("scales", *_OF_A_SCALE)}
    values["scale"] = Path(scale).stem
    values["recipe"] = read_yaml(path)
    for overrides in (study.get("recipe"), at_scale.get("recipe")):
        set_values(values["recipe"], _mapping(overrides, "recipe"))
    variants_here = _mapping(at_scale.get("variants"), "variants")
    values["variants"] = {
        name: {**_mapping(overrides, f"variant {name}"), **_mapping(variants_here.get(name), f"variant {name}")}
        for name, overrides in _mapping(study.get("variants"), "variants").items()
    }
    landmarks = {
        **_mapping(study.get("landmarks"), "landmarks"),
        **_mapping(at_scale.get("landmarks"), "landmarks"),
    }
    values["variants"] |= landmarks
    values["landmarks"] = list(landmarks)
    for name in ("seeds", "looks", "margin", "sweep", "start"):
        if (value := at_scale.get(name, study.get(name))) is not None:
            values[name] = value
    grid = at_scale.get("grid", study.get("grid"))
    if grid is None:
        return values
    try:
        return _on_grid(values, grid)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"grid is {grid!r:.200}, which does not fit the study; it must have an axis and points, and the study "
            f"variants and a baseline: {type(error).__name__}: {error}"
        ) from error


def _on_grid(values: Mapping[str, Any], grid: Mapping[str, Any]) -> dict[str, Any]:
    """Multiply the variants by the points of a grid; each variant becomes a curve.

    Args:
        values: of the study. Its baseline, what it isolates and the groups of its sweep follow the variants.
        grid: ``axis``, the dotted name of the field that varies, and ``points``, the fields that each point sets, of
            which ``axis`` is one. A sweep is run at the middle point.
    """
    axis, points = grid["axis"], list(grid["points"])
    if missing := [point for point in points if axis not in point]:
        raise ValueError(f"the grid has the axis {axis}, and its point {missing[0]} does not set it")
    middle = len(points) // 2

    def at(variant: str, point: Mapping[str, Any]) -> str:
        value = point[axis]
        return f"{variant}, {value[0] if isinstance(value, list) else value}"

    def everywhere(pairs: Mapping[str, str]) -> dict[str, str]:
        return {at(one, point): at(other, point) for one, other in pairs.items() for point in points}

    names, baseline = list(values["variants"]), values["baseline"]
    if isinstance(baseline, str):
        baseline = {name: baseline for name in names if name != baseline}
    found = {
        **values,
        "variants": {
            at(name, point): {**overrides, **point}
            for name, overrides in values["variants"].items()
            for point in points
        },
        "baseline": everywhere(baseline),
        "isolates": everywhere(values.get("isolates") or {}),
        "curves": {name: [at(name, point) for point in points] for name in names},
        "chart": "curves",
        "axis": axis,
    }
    if (sweep := values.get("sweep")) is not None:
        order = [points[middle], *points[:middle], *points[middle + 1 :]]
        groups = {
            group: [at(name, point) for point in order for name in members]
            for group, members in sweep["groups"].items()
        }
        found["sweep"] = {**sweep, "groups": groups}
    return found


def _recipe_of(scale: str) -> Path:
    """The recipe of a scale, or any recipe by name or file."""
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
        ValueError: if the file holds something else.
    """
    values = plain_files.read_yaml(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {values!r:.80}; it must map names to values")
    return values


def _mapping(value: Any, name: str) -> dict[str, Any]:
    """A part of a study that maps names to values; nothing if it is left out."""
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{name} of a study is {value!r:.80}; it must map names to values")
    return value or {}


def _require_known(at_scale: Mapping[str, Any], scale: str, study: Mapping[str, Any]) -> None:
    for given, known, what in (
        (at_scale, _OF_A_SCALE, f"scales.{scale}"),
        (
            _mapping(at_scale.get("variants"), "variants"),
            _mapping(study.get("variants"), "variants"),
            f"scales.{scale}.variants",
        ),
    ):
        for name in given:
            if name not in known:
                allowed = ", ".join(map(str, known))
                raise ValueError(f"{what} has {name!r}; it may have {allowed}.{did_you_mean(name, known)}")
