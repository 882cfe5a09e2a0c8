"""What a sweep chooses."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from small_runs import RECIPE

from localvit.studies.choice import choose
from localvit.studies.config import StudyRun
from localvit.studies.record import ERROR, StudyError
from localvit.training import RunResult
from localvit.training.overrides import run_config, with_overrides

CONFIG = run_config(RECIPE)


def a_run(folder: Path, group: str, value: float, seed: int, accuracy: float | str | None) -> StudyRun:
    """A run of a sweep that ended with this accuracy or error; None for one that is still to be trained."""
    config = with_overrides(
        CONFIG, {"training.learning_rate": value, "seed": seed, "model.arguments.depth": len(group)}
    )
    run = StudyRun.of(f"{group}, {value}", config, folder)
    run.folder.mkdir(parents=True, exist_ok=True)
    if isinstance(accuracy, float):
        result = RunResult(1, 1, [{"epoch": 1, "val_top1": accuracy}])
        (run.folder / "result.json").write_text(json.dumps(asdict(result)))
    elif accuracy is not None:
        (run.folder / ERROR).write_text(accuracy)
    return run


def sweep(
    folder: Path, groups: dict[str, dict[float, list[float | str | None]]]
) -> dict[str, dict[float, list[StudyRun]]]:
    return {
        group: {
            value: [a_run(folder, group, value, seed, accuracy) for seed, accuracy in enumerate(accuracies)]
            for value, accuracies in values.items()
        }
        for group, values in groups.items()
    }


def chosen(folder: Path, groups: dict[str, dict[float, list[float | str | None]]]) -> dict[str, float]:
    return {found.group: found.value for found in choose(sweep(folder, groups)) if found.chosen}


def test_every_group_gets_the_value_with_its_own_best_mean(tmp_path: Path) -> None:
    groups: dict[str, dict[float, list[float | str | None]]] = {
        "a": {0.1: [70.0, 80.0], 0.2: [74.0, 77.0], 0.4: [71.0, 72.0]},
        "bb": {0.1: [60.0, 61.0], 0.2: [62.0, 63.0], 0.4: [90.0, 36.0]},
    }
    assert chosen(tmp_path, groups) == {"a": 0.2, "bb": 0.4}
    found = choose(sweep(tmp_path, groups))
    assert [(one.group, one.value, one.accuracies) for one in found][:2] == [
        *(("a", 0.1, (70.0, 80.0)), ("a", 0.2, (74.0, 77.0)))
    ]


def test_the_smallest_of_equal_values_is_chosen(tmp_path: Path) -> None:
    assert chosen(tmp_path, {"a": {0.4: [70.0], 0.1: [70.0], 0.2: [70.0]}}) == {"a": 0.1}


def test_a_value_whose_run_failed_is_never_chosen(tmp_path: Path) -> None:
    assert chosen(tmp_path, {"a": {0.1: [70.0, 71.0], 0.2: [99.0, "the loss is not finite"]}}) == {"a": 0.1}
    with pytest.raises(StudyError, match="no value of the sweep has finished for bb"):
        choose(sweep(tmp_path, {"bb": {0.1: ["died"], 0.2: ["died"]}}))


def test_nothing_is_chosen_before_all_runs_have_ended(tmp_path: Path) -> None:
    assert choose(sweep(tmp_path, {"a": {0.1: [70.0], 0.2: [None]}})) == ()
