"""Takes measures of models, one model after the other, and keeps what each found, or why it makes no sense there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from localvit.analysis.layers import NotMeasurableError
from localvit.analysis.measures.alignment import linear_cka
from localvit.analysis.subjects import Subject
from localvit.analysis.table import ALIGNMENT, MEASURES, Measured
from localvit.evaluation.shown_images import ShownImages
from localvit.system.errors import LocalViTError
from localvit.system.suggestions import did_you_mean

State = Literal["trained", "initial"]
Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Finding:
    """What one measure found in one model.

    Attributes:
        subject: name of the model or variant.
        seed: of its run; None outside of studies.
        measure: name of the measure, a key of :data:`localvit.analysis.table.MEASURES`.
        state: whether the model was as loaded (trained) or as before training (initial).
        result: what was found; None if the measure makes no sense for the model.
        sentence: why there is no result.
    """

    subject: str
    seed: int | None
    measure: str
    state: State
    result: Measured | None
    sentence: str = ""


@dataclass(frozen=True)
class Analysis:
    """All findings of an analysis, and what a report needs to know about its models.

    Attributes:
        title: what was analyzed.
        names: of the models or variants, in order.
        baselines: what models are compared with: one for all, or one per name.
        isolates: for names with locality, the control that differs from it in locality alone.
        findings: of all measures.
        images: what the images are, in words.
        record: command, machine and code, for repeating it.
    """

    title: str
    names: tuple[str, ...]
    baselines: str | Mapping[str, str]
    findings: tuple[Finding, ...]
    isolates: Mapping[str, str] = field(default_factory=dict)
    images: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def measures(self) -> list[str]:
        """Names of the measures that were taken, in the order of the report."""
        taken = {one.measure for one in self.findings}
        return [name for name in MEASURES if name in taken]

    def baseline_of(self, name: str) -> str | None:
        """What a model is compared with; None for a baseline."""
        baseline = self.baselines if isinstance(self.baselines, str) else self.baselines.get(name)
        return None if baseline == name else baseline

    def families(self) -> list["Analysis"]:
        """A part for each baseline, titled by it, with all that is compared with it; the whole if there is only one."""
        members: dict[str, list[str]] = {}
        for name in self.names:
            members.setdefault(self.baseline_of(name) or name, []).append(name)
        if len(members) == 1:
            return [self]
        return [
            replace(
                self,
                title=baseline,
                names=tuple(names),
                baselines=baseline,
                isolates={name: control for name, control in self.isolates.items() if name in names},
                findings=tuple(one for one in self.findings if one.subject in names),
            )
            for baseline, names in members.items()
        ]

    def of(self, measure: str, name: str, state: State = "trained") -> list[Finding]:
        """The findings of one measure in one model, seed by seed, where there is a result."""
        return [
            one
            for one in self.findings
            if (one.measure, one.subject, one.state) == (measure, name, state) and one.result is not None
        ]

    def sentences(self, measure: str) -> list[str]:
        """Why models have no result of a measure, a sentence per reason."""
        reasons: dict[str, dict[str, None]] = {}
        for one in self.findings:
            if one.measure == measure and one.sentence:
                reasons.setdefault(one.sentence, {})[one.subject] = None
        return [f"{', '.join(names)}: {reason}." for reason, names in reasons.items()]


def require_measures(names: Sequence[str]) -> list[str]:
    """The measures with these names, in the order of the report; all of them for no names.

    Raises:
        ValueError: for an unknown name.
    """
    for name in names:
        if name not in MEASURES:
            known = ", ".join(MEASURES)
            hint = did_you_mean(name, MEASURES)
            raise ValueError(f"there is no measure {name!r:.100}; the measures are {known}.{hint}")
    return [name for name in MEASURES if not names or name in names]


def images_needed(
    subjects: Sequence[Subject],
    measures: Sequence[str],
    count: int,
    reference_of: Callable[[Subject], Subject | None],
) -> int:
    """Number of images that all measures of all models will see, to show progress."""
    total = 0
    for subject in subjects:
        for name in measures:
            seen = min(MEASURES[name].images, count)
            if name == ALIGNMENT:
                total += seen * (reference_of(subject) is not None)
            else:
                total += seen * (1 + (MEASURES[name].initially and subject.load_initial is not None))
    return total


def analyze(
    subjects: Sequence[Subject],
    images_of: Callable[[Subject], ShownImages],
    measures: Sequence[str],
    *,
    reference_of: Callable[[Subject], Subject | None],
    device: torch.device,
    progress: Progress,
) -> tuple[Finding, ...]:
    """Take measures of models; at most two of them are in memory at a time.

    Args:
        subjects: the models.
        images_of: the images as a model sees them.
        measures: names of the measures.
        reference_of: the model whose layers those of a model are compared with; None for none.
        device: where to compute.
        progress: is told what is being done and how many images are done with.

    Raises:
        DataError: for images that cannot be read.
        LocalViTError: if the device runs out of memory.
    """
    findings: list[Finding] = []
    for subject in subjects:
        try:
            findings += _Session(subject, images_of, device, progress).take(measures, reference_of(subject))
        except torch.OutOfMemoryError as error:
            raise LocalViTError(
                f"{subject} needs more memory than {device} has; use --device cpu, or smaller images"
            ) from error
    return tuple(findings)


class _Session:
    """The measures of one model."""

    def __init__(
        self,
        subject: Subject,
        images_of: Callable[[Subject], ShownImages],
        device: torch.device,
        progress: Progress,
    ) -> None:
        self.subject, self.device, self.progress = subject, device, progress
        self.images_of, self.images = images_of, images_of(subject)

    def take(self, measures: Sequence[str], reference: Subject | None) -> list[Finding]:
        model = self.subject.load().to(self.device)
        findings = [
            self._find(name, "trained", lambda name=name: self._measure(name, model))  # type: ignore[misc]
            for name in measures
            if name != ALIGNMENT
        ]
        if ALIGNMENT in measures and reference is not None:
            findings.append(self._find(ALIGNMENT, "trained", lambda: self._align(model, reference)))
        initially = [name for name in measures if MEASURES[name].initially]
        if initially and self.subject.load_initial is not None:
            initial = self.subject.load_initial().to(self.device)
            findings += [
                self._find(name, "initial", lambda name=name: self._measure(name, initial))  # type: ignore[misc]
                for name in initially
            ]
        return findings

    def _find(self, name: str, state: State, measure: Callable[[], Measured]) -> Finding:
        what = f"{self.subject}: {MEASURES[name].title.lower()}{', before training' if state == 'initial' else ''}"
        self.images.on_batch = lambda done: self.progress(what, done)
        self.progress(what, 0)
        place = (self.subject.name, self.subject.seed, name, state)
        try:
            return Finding(*place, measure())
        except NotMeasurableError as error:
            return Finding(*place, None, str(error))

    def _measure(self, name: str, model: nn.Module) -> Measured:
        measure = MEASURES[name]
        assert measure.take is not None
        return measure.take(model, self.images.first(max(1, measure.images), measure.batch_size))

    def _align(self, model: nn.Module, reference: Subject) -> Measured:
        measure = MEASURES[ALIGNMENT]
        images = self.images.first(measure.images, measure.batch_size)
        others = self.images_of(reference).first(measure.images, measure.batch_size)
        if images.count < 4:
            raise NotMeasurableError("linear CKA needs at least 4 images; give more")
        return linear_cka(model, reference.load().to(self.device), images, other_images=others)
