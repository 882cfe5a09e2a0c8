"""A study: one question, its variants, and everything that is equal between them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from localvit.locality import LocalityConfig
from localvit.localize import Layers, Mode
from localvit.training import RunConfig


@dataclass(frozen=True)
class VariantConfig:
    """One way to build the feed-forward network; the rest of the experiment is the study's.

    Attributes:
        name: as tables and charts show it.
        locality: the mechanism; none for the transformer's own MLP.
        layers: which layers get it: all, low, middle, high, or a list of indices.
        mode: in place of the MLP (replace), or added to a trained one (residual).
        control: the variant that lacks only the depth-wise convolution, where the study has it.
        paper_gain: what the paper reports for this change on ImageNet-1k, in points of top-1.
    """

    name: str
    locality: LocalityConfig | None = None
    layers: Layers = "all"
    mode: Mode = "replace"
    control: str | None = None
    paper_gain: float | None = None


@dataclass(frozen=True)
class StudyConfig:
    """A controlled experiment: every variant with every seed, and nothing else varied.

    Attributes:
        name: of the study, and of its folder.
        question: what it asks, in a sentence.
        paper_finding: what the paper found, in a sentence.
        baseline: the name of the variant that gains are measured from.
        variants: what is compared.
        seeds: each variant is trained once with each; at least two, for an interval.
        recipe: what all runs share; its model is localized as each variant says, and its seed is the study's.
    """

    name: str
    question: str
    paper_finding: str
    baseline: str
    variants: list[VariantConfig]
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    recipe: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        _require_distinct("variants", names)
        _require_distinct("seeds", self.seeds)
        if self.baseline not in names:
            raise ValueError(f"baseline is {self.baseline!r}; it must be one of the variants: {', '.join(names)}")
        for variant in self.variants:
            if variant.control is not None and variant.control not in names:
                raise ValueError(
                    f"control of {variant.name!r} is {variant.control!r}; "
                    f"it must be one of the variants: {', '.join(names)}"
                )
        if len(self.seeds) < 2:
            raise ValueError(f"seeds is {self.seeds}; an interval needs at least two")

    def run_config(self, variant: VariantConfig, seed: int) -> RunConfig:
        """The training run of one variant with one seed."""
        model = replace(self.recipe.model, locality=variant.locality, layers=variant.layers, mode=variant.mode)
        return replace(self.recipe, model=model, seed=seed)


def _require_distinct(field_name: str, values: Sequence[str | int]) -> None:
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"{field_name} has {', '.join(twice)} more than once")
