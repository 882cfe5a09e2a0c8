"""What is known of a study so far: its configuration, what became of each run, and what its variants cost.

A record is a JSON file beside the report. Reports are made from it alone, on any machine, at any later time.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from localvit.studies.config import Claim, Resources, StudyConfig, StudyRun
from localvit.system.errors import LocalViTError
from localvit.system.files import write_text
from localvit.training import RunResult, read_result
from localvit.training.overrides import run_config
from localvit.training.record import git_state

RECORD, ERROR = "study.json", "error.txt"
_VERSION = 1


class StudyError(LocalViTError):
    """A study that cannot go on; what has finished is kept."""


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    Attributes:
        variant: name of the variant; none for a run that others start from.
        seed: of the run.
        folder: name of the run's folder, which ends with the hash of its configuration.
        result: of a finished run.
        error: why a run failed.
    """

    variant: str | None
    seed: int
    folder: str
    result: RunResult | None = None
    error: str | None = None

    @property
    def status(self) -> Literal["finished", "failed", "missing"]:
        """Finished runs have a result, failed ones an error, and those that are still to be trained neither."""
        return "finished" if self.result is not None else "failed" if self.error is not None else "missing"


@dataclass(frozen=True)
class Costs:
    """What a variant costs, counted and measured.

    Attributes:
        parameters: of the model.
        macs: multiply-accumulates of one image.
        training_images_per_second: measured on the study's machine, one process, with the recipe's batch and precision.
        inference_images_per_second: the same without gradients.
        training_memory: bytes that a training step takes at its peak, model and optimizer included.
    """

    parameters: int
    macs: int
    training_images_per_second: float | None = None
    inference_images_per_second: float | None = None
    training_memory: int | None = None


@dataclass(frozen=True)
class StudyRecord:
    """A study and what is known of it.

    Attributes:
        config: the study.
        outcomes: of all its runs, seed by seed.
        costs: of each variant whose costs are known, by its name.
        command: that was run, for whoever wants to repeat it.
        machine: that the costs were measured on, in words.
        code: version and commit of this project.
    """

    config: StudyConfig
    outcomes: tuple[Outcome, ...]
    costs: Mapping[str, Costs] = field(default_factory=dict)
    command: str = ""
    machine: str = ""
    code: str = ""

    def save(self, folder: Path) -> None:
        """Write the record into the study's folder."""
        values = {"version": _VERSION, **dataclasses.asdict(self)}
        write_text(folder / RECORD, json.dumps(values) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "StudyRecord":
        """The record in a study's folder.

        Raises:
            StudyError: where there is none, or one that this version does not read.
        """
        path = folder / RECORD
        if not path.exists():
            raise StudyError(f"{folder} holds no study: there is no {RECORD} in it. Give folders that a study has made")
        try:
            values = json.loads(path.read_text())
            if values["version"] != _VERSION:
                raise StudyError(f"{path} has version {values['version']}; this localvit reads {_VERSION}")
            return cls(
                config=_config(values["config"]),
                outcomes=tuple(_outcome(outcome) for outcome in values["outcomes"]),
                costs={name: Costs(**costs) for name, costs in values["costs"].items()},
                command=values["command"],
                machine=values["machine"],
                code=values["code"],
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StudyError(f"{path} is no record of a study: {error}") from error


def merge(records: Sequence[StudyRecord]) -> list[StudyRecord]:
    """One record for each study: those that differ in nothing but their seeds become one with the seeds of all."""
    groups: list[list[StudyRecord]] = []
    for record in records:
        same = [group for group in groups if replace(group[0].config, seeds=record.config.seeds) == record.config]
        if same:
            same[0].append(record)
        else:
            groups.append([record])
    return [_merged(group) for group in groups]


def _merged(records: Sequence[StudyRecord]) -> StudyRecord:
    outcomes: dict[tuple[str | None, int], Outcome] = {}
    for outcome in (outcome for record in records for outcome in record.outcomes):
        key = (outcome.variant, outcome.seed)
        if key not in outcomes or outcomes[key].status != "finished":
            outcomes[key] = outcome
    seeds = sorted({seed for record in records for seed in record.config.seeds})
    return replace(
        records[0],
        config=replace(records[0].config, seeds=seeds),
        outcomes=tuple(sorted(outcomes.values(), key=lambda outcome: outcome.seed)),
    )


def code_version() -> str:
    """Version and commit of this project, with a mark where files were changed since."""
    state = git_state()
    version = f"localvit {metadata.version('localvit')}"
    if state is None:
        return version
    return f"{version}, commit {state['commit'][:10]}{' and changes' if state['changed'] else ''}"


def outcome_of(run: StudyRun) -> Outcome:
    """What the folder of a run says has become of it."""
    error = run.folder / ERROR
    result = read_result(run.folder)
    return Outcome(
        run.variant,
        run.seed,
        run.folder.name,
        result,
        error.read_text().strip() if result is None and error.exists() else None,
    )


def _config(values: dict[str, Any]) -> StudyConfig:
    return StudyConfig(
        **{
            **values,
            "recipe": run_config(values["recipe"]),
            "claims": [Claim(**claim) for claim in values["claims"]],
            "resources": Resources(**values["resources"]),
        }
    )


def _outcome(values: dict[str, Any]) -> Outcome:
    return Outcome(**{**values, "result": values["result"] and RunResult(**values["result"])})
