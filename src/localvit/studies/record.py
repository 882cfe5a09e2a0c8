"""The record of a study: its configuration, the outcome of every run, the looks at them, and what variants cost.

A record is a JSON file beside the report. Reports are made from it alone, on any machine, at any later time.
"""

import base64
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from localvit.studies.config import StudyConfig, StudyRun
from localvit.system.errors import LocalViTError
from localvit.system.files import write_text
from localvit.system.plain_files import read_json
from localvit.system.plain_values import build
from localvit.training import RunConfig, RunResult, read_result
from localvit.training.overrides import run_config
from localvit.training.record import git_state
from localvit.training.run_folder import LOGITS, result_of

RECORD, ERROR = "study.json", "error.txt"
_VERSION = 3
_READABLE = (1, 2, 3)  # version 1 knew no looks, sweeps, or predictions; version 2 no unfinished sweeps


class StudyError(LocalViTError):
    """A study that cannot go on; whatever has finished is kept."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one run.

    Attributes:
        variant: name of the variant; None for a run that others start from.
        seed: of the run.
        folder: name of the run's folder, which ends with the hash of its configuration.
        result: of a finished run.
        error: why a run failed.
        correct: which test images were classified correctly, as bits in base 64, led by their number and a colon; None
            if that was not recorded.
    """

    variant: str | None
    seed: int
    folder: str
    result: RunResult | None = None
    error: str | None = None
    correct: str | None = None

    @property
    def status(self) -> Literal["finished", "failed", "missing"]:
        """Finished runs have a result, failed ones an error, and runs that are still to be trained neither."""
        return "finished" if self.result is not None else "failed" if self.error is not None else "missing"

    @property
    def loss(self) -> float | None:
        """Cross-entropy of the images that judge a finished run; None if it was not recorded."""
        if self.result is None:
            return None
        return self.result.test.get("loss", self.result.epochs[-1].get("val_loss"))

    def correct_images(self) -> "NDArray[np.bool_] | None":
        """Whether each test image was classified correctly, (M,); None if that was not recorded.

        Raises:
            ValueError: if the record is damaged.
        """
        if self.correct is None:
            return None
        images, _, bits = self.correct.partition(":")
        packed = np.frombuffer(base64.b64decode(bits), dtype=np.uint8)
        if not images.isdecimal() or not 0 <= 8 * len(packed) - int(images) < 8:
            raise ValueError(f"the bits of correct images are {self.correct!r:.40}, which are not of so many images")
        return np.unpackbits(packed, count=int(images)).astype(np.bool_)


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep found with one value for one group of variants.

    Attributes:
        group: of variants.
        value: of the field.
        accuracies: percent of the validation images, of each seed of the sweep.
        chosen: whether this value was chosen for the group.
    """

    group: str
    value: float
    accuracies: tuple[float, ...]
    chosen: bool


@dataclass(frozen=True)
class Look:
    """A look at the claims of a study.

    Attributes:
        seeds: number of seeds that every variant had finished.
        time: in UTC, ISO 8601.
        agreements: of each claim at that time: agrees, differs, equal or undecided.
    """

    seeds: int
    time: str
    agreements: Mapping[str, str]


@dataclass(frozen=True)
class Costs:
    """What a variant costs, counted and measured.

    Attributes:
        parameters: of the model.
        macs: multiply-accumulates of one image.
        training_images_per_second: measured on the study's machine, one process, with the recipe's batch and precision.
        inference_images_per_second: the same without gradients.
        training_memory: peak bytes of a training step, including model and optimizer.
    """

    parameters: int
    macs: int
    training_images_per_second: float | None = None
    inference_images_per_second: float | None = None
    training_memory: int | None = None


@dataclass(frozen=True)
class StudyRecord:
    """A study and everything known about it.

    Attributes:
        config: the study, with the values that its sweep chose.
        outcomes: of all its runs, seed by seed.
        costs: of each variant whose costs are known, by name.
        command: the command that was run.
        machine: the machine that measured the costs, in words.
        code: version and commit of this project.
        plan: hash of the study as it was before any run (:meth:`StudyConfig.plan_hash`).
        sweep: what the sweep found.
        looks: the looks at the claims so far.
        sweep_runs: the outcomes of the sweep's runs, for as long as it has not chosen.
    """

    config: StudyConfig
    outcomes: tuple[Outcome, ...]
    costs: Mapping[str, Costs] = field(default_factory=dict)
    command: str = ""
    machine: str = ""
    code: str = ""
    plan: str = ""
    sweep: tuple[SweepOutcome, ...] = ()
    looks: tuple[Look, ...] = ()
    sweep_runs: tuple[Outcome, ...] = ()

    def save(self, folder: Path) -> None:
        """Write the record into the study's folder."""
        values = {"version": _VERSION, **dataclasses.asdict(self)}
        write_text(folder / RECORD, json.dumps(values) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "StudyRecord":
        """The record in a study's folder.

        Raises:
            StudyError: if there is none, or one that this version cannot read.
        """
        path = folder / RECORD
        if not path.exists():
            raise StudyError(f"{folder} holds no study: there is no {RECORD} in it. Give folders that a study has made")
        try:
            values = read_json(path)
            if not isinstance(values, dict):
                raise ValueError(f"it holds {values!r:.80}")
            if values["version"] not in _READABLE:
                allowed = " and ".join(map(str, _READABLE))
                raise StudyError(f"{path} has version {values['version']}; this localvit reads {allowed}")
            del values["version"]
            record = build(cls, values, {RunConfig: run_config, RunResult: result_of})
            record.check()
            return record
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StudyError(f"{path} is not the record of a study: {error}") from error

    def check(self) -> None:
        """Raise ``ValueError`` if the outcomes or costs are not those of the study's variants."""
        for name in (*self.costs, *(outcome.variant for outcome in self.outcomes)):
            if name is not None and name not in self.config.variants:
                raise ValueError(f"it has a variant {name!r:.100}, which is not one of its study")
        for outcome in self.outcomes:
            outcome.correct_images()


def merge(records: Sequence[StudyRecord]) -> list[StudyRecord]:
    """One record per study: records that differ in their seeds only become one with all the seeds, looked at once."""
    groups: list[list[StudyRecord]] = []
    for record in records:
        same = [group for group in groups if same_study(group[0].config, record.config)]
        if same:
            same[0].append(record)
        else:
            groups.append([record])
    return [_merged(group) for group in groups]


def same_study(one: StudyConfig, other: StudyConfig) -> bool:
    """Whether two studies differ only in their seeds and what goes with those, and in where they find their images."""
    return _but_for_seeds(one) == _but_for_seeds(other)


def _but_for_seeds(config: StudyConfig) -> dict[str, Any]:
    return {name: value for name, value in config.decided().items() if name not in ("seeds", "looks", "sweep")}


def _merged(records: Sequence[StudyRecord]) -> StudyRecord:
    if len(records) == 1:
        return records[0]
    outcomes: dict[tuple[str | None, int], Outcome] = {}
    for outcome in (outcome for record in records for outcome in record.outcomes):
        key = (outcome.variant, outcome.seed)
        if key not in outcomes or outcomes[key].status != "finished":
            outcomes[key] = outcome
    seeds = sorted({seed for record in records for seed in record.config.seeds})
    return replace(
        records[0],
        config=replace(records[0].config, seeds=seeds, looks=[]),
        looks=(),
        outcomes=tuple(sorted(outcomes.values(), key=lambda outcome: outcome.seed)),
    )


def known_outcomes(runs: Sequence[StudyRun], earlier: Sequence[Outcome]) -> tuple[Outcome, ...]:
    """The outcome of each run: from its folder, or if that is gone, from an earlier record.

    Args:
        runs: of a study, or of its sweep.
        earlier: outcomes from a record of the same study; its seeds may differ.
    """
    recorded = {(outcome.variant, outcome.seed): outcome for outcome in earlier}
    return tuple(_known(run, recorded.get((run.variant, run.seed))) for run in runs)


def _known(run: StudyRun, recorded: Outcome | None) -> Outcome:
    if recorded is None:
        return _with_predictions(outcome_of(run), run.folder.parent)
    if recorded.folder == run.folder.name and recorded.result is not None and recorded.correct is not None:
        return recorded  # the folder has nothing more to say
    found = _with_predictions(outcome_of(run), run.folder.parent)
    return recorded if found.status == "missing" else found


def earlier_outcomes(study: StudyConfig, before: StudyRecord | None) -> tuple[Outcome, ...]:
    """The outcomes in an earlier record; none if it is of another study.

    Args:
        study: the study, with the choices of its sweep.
        before: the record, if there is one.
    """
    return before.outcomes if before is not None and same_study(before.config, study) else ()


def code_version() -> str:
    """Version and commit of this project, marked if files have changed since the commit."""
    state = git_state()
    version = f"localvit {metadata.version('localvit')}"
    if state is None:
        return version
    return f"{version}, commit {state['commit'][:10]}{' and changes' if state['changed'] else ''}"


def outcome_of(run: StudyRun) -> Outcome:
    """The outcome of a run, from its folder."""
    error = run.folder / ERROR
    result = read_result(run.folder)
    return Outcome(
        run.variant,
        run.seed,
        run.folder.name,
        result,
        error.read_text().strip() if result is None and error.exists() else None,
    )


def _with_predictions(outcome: Outcome, runs: Path) -> Outcome:
    """A finished outcome together with which test images were classified correctly, if its folder has the logits."""
    path = runs / outcome.folder / LOGITS
    if outcome.status != "finished" or not path.exists():
        return outcome
    tensors = load_file(path)
    correct_M = tensors["logits_MK"].argmax(axis=1) == tensors["labels_M"]
    bits = base64.b64encode(np.packbits(correct_M).tobytes()).decode()
    return replace(outcome, correct=f"{len(correct_M)}:{bits}")
