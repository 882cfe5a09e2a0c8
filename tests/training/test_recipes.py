"""The recipes in the repository: each can be read, says what it reaches, and is the published one where it says so."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ActionConfigFile, ArgumentParser

from localvit.models.catalog import PUBLISHED
from localvit.training import RunConfig
from localvit.training.initial_model import build_model

RECIPES = sorted((Path(__file__).parents[2] / "src/localvit/recipes").glob("*.yaml"))
IMAGENET = [path for path in RECIPES if path.stem.startswith("imagenet_")]
# The recipe behind the published figures (DeiT's, with the paper's models), as the paper's authors state it.
PUBLISHED_RECIPE: dict[str, Any] = {
    "training.epochs": 300,
    "training.cooldown_epochs": 10,
    "training.warmup_epochs": 5,
    "training.warmup_learning_rate": 1e-6,
    "training.min_learning_rate": 1e-5,
    "training.batch_size": 128,
    "training.learning_rate": 5e-4,
    "training.learning_rate_images": 512,
    "training.optimizer": "adamw",
    "training.weight_decay": 0.05,
    "training.gradient_clip": 0.0,
    "training.label_smoothing": 0.1,
    "training.ema_decay": 0.99996,
    "augmentation.policy": "rand-m9-mstd0.5-inc1",
    "augmentation.color_jitter": 0.4,
    "augmentation.random_erasing": 0.25,
    "augmentation.erasing_mode": "pixel",
    "augmentation.horizontal_flip": 0.5,
    "augmentation.repeats": 3,
    "augmentation.mixup": 0.8,
    "augmentation.cutmix": 1.0,
    "augmentation.mix_probability": 1.0,
    "augmentation.mix_switch_probability": 0.5,
    "input.image_size": (224, 224),
    "input.interpolation": "bicubic",
    "model.arguments": {"drop_path_rate": 0.1},
    "data.source": "folder",
    "data.train_split": "train",
    "data.val_split": "val",
    "distillation": None,
}


def read(path: Path, *arguments: str) -> RunConfig:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_class_arguments(RunConfig)
    options = parser.instantiate(parser.parse_args(["--config", str(path), *arguments]))
    return RunConfig(**{field.name: options[field.name] for field in dataclasses.fields(RunConfig)})


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_opens_with_what_it_reaches_how_long_it_takes_and_its_command(path: Path) -> None:
    text = path.read_text()
    opening = text[: text.index("\nmodel:")]
    for word in ("# Reaches:", "# Takes:", f"# Run:      localvit train {path.stem}"):
        assert word in opening
    assert "TODO" not in text
    read(path)


@pytest.mark.parametrize("name", [model.name for model in PUBLISHED if model.name.startswith("localvit_")])
def test_every_model_of_the_paper_has_the_published_recipe(name: str) -> None:
    recipes = [recipe for recipe in map(read, IMAGENET) if recipe.model.name == name]
    assert len(recipes) == 1
    for field, expected in PUBLISHED_RECIPE.items():
        value: Any = recipes[0]
        for part in field.split("."):
            value = getattr(value, part)
        assert value == expected, field


@pytest.mark.parametrize("path", [path for path in RECIPES if path not in IMAGENET], ids=lambda path: path.stem)
def test_the_model_of_a_recipe_can_be_built(path: Path) -> None:
    config = read(path)
    model = dataclasses.replace(config.model, checkpoint=None, pretrained=False)
    assert build_model(model, config.input, num_classes=10) is not None


def test_fields_given_after_a_recipe_override_it() -> None:
    path = next(path for path in RECIPES if path.stem == "digits")
    assert read(path, "--training.epochs", "7").training.epochs == 7
    assert read(path, "--model.locality.kernel_size", "5").model.locality.kernel_size == 5  # type: ignore[union-attr]
