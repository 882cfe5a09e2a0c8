"""From models or a study to an analysis: chooses images, pairs models with their references, and shows progress."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from localvit.analysis.analysis import Analysis, analyze, images_needed
from localvit.analysis.subjects import Subject, subjects, subjects_of_study
from localvit.benchmark.result import provenance
from localvit.data.config import DataConfig
from localvit.data.source import ImageSource
from localvit.data.sources import open_parts, open_val
from localvit.evaluation.shown_images import ShownImages, UnlabeledImages
from localvit.studies.record import code_version
from localvit.system.progress import progress_bar


def analyze_models(
    given: Sequence[str],
    data: DataConfig,
    measures: Sequence[str],
    *,
    images: Path | None,
    count: int,
    device: torch.device,
    console: Console,
    model: str | None = None,
    pretrained: bool = False,
) -> Analysis:
    """Analyze models side by side; each is compared with the first.

    Args:
        given: files of weights, or names known to timm.
        data: the held-out images.
        measures: names of the measures.
        images: a folder of images without labels, in place of ``data``.
        count: most images to use.
        device: where to compute.
        console: for progress.
        model: the timm name of the model in files that do not say it.
        pretrained: whether models by name get timm's pretrained weights.

    Raises:
        ValueError: for a model that cannot be built or read.
        DataError: for images that cannot be used.
    """
    found = subjects(given, model=model, pretrained=pretrained)
    return _run(
        found,
        measures,
        title=f"Inside {', '.join(subject.name for subject in found)}",
        baselines=found[0].name,
        sources=_Sources(data, images, held_out_only=True),
        count=count,
        device=device,
        console=console,
    )


def analyze_study(
    folder: Path,
    data: DataConfig,
    measures: Sequence[str],
    *,
    images: Path | None,
    count: int,
    device: torch.device,
    console: Console,
) -> Analysis:
    """Analyze all finished runs of a study; variants are compared with their baselines and controls, seed by seed.

    Args:
        folder: of the study.
        data: where the study's images are now, if they were moved: its ``root`` and ``cache`` replace those of the
            study.
        measures: names of the measures.
        images: a folder of images without labels, in place of the study's test images.
        count: most images to use.
        device: where to compute.
        console: for progress.

    Raises:
        StudyError: if the folder holds no study, or no run has weights.
        DataError: for images that cannot be used.
    """
    record, found = subjects_of_study(folder)
    config = record.config
    here = config.recipe.data
    if data.root is not None:
        here = replace(here, root=data.root)
    if data.cache is not None:
        here = replace(here, cache=data.cache)
    return _run(
        found,
        measures,
        title=f"What changed inside: {config.question}",
        baselines=config.baseline,
        isolates=config.isolates,
        sources=_Sources(here, images, held_out_only=False),
        count=count,
        device=device,
        console=console,
        study=f"{config.name}{f', scale {config.scale}' if config.scale else ''}",
    )


class _Sources:
    """Opens the images of an analysis once per number of channels."""

    def __init__(self, data: DataConfig, images: Path | None, *, held_out_only: bool) -> None:
        self.data, self.images, self.held_out_only = data, images, held_out_only
        self._opened: dict[int, ImageSource] = {}

    def open(self, channels: int) -> ImageSource:
        if channels not in self._opened:
            self._opened[channels] = self._open(channels)
        return self._opened[channels]

    def _open(self, channels: int) -> ImageSource:
        if self.images is not None:
            return UnlabeledImages(self.images, channels=channels)
        if self.held_out_only:
            return open_val(self.data, channels=channels)
        parts = open_parts(self.data, channels=channels)
        return parts.val if parts.test is None else parts.test


def _run(
    found: Sequence[Subject],
    measures: Sequence[str],
    *,
    title: str,
    baselines: str | Mapping[str, str],
    sources: _Sources,
    count: int,
    device: torch.device,
    console: Console,
    isolates: Mapping[str, str] | None = None,
    study: str = "",
) -> Analysis:
    names = tuple(dict.fromkeys(subject.name for subject in found))
    planned = Analysis(title, names, baselines, (), isolates or {})
    by_run = {(subject.name, subject.seed): subject for subject in found}
    seen: dict[tuple[object, ...], ShownImages] = {}

    def images_of(subject: Subject) -> ShownImages:
        key = (subject.input, subject.class_names)
        if key not in seen:
            source = sources.open(subject.input.channels)
            seen[key] = ShownImages(source, sources.data, subject.input, subject.class_names, count=count)
        return seen[key]

    def reference_of(subject: Subject) -> Subject | None:
        other = planned.isolates.get(subject.name) or planned.baseline_of(subject.name)
        return None if other is None else by_run.get((other, subject.seed))

    first = images_of(found[0])  # opens the images, so that a missing folder is an error before anything is computed
    total = images_needed(found, measures, first.count, reference_of)
    with progress_bar(console) as progress:
        task = progress.add_task("", total=total)

        def show(what: str, done: int) -> None:
            progress.update(task, advance=done, description=what)

        findings = analyze(found, images_of, measures, reference_of=reference_of, device=device, progress=show)
    seeds = sorted({subject.seed for subject in found if subject.seed is not None})
    origin = str(sources.images) if sources.images is not None else sources.data.source
    words = [study, f"{first.count} images from {origin}"]
    words.append(f"seeds {', '.join(map(str, seeds))}" if seeds else "")
    known = provenance()
    return replace(
        planned,
        findings=findings,
        images=", ".join(filter(None, words)),
        record={"command": known["command"], "machine": known["machine"], "code": code_version()},
    )
