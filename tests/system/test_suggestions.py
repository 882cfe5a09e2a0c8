"""The nearest right name for a wrong one, from the parser's own messages."""

from pathlib import Path

import pytest
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser

from localvit.system.suggestions import field_names, nearest, with_suggestion
from localvit.training import RunConfig

NAMES = list(field_names(RunConfig))


def refused(arguments: list[str]) -> str:
    """What the parser says to ``arguments``."""
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_class_arguments(RunConfig)
    with pytest.raises(ArgumentError) as raised:
        parser.parse_args(arguments)
    return str(raised.value)


def test_the_names_are_those_of_all_fields_however_deep() -> None:
    assert {
        "seed",
        "training",
        "training.learning_rate",
        "model.locality",  # of a dataclass or none
        "model.locality.kernel_size",
        "distillation.teacher",
        "hardware.devices",  # of a number or a word
        "model.arguments",
    } <= set(NAMES)
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize(
    ("option", "right"),
    [
        ("--training.epoch", "training.epochs"),
        ("--training.lerning_rate", "training.learning_rate"),
        ("--training.warmup_epoch", "training.warmup_epochs"),
        ("--augmentation.mixupp", "augmentation.mixup"),
        ("--model.locality.kernel_siz", "model.locality.kernel_size"),
        ("--model.locality.channel_atention", "model.locality.channel_attention"),
        ("--distillation.techer", "distillation.teacher"),
        ("--trainning.epochs", "training.epochs"),
        ("--epochs", "training.epochs"),  # the group forgotten
        ("--lerning_rate", "training.learning_rate"),
        ("--sead", "seed"),
    ],
)
@pytest.mark.parametrize("form", ["{option} 3", "{option}=3"])
def test_a_wrong_option_is_answered_with_the_right_one(option: str, right: str, form: str) -> None:
    message = refused(form.format(option=option).split())
    assert with_suggestion(message, NAMES) == f"{message}. Did you mean {right}?"


@pytest.mark.parametrize(
    ("recipe", "right"),
    [
        ("training:\n  epoch: 3\n", "training.epochs"),
        ("training:\n  epochs: 3\n  label_smothing: 0.1\n", "training.label_smoothing"),
        ("trainning:\n  epochs: 3\n", "training.epochs"),
        ("model:\n  locality:\n    kernel_siz: 3\n", "model.locality.kernel_size"),
        ("model:\n  locality:\n    activation: gelu\n    expansion: 2\n    se_reductoin: 2\n", None),
        ("distillation:\n  teacher: resnet18\n  temprature: 3\n", "distillation.temperature"),
        ("sead: 3\n", "seed"),
    ],
)
def test_a_wrong_name_in_a_recipe_is_answered_with_the_right_one(
    recipe: str, right: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe)
    message = refused(["--config", str(path)])
    answer = with_suggestion(message, NAMES)
    assert answer.startswith(message)
    if right is not None:
        assert answer == f"{message}. Did you mean {right}?"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--zzz", "3"],  # nothing is near
        ["--training.epochs", "many"],  # the name is right, the value wrong
        ["--training.batch_size", "1.5"],
    ],
)
def test_nothing_is_suggested_where_nothing_is_near_or_the_name_is_right(arguments: list[str]) -> None:
    message = refused(arguments)
    assert with_suggestion(message, NAMES) == message


def test_messages_of_others_stay_as_they_are() -> None:
    assert with_suggestion("epochs is 0; it must be more than 0", NAMES) == "epochs is 0; it must be more than 0"


def test_nearest_prefers_the_whole_name_to_its_last_part() -> None:
    names = ["input.mean", "training.epochs", "data.name", "model.name"]
    assert nearest("model.nam", names) == "model.name"
    assert nearest("data.nam", names) == "data.name"
    assert nearest("epoch", names) == "training.epochs"
    assert nearest("something_else", names) is None
    assert nearest("epoch", []) is None
