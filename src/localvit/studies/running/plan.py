"""What a study would do: its runs, what they cost, and about how long they take; nothing is trained."""

from collections.abc import Sequence
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
from localvit.studies.record import Costs, outcome_of
from localvit.studies.running.costs import measure
from localvit.system.errors import LocalViTError
from localvit.training import RunConfig

# Enough for an estimate, and of few images, for a machine that the study would not run on.
_ROUNDS, _IMAGES = 2, 16
_CLASSES_OF_IMAGENET = 1000


@dataclass(frozen=True)
class Images:
    """The images of a run, as far as time depends on them.

    Attributes:
        train: how many to learn from.
        val: how many held out.
        num_classes: how many classes.
        seconds_to_load: one of them, in one process.
    """

    train: int
    val: int
    num_classes: int
    seconds_to_load: float


@dataclass(frozen=True)
class PlannedRun:
    """A run and about how long it takes.

    Attributes:
        run: the run.
        status: of what was trained before: finished, failed or missing.
        seconds: about how long it takes from its start; none where its images are not there to be counted.
    """

    run: StudyRun
    status: str
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """What a study would do.

    Attributes:
        costs: of each variant, measured here with small batches.
        runs: all of them, those that others start from too.
        problem: why times are not known; none where they are.
    """

    costs: dict[str, Costs]
    runs: tuple[PlannedRun, ...]
    problem: str | None

    def seconds(self, jobs: int) -> float | None:
        """About how long those take that have not finished, ``jobs`` at a time; none where that is not known."""
        times = [run.seconds for run in self.runs if run.status != "finished"]
        known = [seconds for seconds in times if seconds is not None]
        return sum(known) / jobs if len(known) == len(times) else None


def plan(study: StudyConfig, runs: Sequence[StudyRun], *, threads: int) -> Plan:
    """Count and measure every variant of a study on this machine.

    Args:
        study: the study.
        runs: all of it, or those of a shard.
        threads: of a run, where its configuration does not say.

    Raises:
        ValueError: where a model cannot be built.
        LocalViTError: where a model is too large to be measured here.
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
    first = next(iter(costs.values()))
    planned = tuple(
        PlannedRun(
            run,
            outcome_of(run).status,
            _seconds(run.config, costs.get(run.variant or "", first), images.get(run.config.data)),
        )
        for run in runs
    )
    return Plan(costs, planned, problem)


def table(study: StudyConfig, planned: Plan) -> Table:
    """A row a variant: costs, runs, images a second in training and time."""
    rows = Table(title=f"{study.name}, scale {study.scale}: {study.question}", box=box.SIMPLE_HEAD)
    rows.add_column("variant")
    for header in ("parameters", "MACs", "finished", "img/s", "a run takes"):
        rows.add_column(header, justify="right", no_wrap=True)
    for name in [None, *study.variants]:
        runs = [run for run in planned.runs if run.run.variant == name]
        if not runs:
            continue
        costs = planned.costs.get(name or "")
        rows.add_row(
            name or "(weights to start from)",
            f"{costs.parameters:,}" if costs else "",
            f"{costs.macs:,}" if costs else "",
            f"{sum(run.status == 'finished' for run in runs)} of {len(runs)}",
            f"{costs.training_images_per_second:,.0f}" if costs and costs.training_images_per_second else "",
            in_words(runs[0].seconds),
        )
    return rows


def in_words(seconds: float | None) -> str:
    """A time as ``1:05:30``, or that it is not known."""
    return "not known" if seconds is None else str(timedelta(seconds=round(seconds)))


def _look(config: RunConfig) -> Images:
    """Count the images of a run, and time the loading of a few."""
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
    start = perf_counter()
    batches = sum(1 for _ in islice(data.train_dataloader(), 8))
    seconds = (perf_counter() - start) / (batches * batch_size)
    return Images(len(parts.train.labels_M), len(parts.val.labels_M), len(parts.train.class_names), seconds)


def _seconds(config: RunConfig, costs: Costs, images: Images | None) -> float | None:
    if images is None or costs.training_images_per_second is None or costs.inference_images_per_second is None:
        return None
    # Loading processes work while the model does; without them the two take turns.
    beside = config.hardware.workers != 0
    training, inference = 1 / costs.training_images_per_second, 1 / costs.inference_images_per_second
    load = images.seconds_to_load
    epoch = images.train * (max(training, load) if beside else training + load)
    epoch += images.val * (max(inference, load) if beside else inference + load)
    return epoch * config.training.total_epochs
