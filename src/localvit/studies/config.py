"""A study: one question, its variants, what it claims, and everything that the variants have in common."""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from localvit.studies.claims import Claim, Contrast, Price, field_words
from localvit.system.errors import require
from localvit.system.suggestions import did_you_mean
from localvit.training.config import RunConfig
from localvit.training.overrides import with_overrides

Chart = Literal["bars", "line", "layers", "curves"]
# Fields that say where images are on one machine; a plan is the same on all.
_PLACES = ("root", "cache")


@dataclass(frozen=True)
class Resources:
    """What one run gets on a Ray cluster.

    Attributes:
        cpus: cores, which is also the number of PyTorch threads.
        gpus: one GPU or a share of it; a run of a study computes on one device.
        memory_gib: free memory that the node must have, in GiB; 0 for no requirement.
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
class Sweep:
    """How a field such as the learning rate is chosen: the same grid and budget for every group of variants.

    A validation part that is cut from the training images judges its runs. They never see the test images.

    Attributes:
        groups: name of each group, and its variants. The first variant is swept, and all of them get its choice.
        axis: dotted name of the field.
        grid: the values to try.
        seeds: of the sweep's runs; none of the study's.
        validation: share of every class of the training images that judges.
        recipe: further fields of the sweep's runs.
    """

    groups: dict[str, list[str]]
    grid: list[float]
    axis: str = "training.learning_rate"
    seeds: list[int] = field(default_factory=lambda: [1000])
    validation: float = 0.2
    recipe: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(set(self.grid)) < 2:
            raise ValueError(f"the grid of a sweep is {self.grid}; give at least two different values")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation of a sweep is {self.validation}; it must be a share above 0 and below 1")
        members = [name for group in self.groups.values() for name in group]
        if not all(self.groups.values()) or len(set(members)) < len(members):
            raise ValueError(f"groups of a sweep are {self.groups}; every variant belongs to one, and none is empty")


@dataclass(frozen=True)
class StudyConfig:
    """A controlled experiment: every variant with every seed, and nothing else varied.

    Attributes:
        name: of the study.
        question: what it asks, in a sentence.
        variants: what is compared: for each name, the fields of the recipe that it sets, by their dotted names.
        baseline: the variant that gains are measured from, or one per variant.
        paper_finding: what the paper found, in a sentence; empty for a question that the paper does not ask.
        claims: what the study tests. Without any, it tests every variant against its baseline.
        prices: what variants may cost at most.
        isolates: variants with locality, and for each the control that differs from it in locality alone.
        margin: differences of less than so many points count as equal, unless a claim has a margin of its own.
        seeds: each variant is trained once with each; at least two, for an interval.
        looks: numbers of seeds after which the claims are tested early, such as 6 and 10 of 16. The study stops at the
            first look that decides every claim. By default it looks once, after all seeds.
        recipe: what all runs share.
        sweep: how a field is chosen before the runs; None to take it from the recipe.
        start: fields of a run from whose weights all variants start, seed by seed; None to start as the recipe says.
        curves: names of groups of variants that differ in one field, such as the number of training images.
        landmarks: variants that are trained for orientation only and take part in no statistics.
        chart: the study's own chart: bars, a line over a numeric field (axis), accuracy over the localized layers, or
            curves of accuracy and gain over a field.
        axis: dotted name of the numeric field of a line or of curves.
        resources: of one run, on a Ray cluster.
        scale: whose data, model and recipe: digits, cifar10, imagenet, or the file of a recipe. Defaults to the
            study's first.
    """

    name: str
    question: str
    variants: dict[str, dict[str, Any]]
    baseline: str | dict[str, str]
    paper_finding: str = ""
    claims: list[Claim] = field(default_factory=list)
    prices: list[Price] = field(default_factory=list)
    isolates: dict[str, str] = field(default_factory=dict)
    margin: float | None = None
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    looks: list[int] = field(default_factory=list)
    recipe: RunConfig = field(default_factory=RunConfig)
    sweep: Sweep | None = None
    start: dict[str, Any] | None = None
    curves: dict[str, list[str]] = field(default_factory=dict)
    landmarks: list[str] = field(default_factory=list)
    chart: Chart = "bars"
    axis: str | None = None
    resources: Resources = field(default_factory=Resources)
    scale: str = ""

    def __post_init__(self) -> None:
        self._check_seeds()
        self._check_names()
        if self.margin is not None:
            require("margin", self.margin, above=0)
        if (self.chart in ("line", "curves")) != (self.axis is not None):
            raise ValueError(
                f"chart is {self.chart!r} and axis is {self.axis!r}; a line needs an axis, and so do curves"
            )
        if self.recipe.hardware.devices not in ("auto", 1):
            raise ValueError(
                f"recipe.hardware.devices is {self.recipe.hardware.devices}; a run of a study computes on one device, "
                "and runs are spread over them, so it must be 1 or auto"
            )
        if self.start is not None:
            with_overrides(self.recipe, self.start)
        _ = self.configs, self.contrasts  # refuse what cannot be before anything runs
        if self.sweep is not None:
            _ = self.sweep_runs(Path())

    def _check_seeds(self) -> None:
        if twice := sorted({seed for seed in self.seeds if self.seeds.count(seed) > 1}):
            raise ValueError(f"seeds has {', '.join(map(str, twice))} more than once")
        if len(self.seeds) < 2:
            raise ValueError(f"seeds is {self.seeds}; an interval needs at least two")
        if self.looks and (sorted(set(self.looks)) != self.looks or self.looks[0] < 2):
            raise ValueError(f"looks is {self.looks}; give ascending numbers of seeds, at least two")
        if self.sweep is not None and (shared := sorted(set(self.seeds) & set(self.sweep.seeds))):
            raise ValueError(f"seed {shared[0]} is in seeds and in sweep.seeds; runs that choose must not judge")

    def _check_names(self) -> None:
        if isinstance(self.baseline, str):
            self._require_variant("baseline", self.baseline)
        else:
            for variant, baseline in self.baseline.items():
                self._require_variant(f"baseline of {variant!r}", baseline)
                self._require_variant("baseline", variant)
        for variant, control in self.isolates.items():
            self._require_variant("isolates", variant)
            self._require_variant(f"isolates[{variant!r}]", control)
        for price in self.prices:
            self._require_variant("a price", price.of)
            self._require_variant("a price", price.than)
        groups = {**self.curves, "landmarks": self.landmarks, **(self.sweep.groups if self.sweep else {})}
        for where, names in groups.items():
            for name in names:
                self._require_variant(where, name)

    def _require_variant(self, where: str, name: str) -> None:
        if name not in self.variants:
            raise ValueError(
                f"{where} is {name!r}; it must be one of the variants: {', '.join(self.variants)}."
                f"{did_you_mean(name, self.variants)}"
            )

    def baseline_of(self, variant: str) -> str | None:
        """The variant that the gain of ``variant`` is measured from, or None for a baseline."""
        baseline = self.baseline if isinstance(self.baseline, str) else self.baseline.get(variant)
        return None if baseline == variant else baseline

    def variant_config(self, variant: str) -> RunConfig:
        """The training run of one variant, except for its seed."""
        return self.configs[variant]

    @functools.cached_property
    def configs(self) -> Mapping[str, RunConfig]:
        """The training runs of all variants, except for their seeds.

        Raises:
            ValueError: for a field that a run does not have, or a value that it cannot have.
        """
        configs = {}
        for variant, overrides in self.variants.items():
            try:
                configs[variant] = with_overrides(self.recipe, overrides)
            except ValueError as error:
                raise ValueError(f"variant {variant!r}: {error}") from error
        return configs

    @functools.cached_property
    def tested(self) -> list[Claim]:
        """The claims of the study; without any, that every variant differs from its baseline."""
        pairs = {name: self.baseline_of(name) for name in self.variants if name not in self.landmarks}
        return self.claims or [
            Claim(better=name, than=baseline, expect="any") for name, baseline in pairs.items() if baseline is not None
        ]

    @functools.cached_property
    def contrasts(self) -> list[list[Contrast]]:
        """The contrasts of each claim that is tested."""
        return [claim.contrasts(self.configs, self.curves) for claim in self.tested]

    @property
    def all_looks(self) -> tuple[int, ...]:
        """Numbers of seeds after which the claims are tested; the last look has all seeds."""
        return (*(look for look in self.looks if look < len(self.seeds)), len(self.seeds))

    def decided(self) -> dict[str, Any]:
        """Everything that the study decides before it runs, as plain values; where the images are is not part of it."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        for place in _PLACES:
            values["recipe"]["data"].pop(place)
        return values

    def plan_hash(self) -> str:
        """Short hash of everything that the study decides before it runs."""
        return hashlib.sha256(json.dumps(self.decided(), sort_keys=True).encode()).hexdigest()[:12]

    def runs(self, folder: Path) -> "list[StudyRun]":
        """All runs of the study, seed by seed, so that a study stopped half-way has whole seeds to compare.

        Args:
            folder: where runs are kept, of this study and others.
        """
        return [run for seed in self.seeds for run in self._runs_of_seed(seed, folder)]

    def sweep_runs(self, folder: Path) -> "dict[str, dict[float, list[StudyRun]]]":
        """The runs of the sweep: for each group and value, one per seed of the sweep."""
        if self.sweep is None:
            return {}
        sweep = self.sweep
        judged = {"data.validation": sweep.validation, "training.score_test": False, **sweep.recipe}
        swept = {
            group: {
                value: with_overrides(self.configs[members[0]], {**judged, sweep.axis: value}) for value in sweep.grid
            }
            for group, members in sweep.groups.items()
        }
        return {
            group: {
                value: [
                    StudyRun.of(
                        f"{group}, {field_words(sweep.axis)} {value:g}",
                        replace(config, seed=seed),
                        folder,
                        after=self._start_of(seed, folder),
                    )
                    for seed in sweep.seeds
                ]
                for value, config in configs.items()
            }
            for group, configs in swept.items()
        }

    def with_choices(self, choices: Mapping[str, float]) -> "StudyConfig":
        """The study with the values that its sweep chose, by group."""
        assert self.sweep is not None
        chosen = {name: choices[group] for group, members in self.sweep.groups.items() for name in members}
        variants = {
            name: overrides if name not in chosen else {**overrides, self.sweep.axis: chosen[name]}
            for name, overrides in self.variants.items()
        }
        return replace(self, variants=variants)

    def _runs_of_seed(self, seed: int, folder: Path) -> "list[StudyRun]":
        start = self._start_of(seed, folder)
        runs = [
            StudyRun.of(variant, replace(config, seed=seed), folder, after=start)
            for variant, config in self.configs.items()
        ]
        return runs if start is None else [start, *runs]

    def _start_of(self, seed: int, folder: Path) -> "StudyRun | None":
        if self.start is None:
            return None
        return StudyRun.of(None, replace(with_overrides(self.recipe, self.start), seed=seed), folder)


@dataclass(frozen=True)
class StudyRun:
    """One training run of a study.

    Attributes:
        variant: its name; None for a run that others start from.
        seed: of the run.
        config: the whole run.
        folder: of the run, whose name ends with a hash of everything that decides its result.
        after: the run whose weights it starts from.
    """

    variant: str | None
    seed: int
    config: RunConfig = field(compare=False)  # the folder's name has its hash
    folder: Path
    after: "StudyRun | None" = None

    @classmethod
    def of(cls, variant: str | None, config: RunConfig, folder: Path, after: "StudyRun | None" = None) -> "StudyRun":
        """The run of ``config`` in its own folder below ``folder``, starting from the last weights of ``after``."""
        key = config.key()
        if after is not None:
            key = hashlib.sha256(json.dumps([key, after.folder.name]).encode()).hexdigest()[:10]
            config = replace(
                config, model=replace(config.model, checkpoint=str(after.folder / "last.safetensors"), pretrained=False)
            )
        return cls(variant, config.seed, config, folder / f"{config.model.name}-seed{config.seed}-{key}", after)

    def __str__(self) -> str:
        return f"{self.variant or 'start'}, seed {self.seed}"
