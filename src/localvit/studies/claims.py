"""What a study claims before it runs: contrasts of its variants, margins of equality, and prices."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from localvit.system.errors import require
from localvit.training.config import RunConfig

Expectation = Literal["more", "not less", "any"]


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of the accuracies of variants, in words and in numbers.

    Attributes:
        name: for tables, such as ``h-swish > ReLU6``.
        weights: of the variants in it; they sum to 0.
        pair: the two variants of a plain difference, None for anything else.
    """

    name: str
    weights: Mapping[str, float]
    pair: tuple[str, str] | None = None


@dataclass(frozen=True)
class Claim:
    """What the paper says, or what you expect, as one or several contrasts.

    - A difference: ``{better: A, than: B}``. Several names on a side stand for their mean.
    - Each of several differences: ``{each: {A: B, C: D}}``, which holds if A beats B and C beats D.
    - A slope: ``{slope: model.locality.expansion_ratio}``, in points per doubling of a numeric field, over the variants
      or curves that ``better`` names, or all. With ``than``, it is the difference of two slopes.

    Attributes:
        better: variants, or curves, that should reach more.
        than: variants, or curves, that they are compared with.
        each: differences that must all hold: the better variant, and the one it is compared with.
        slope: dotted name of a numeric field that accuracy should grow with.
        name: for tables; says what is compared by default.
        finding: short name of the finding of the paper that this decides, for the page of results.
        expect: ``more``; ``not less``, by more than the margin; or ``any`` for a question without an expectation.
        margin: differences of less than so many points count as equal; the study's by default.
        points: what the paper found, in points, for one difference or for the better variant of each.
    """

    better: str | list[str] = field(default_factory=list)
    than: str | list[str] = field(default_factory=list)
    each: dict[str, str] = field(default_factory=dict)
    slope: str | None = None
    name: str = ""
    finding: str = ""
    expect: Expectation = "more"
    margin: float | None = None
    points: float | dict[str, float] | None = None

    def __post_init__(self) -> None:
        if bool(self.than) > bool(self.better) or (bool(self.better) > bool(self.than) and self.slope is None):
            raise ValueError(f"a claim has better {self.better!r} and than {self.than!r}; give both")
        if bool(self.each) == (bool(self.better) or self.slope is not None):
            raise ValueError("a claim needs better and than, or each, or slope")
        if self.margin is not None:
            require("margin of a claim", self.margin, above=0)
        if self.expect == "not less" and self.margin is None:
            raise ValueError(f"the claim {self} expects not less; say by how many points at most with margin")

    def __str__(self) -> str:
        if self.name:
            return self.name
        if self.each:
            return ", ".join(f"{better} > {than}" for better, than in self.each.items())
        sign = {"more": ">", "not less": "≥", "any": "against"}[self.expect]
        difference = f"{_joined(self.better)} {sign} {_joined(self.than)}" if self.than else _joined(self.better)
        rises = f"grows with {field_words(self.slope)}" if self.slope else ""
        return ": ".join(filter(None, (difference, rises)))

    def contrasts(self, configs: Mapping[str, RunConfig], curves: Mapping[str, Sequence[str]]) -> list[Contrast]:
        """The contrasts of the claim.

        Args:
            configs: training runs of the study's variants, by name.
            curves: variants of each curve, by its name.

        Raises:
            ValueError: for a name that is no variant or curve, or a slope over fewer than two values.
        """
        if self.each:
            return [_difference([better], [than], configs, curves) for better, than in self.each.items()]
        better, than = _names(self.better), _names(self.than)
        if self.slope is None:
            return [_difference(better, than, configs, curves)]
        everywhere = [name for name in configs if number(configs[name], self.slope) is not None]
        rising = _slope(_variants(better, configs, curves) if better else everywhere, self.slope, configs)
        falling = _slope(_variants(than, configs, curves), self.slope, configs) if than else {}
        return [Contrast(str(self), _sum(rising, {name: -weight for name, weight in falling.items()}))]

    def paper_points(self, contrast: Contrast) -> float | None:
        """What the paper found for a contrast of the claim."""
        if isinstance(self.points, dict):
            return None if contrast.pair is None else self.points.get(contrast.pair[0])
        return self.points


@dataclass(frozen=True)
class Price:
    """That a variant costs at most so many times what another does.

    Attributes:
        of: the variant.
        than: the other.
        parameters: largest ratio of their parameters; None not to ask. The other fields likewise.
        macs: of the multiply-accumulates of one image.
        training_time: of the measured time of one training step.
        training_memory: of the measured peak memory of one training step.
    """

    of: str
    than: str
    parameters: float | None = None
    macs: float | None = None
    training_time: float | None = None
    training_memory: float | None = None

    def __post_init__(self) -> None:
        limits = self.limits()
        if not limits:
            raise ValueError(f"the price of {self.of} sets no limit; give parameters, macs, or training_time")
        for name, limit in limits.items():
            require(f"{name} of a price", limit, above=0)

    def limits(self) -> dict[str, float]:
        """The ratios that are asked, by name."""
        names = ("parameters", "macs", "training_time", "training_memory")
        return {name: limit for name in names if (limit := getattr(self, name)) is not None}


def number(config: RunConfig, name: str) -> float | None:
    """The numeric field with a dotted ``name``, or None if there is no such field or it holds something else."""
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
        if isinstance(value, list | tuple) and value and len(set(value)) == 1:
            value = value[0]  # an image size has two equal sides
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def field_words(name: str | None) -> str:
    """The last part of a dotted field name, in words."""
    return (name or "").rpartition(".")[2].replace("_", " ")


def _names(given: str | list[str]) -> list[str]:
    return [given] if isinstance(given, str) else given


def _joined(given: str | list[str]) -> str:
    names = _names(given)
    return "".join(names) if len(names) < 2 else f"mean of {', '.join(names)}"


def _variants(names: Sequence[str], configs: Mapping[str, RunConfig], curves: Mapping[str, Sequence[str]]) -> list[str]:
    found: list[str] = []
    for name in names:
        if name not in configs and name not in curves:
            allowed = ", ".join([*configs, *curves])
            raise ValueError(f"a claim names {name!r}; it must be one of the variants: {allowed}")
        found += [name] if name in configs else curves[name]
    return found


def _difference(
    better: Sequence[str],
    than: Sequence[str],
    configs: Mapping[str, RunConfig],
    curves: Mapping[str, Sequence[str]],
) -> Contrast:
    more, less = _variants(better, configs, curves), _variants(than, configs, curves)
    weights = _sum({name: 1 / len(more) for name in more}, {name: -1 / len(less) for name in less})
    pair = (more[0], less[0]) if len(more) == len(less) == 1 else None
    return Contrast(f"{_joined([*better])} > {_joined([*than])}", weights, pair)


def _slope(names: Sequence[str], axis: str, configs: Mapping[str, RunConfig]) -> dict[str, float]:
    """Weights whose sum with accuracies is the slope of their regression on the base-2 logarithm of a field."""
    values = {name: number(configs[name], axis) for name in names}
    unknown = [name for name, value in values.items() if value is None or value <= 0]
    if unknown or len(set(values.values())) < 2:
        raise ValueError(
            f"a claim has the slope over {axis}, which needs at least two positive numbers; "
            f"it is {', '.join(f'{value} in {name}' for name, value in values.items()) or 'in no variant'}"
        )
    positions = {name: math.log2(value) for name, value in values.items() if value is not None}
    mean = math.fsum(positions.values()) / len(positions)
    square = math.fsum((position - mean) ** 2 for position in positions.values())
    return {name: (position - mean) / square for name, position in positions.items()}


def _sum(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: one.get(name, 0.0) + other.get(name, 0.0) for name in {**one, **other}}
