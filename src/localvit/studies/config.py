"""A study: one question, its variants, and everything that is equal between them."""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from localvit.system.errors import require
from localvit.system.suggestions import did_you_mean
from localvit.training.config import RunConfig
from localvit.training.overrides import with_overrides

Chart = Literal["bars", "line", "layers"]


@dataclass(frozen=True)
class Claim:
    """That one variant reaches more than another: what the paper says, or what you expect.

    Attributes:
        better: name of the one.
        than: name of the other.
        points: by how much, in points of top-1; none where that is not said.
    """

    better: str
    than: str
    points: float | None = None

    def __str__(self) -> str:
        return f"{self.better} > {self.than}"


@dataclass(frozen=True)
class Resources:
    """What a run is given on a Ray cluster.

    Attributes:
        cpus: cores; PyTorch uses as many threads.
        gpus: one GPU, or a share of it, as a run of a study computes on one device.
        memory_gib: memory that must be free on the machine, in GiB; 0 to ask for none.
    """

    cpus: int = 1
    gpus: float = 0.0
    memory_gib: float = 0.0

    def __post_init__(self) -> None:
        require("cpus", self.cpus, at_least=1)
        for name in ("gpus", "memory_gib"):
            require(name, getattr(self, name), at_least=0)
        if self.gpus > 1:
            raise ValueError(f"gpus is {self.gpus}; a run of a study computes on one device, so it must be at most 1")


@dataclass(frozen=True)
class StudyConfig:
    """A controlled experiment: every variant with every seed, and nothing else varied.

    Attributes:
        name: of the study.
        question: what it asks, in a sentence.
        variants: what is compared: names, and for each the fields of the recipe that it sets, by their dotted names.
        baseline: the variant that gains are measured from; or for each variant that has one its own.
        paper_finding: what the paper found, in a sentence; empty for a question that it does not ask.
        claims: that one variant reaches more than another; each is tested.
        seeds: each variant is trained once with each; at least two, for an interval.
        recipe: what all runs share.
        start: fields of the recipe that a run sets from whose weights those of all variants start, seed by seed; none
            to start as the recipe says.
        chart: the study's own chart: bars, a line over the field axis, or accuracy over the localized layers.
        axis: dotted name of a numeric field, for the line.
        resources: of a run, on a Ray cluster.
        scale: whose data, model and recipe: digits, cifar10, imagenet, or the file of a recipe; the study's first by
            default.
    """

    name: str
    question: str
    variants: dict[str, dict[str, Any]]
    baseline: str | dict[str, str]
    paper_finding: str = ""
    claims: list[Claim] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    recipe: RunConfig = field(default_factory=RunConfig)
    start: dict[str, Any] | None = None
    chart: Chart = "bars"
    axis: str | None = None
    resources: Resources = field(default_factory=Resources)
    scale: str = ""

    def __post_init__(self) -> None:
        if twice := sorted({seed for seed in self.seeds if self.seeds.count(seed) > 1}):
            raise ValueError(f"seeds has {', '.join(map(str, twice))} more than once")
        if len(self.seeds) < 2:
            raise ValueError(f"seeds is {self.seeds}; an interval needs at least two")
        if isinstance(self.baseline, str):
            self._require_variant("baseline", self.baseline)
        else:
            for variant, baseline in self.baseline.items():
                self._require_variant(f"baseline of {variant!r}", baseline)
                self._require_variant("baseline", variant)
        for claim in self.claims:
            self._require_variant("a claim", claim.better)
            self._require_variant("a claim", claim.than)
        if (self.chart == "line") != (self.axis is not None):
            raise ValueError(
                f"chart is {self.chart!r} and axis is {self.axis!r}; a line needs an axis, and only a line"
            )
        if self.recipe.hardware.devices not in ("auto", 1):
            raise ValueError(
                f"recipe.hardware.devices is {self.recipe.hardware.devices}; a run of a study computes on one device, "
                "and runs are spread over them, so it must be 1 or auto"
            )
        if self.start is not None:
            with_overrides(self.recipe, self.start)
        _ = self.configs  # what cannot be is refused before anything runs

    def _require_variant(self, where: str, name: str) -> None:
        if name not in self.variants:
            raise ValueError(
                f"{where} is {name!r}; it must be one of the variants: {', '.join(self.variants)}."
                f"{did_you_mean(name, self.variants)}"
            )

    def baseline_of(self, variant: str) -> str | None:
        """The variant whose accuracy the gain of ``variant`` is measured from; none for a baseline itself."""
        baseline = self.baseline if isinstance(self.baseline, str) else self.baseline.get(variant)
        return None if baseline == variant else baseline

    def variant_config(self, variant: str) -> RunConfig:
        """The training run of one variant, but for its seed."""
        return self.configs[variant]

    @functools.cached_property
    def configs(self) -> Mapping[str, RunConfig]:
        """The training runs of all variants, but for their seeds.

        Raises:
            ValueError: for a field that a run has not, or a value that it cannot have.
        """
        configs = {}
        for variant, overrides in self.variants.items():
            try:
                configs[variant] = with_overrides(self.recipe, overrides)
            except ValueError as error:
                raise ValueError(f"variant {variant!r}: {error}") from error
        return configs

    def runs(self, folder: Path) -> "list[StudyRun]":
        """All runs of the study, seed by seed, so that one stopped half-way has whole seeds to compare.

        Args:
            folder: where runs are kept, of this study and others.
        """
        return [run for seed in self.seeds for run in self._runs_of_seed(seed, folder)]

    def _runs_of_seed(self, seed: int, folder: Path) -> "list[StudyRun]":
        start = None
        if self.start is not None:
            start = StudyRun.of(None, replace(with_overrides(self.recipe, self.start), seed=seed), folder)
        runs = [
            StudyRun.of(variant, replace(config, seed=seed), folder, after=start)
            for variant, config in self.configs.items()
        ]
        return runs if start is None else [start, *runs]


@dataclass(frozen=True)
class StudyRun:
    """One training run of a study.

    Attributes:
        variant: its name; none for a run that others start from.
        seed: of the run.
        config: all of the run.
        folder: of the run, whose name ends with a hash of all that decides its result.
        after: the run whose weights it starts from.
    """

    variant: str | None
    seed: int
    config: RunConfig = field(compare=False)  # the folder's name has its hash
    folder: Path
    after: "StudyRun | None" = None

    @classmethod
    def of(cls, variant: str | None, config: RunConfig, folder: Path, after: "StudyRun | None" = None) -> "StudyRun":
        """The run of ``config`` in its own folder below ``folder``, from the last weights of the run ``after``."""
        key = config.key()
        if after is not None:
            key = hashlib.sha256(json.dumps([key, after.folder.name]).encode()).hexdigest()[:10]
            config = replace(
                config, model=replace(config.model, checkpoint=str(after.folder / "last.safetensors"), pretrained=False)
            )
        return cls(variant, config.seed, config, folder / f"{config.model.name}-seed{config.seed}-{key}", after)

    def __str__(self) -> str:
        return f"{self.variant or 'start'}, seed {self.seed}"
