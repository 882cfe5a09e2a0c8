"""Plans a study without training: its runs, their costs, and roughly how long they take."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from time import perf_counter

from rich import box
from rich.table import Table

from localvit.data.config import DataConfig
from localvit.data.module import ImageData
from localvit.data.sources import open_parts
from localvit.studies.config import StudyConfig, StudyRun
from localvit.studies.record import Costs, Outcome
from localvit.studies.running.costs import measure, what_costs
from localvit.system.errors import LocalViTError
from localvit.training import RunConfig

# Few rounds suffice for an estimate, and few images for a machine that will not run the study.
_ROUNDS, _IMAGES, _BATCHES = 2, 16, 8
_CLASSES_OF_IMAGENET = 1000
_SWEEP, _START = "(sweep)", "(weights to start from)"


@dataclass(frozen=True)
class Images:
    """What the duration of a run depends on in its images.

    Attributes:
        train: number of training images.
        val: number of held-out images.
        num_classes: number of classes.
        seconds_to_load: time to load one image in one process.
        seconds_to_open: time until the first batch of a run.
    """

    train: int
    val: int
    num_classes: int
    seconds_to_load: float
    seconds_to_open: float


@dataclass(frozen=True)
class PlannedRun:
    """A run and its estimated duration.

    Attributes:
        run: the run.
        status: what earlier calls left: finished, failed or missing.
        seconds: estimated duration from the start. None if its images are not available.
    """

    run: StudyRun
    status: str
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """What a study would do.

    Attributes:
        costs: costs of each variant, measured on this machine with small batches.
        runs: all runs, including those that others start from.
        problem: why durations are unknown. None if they are known.
    """

    costs: dict[str, Costs]
    runs: tuple[PlannedRun, ...]
    problem: str | None

    def seconds(self, jobs: int) -> float | None:
        """Estimated duration of all unfinished runs, ``jobs`` at a time. None if unknown."""
        times = [run.seconds for run in self.runs if run.status != "finished"]
        known = [seconds for seconds in times if seconds is not None]
        return sum(known) / jobs if len(known) == len(times) else None


def plan(study: StudyConfig, runs: Mapping[StudyRun, Outcome], *, threads: int) -> Plan:
    """Count and measure every variant of a study on this machine.

    Args:
        study: the study.
        runs: its runs and those of its sweep, or a shard's share of them, with what earlier calls left.
        threads: CPU threads per run, for runs that do not set their own.

    Raises:
        ValueError: if a model cannot be built.
        LocalViTError: if a model is too large to be measured on this machine.
    """
    configs = study.configs
    images: dict[DataConfig, Images] = {}
    problem = None
    for data, config in {run.config.data: run.config for run in runs}.items():
        try:
            images[data] = _look(config)
        except LocalViTError as error:
            problem = str(error)
    num_classes = max((found.num_classes for found in images.values()), default=_CLASSES_OF_IMAGENET)
    batch_size = min(_IMAGES, *(config.training.batch_size for config in configs.values())) if problem else None
    costs = measure(configs, num_classes, threads=threads, batch_size=batch_size, rounds=_ROUNDS, memory=not problem)
    planned = tuple(
        PlannedRun(
            run,
            outcome.status,
            _seconds(run.config, _costs_of(run.config, configs, costs), images.get(run.config.data)),
        )
        for run, outcome in runs.items()
    )
    return Plan(costs, planned, problem)


def table(study: StudyConfig, planned: Plan) -> Table:
    """One row per variant: costs, runs, training speed and duration."""
    rows = Table(title=f"{study.name}, scale {study.scale}: {study.question}", box=box.SIMPLE_HEAD)
    rows.add_column("variant")
    for header in ("parameters", "MACs", "finished", "img/s", "time per run"):
        rows.add_column(header, justify="right", no_wrap=True)
    of_row: dict[str, list[PlannedRun]] = {name: [] for name in (_SWEEP, _START, *study.variants)}
    for run in planned.runs:
        name = run.run.variant
        of_row[_START if name is None else name if name in study.variants else _SWEEP].append(run)
    for name, runs in of_row.items():
        if not runs:
            continue
        costs = planned.costs.get(name)
        rows.add_row(
            name,
            f"{costs.parameters:,}" if costs else "",
            f"{costs.macs:,}" if costs else "",
            f"{sum(run.status == 'finished' for run in runs)} of {len(runs)}",
            f"{costs.training_images_per_second:,.0f}" if costs and costs.training_images_per_second else "",
            in_words(runs[0].seconds),
        )
    return rows


def in_words(seconds: float | None) -> str:
    """A duration such as ``1:05:30``, or ``unknown``."""
    return "unknown" if seconds is None else str(timedelta(seconds=round(seconds)))


def _look(config: RunConfig) -> Images:
    """Count the images of a run, and time how long a few take to load."""
    parts = open_parts(config.data, channels=config.input.channels)
    batch_size = min(_IMAGES, len(parts.train.labels_M))
    data = ImageData(
        parts.val,
        config.data,
        config.input,
        batch_size=batch_size,
        workers=0,
        train=parts.train,
        augmentation=config.augmentation,
    )
    batches = iter(data.train_dataloader())
    start = perf_counter()
    next(batches)  # images that fit into memory are decoded now, once
    opened = perf_counter()
    more = sum(1 for _ in islice(batches, _BATCHES))
    seconds = (perf_counter() - opened) / (more * batch_size) if more else (opened - start) / batch_size
    return Images(
        len(parts.train.labels_M), len(parts.val.labels_M), len(parts.train.class_names), seconds, opened - start
    )


def _costs_of(config: RunConfig, configs: Mapping[str, RunConfig], costs: Mapping[str, Costs]) -> Costs:
    """The costs of the variant that a run costs as much as; a run that others start from counts as the first."""
    alike = (costs[name] for name, variant in configs.items() if what_costs(variant) == what_costs(config))
    return next(alike, next(iter(costs.values())))


def _seconds(config: RunConfig, costs: Costs, images: Images | None) -> float | None:
    if images is None or costs.training_images_per_second is None or costs.inference_images_per_second is None:
        return None
    load = images.seconds_to_load

    def per_image(rate: float) -> float:
        # Loading processes work while the model does; without them, the two take turns.
        return max(1 / rate, load) if config.hardware.workers != 0 else 1 / rate + load

    training = config.training
    trained = training.total_epochs * images.train * per_image(costs.training_images_per_second)
    evaluations = training.total_epochs // (training.evaluate_every or training.total_epochs)
    evaluated = evaluations * images.val * per_image(costs.inference_images_per_second)
    return images.seconds_to_open + trained + evaluated
