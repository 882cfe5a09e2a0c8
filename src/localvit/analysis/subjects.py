"""What is analyzed: models in files, models by name, and the trained runs of a study."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from localvit.data.config import InputConfig
from localvit.locality.localize import localizations, localize
from localvit.models.weights.model_description import ModelDescription
from localvit.models.weights.model_file import create_model, description_by_name, load_model, read_description
from localvit.studies.config import StudyConfig, StudyRun
from localvit.studies.record import StudyError, StudyRecord
from localvit.studies.session import RUNS
from localvit.training.initial_model import build_model
from localvit.training.initial_weights import draw_by_name
from localvit.training.run_folder import LAST

_ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")


@dataclass(frozen=True)
class Subject:
    """One model of an analysis.

    Attributes:
        name: of the model, or of the variant of a study.
        seed: of its run; None outside of studies.
        input: how it sees an image.
        class_names: names of its classes; None if they are not known.
        load: loads the model.
        load_initial: builds the model as it was before training; None if ``load`` gives that already.
    """

    name: str
    seed: int | None
    input: InputConfig
    class_names: tuple[str, ...] | None
    load: Callable[[], nn.Module]
    load_initial: Callable[[], nn.Module] | None = None

    def __str__(self) -> str:
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"


def subjects(given: Sequence[str], *, model: str | None = None, pretrained: bool = False) -> list[Subject]:
    """The models that ``given`` names: files of weights, or names known to timm.

    Args:
        given: paths and names.
        model: the timm name of the model in files that do not say it.
        pretrained: whether models by name get timm's pretrained weights.

    Raises:
        ValueError: for a name that timm does not know, or a file that cannot be read as a model.
        FileNotFoundError: if a file does not exist.
    """
    found = [
        _from_file(Path(text), model) if _is_file(text) else _from_name(text, pretrained=pretrained) for text in given
    ]
    labels = _distinct([subject.name for subject in found], given)
    return [
        Subject(label, None, one.input, one.class_names, one.load, one.load_initial)
        for label, one in zip(labels, found, strict=True)
    ]


def subjects_of_study(folder: Path) -> tuple[StudyRecord, list[Subject]]:
    """A study's record, and its finished runs, variant by variant and seed by seed.

    Args:
        folder: of the study, such as ``runs/rq1_depthwise-digits``; the runs are in ``runs`` next to it.

    Raises:
        StudyError: if the folder holds no study, or none of its runs has weights.
    """
    record = StudyRecord.load(folder)
    runs_folder = folder.parent / RUNS
    runs = {(run.variant, run.seed): run for run in record.config.runs(runs_folder) if run.variant is not None}
    found = [
        _from_run(runs[variant, seed], record.config)
        for variant in record.config.variants
        for seed in record.config.seeds
        if (runs[variant, seed].folder / LAST["model"]).exists()
    ]
    if not found:
        raise StudyError(
            f"none of the runs of {folder} has its weights in {runs_folder}; train them with the command of the study, "
            "or copy the folder of the runs there"
        )
    return record, found


def _is_file(text: str) -> bool:
    return "/" in text or text.endswith(_ENDINGS)


def _from_file(path: Path, name: str | None) -> Subject:
    model, description = load_model(path, name=name)
    described = read_description(path) is not None
    calls = localizations(model)

    def initial() -> nn.Module:
        fresh = _fresh(description)
        for call in [] if localizations(fresh) else calls:
            localize(fresh, call.config, layers=call.layers, mode=call.mode)
        return fresh.eval()

    label = path.parent.name if described and path.parent.name and path.stem in ("best", "last") else path.stem
    return Subject(
        label,
        None,
        description.input,
        description.class_names,
        lambda: load_model(path, name=name)[0],
        lambda: draw_by_name(initial, 0),
    )


def _from_name(name: str, *, pretrained: bool) -> Subject:
    description = description_by_name(name, {})
    create = partial(_fresh, description)
    fresh: Callable[[], nn.Module] = lambda: draw_by_name(create, 0).eval()  # noqa: E731
    if not pretrained:
        return Subject(name, None, description.input, description.class_names, fresh)

    def load() -> nn.Module:
        classes = len(description.class_names)
        return create_model(name, description.input, num_classes=classes, pretrained=True).eval()

    return Subject(name, None, description.input, description.class_names, load, fresh)


def _fresh(description: ModelDescription) -> nn.Module:
    classes = len(description.class_names)
    return create_model(description.name, description.input, num_classes=classes, **description.arguments)


def _from_run(run: StudyRun, study: StudyConfig) -> Subject:
    path = run.folder / LAST["model"]
    description = read_description(path)
    if description is None:
        raise StudyError(f"{path} does not say which model it contains; train the run again")
    classes = len(description.class_names)
    config = run.config
    return Subject(
        run.variant or "",
        run.seed,
        description.input,
        description.class_names,
        lambda: load_model(path)[0],
        lambda: build_model(config.model, config.input, num_classes=classes, seed=run.seed).eval(),
    )


def _distinct(names: Sequence[str], given: Sequence[str]) -> list[str]:
    """Names that differ: by what was given if two models have the same."""
    chosen = [text if names.count(name) > 1 else name for name, text in zip(names, given, strict=True)]
    if twice := next((name for name in chosen if chosen.count(name) > 1), None):
        raise ValueError(f"{twice} is given twice; give each model once")
    return chosen
