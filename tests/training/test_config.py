"""Settings: what is refused, what a run's key follows from, and that a recipe file gives back what was written."""

import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ActionConfigFile, ArgumentParser

from localvit import LocalityConfig
from localvit.data import AugmentationConfig, DataConfig, InputConfig
from localvit.training import (
    DistillationConfig,
    HardwareConfig,
    LoggingConfig,
    ModelConfig,
    RunConfig,
    TrainingConfig,
)

# No field has its default, so that a field that is lost on the way shows.
EVERYTHING = RunConfig(
    model=ModelConfig(
        name="deit_tiny_patch16_224",
        arguments={"patch_size": 4, "embed_dim": 12, "drop_path_rate": 0.1, "class_token": True, "act_layer": "relu"},
        checkpoint="deit.safetensors",
        locality=LocalityConfig(
            expansion_ratio=2.5,
            kernel_size=5,
            activation="silu",
            channel_attention="se",
            se_reduction=8,
            depthwise=False,
            residual=False,
        ),
        layers=["low", 2],
        other_layers=LocalityConfig(2.5, 5, "silu", "se", 8, False, False),
        mode="residual",
    ),
    data=DataConfig(
        source="webdataset",
        root="/data/shards",
        name="mine",
        train_split="learn",
        val_split="test",
        held_out=0.25,
        validation=0.1,
        classes=("ant", "bee"),
        train_images=1000,
        val_images=500,
        image_key="png",
        label_key="cls",
        category="super",
        download=True,
        on_broken="skip",
        cache="/tmp/cache",  # noqa: S108  # a name, never opened
        memory_gib=0.5,
    ),
    input=InputConfig((96, 128), 1, (0.3,), (0.37,), "bilinear", 0.9),
    augmentation=AugmentationConfig(
        crop_scale=(0.3, 0.9),
        crop_ratio=(0.5, 2.0),
        crop_padding=4,
        horizontal_flip=0.25,
        policy="augmix-m3",
        color_jitter=0.1,
        random_erasing=0.5,
        erasing_mode="const",
        repeats=2,
        mixup=0.2,
        cutmix=0.3,
        mix_probability=0.7,
        mix_switch_probability=0.4,
    ),
    training=TrainingConfig(
        epochs=20,
        cooldown_epochs=3,
        batch_size=48,
        accumulate=2,
        optimizer="lamb",
        optimizer_arguments={"betas": [0.9, 0.95], "eps": 1e-7},
        learning_rate=1e-3,
        learning_rate_images=256,
        weight_decay=0.02,
        layer_decay=0.75,
        warmup_epochs=4,
        warmup_learning_rate=1e-5,
        min_learning_rate=1e-4,
        label_smoothing=0.2,
        gradient_clip=1.0,
        ema_decay=0.99,
        ema_warmup=True,
        freeze_batch_norm=True,
        checkpoint_minutes=3.5,
        evaluate_every=23,
        score_test=False,
    ),
    distillation=DistillationConfig("regnety_160", "teacher.pth", "hard", 0.7, 3.0),
    hardware=HardwareConfig("cuda", 2, "bf16-mixed", True, False, True, True, 3, 5),
    logging=LoggingConfig(False, "localvit", 7),
    seed=9,
)


def leaves(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The way to every field of a dataclass, and of the dataclasses in it."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, (*path, field.name))
        yield (*path, field.name)


def with_field(config: RunConfig, path: tuple[str, ...], value: Any) -> RunConfig:
    """A copy with one field changed, its checks left out: what is asked is whether anything depends on it."""
    changed = copy.deepcopy(config)
    owner = changed
    for name in path[:-1]:
        owner = getattr(owner, name)
    object.__setattr__(owner, path[-1], value)
    return changed


def value_of(config: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        config = getattr(config, name)
    return config


def test_everything_has_another_value_than_by_default() -> None:
    for path in leaves(EVERYTHING):
        # A checkpoint excludes pretrained weights, and a block without its convolution has nothing to permute.
        if path != ("model", "pretrained") and path[-1] != "permuted":
            owner = value_of(EVERYTHING, path[:-1])
            field = next(field for field in dataclasses.fields(owner) if field.name == path[-1])
            default = field.default_factory() if callable(field.default_factory) else field.default
            assert value_of(EVERYTHING, path) != default, path


def test_the_key_changes_with_every_field() -> None:
    paths = list(leaves(EVERYTHING))
    assert len(paths) > 80
    keys = {EVERYTHING.key()}
    for path in paths:
        keys.add(with_field(EVERYTHING, path, f"another {path[-1]}").key())
    assert len(keys) == len(paths) + 1


def test_the_key_depends_on_nothing_else() -> None:
    assert copy.deepcopy(EVERYTHING).key() == EVERYTHING.key()
    assert replace(EVERYTHING, seed=EVERYTHING.seed).key() == EVERYTHING.key()
    shuffled = dict(reversed(EVERYTHING.model.arguments.items()))
    assert replace(EVERYTHING, model=replace(EVERYTHING.model, arguments=shuffled)).key() == EVERYTHING.key()
    assert RunConfig().key() == RunConfig().key() != EVERYTHING.key()
    assert len(EVERYTHING.key()) == 10


def parser() -> ArgumentParser:
    made = ArgumentParser(exit_on_error=False)
    made.add_argument("--config", action=ActionConfigFile)
    made.add_class_arguments(RunConfig)
    return made


def parsed(arguments: list[str]) -> RunConfig:
    reader = parser()
    options = reader.instantiate(reader.parse_args(arguments))
    return RunConfig(**{field.name: options[field.name] for field in dataclasses.fields(RunConfig)})


@pytest.mark.parametrize(
    "config",
    [
        RunConfig(),
        EVERYTHING,
        replace(EVERYTHING, model=ModelConfig(pretrained=True, layers="low"), distillation=None),
        replace(EVERYTHING, hardware=HardwareConfig(devices="auto", workers=0)),
    ],
)
def test_a_recipe_file_gives_back_the_configuration_it_was_written_from(config: RunConfig, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(config.to_dict(), sort_keys=False))
    read = parsed(["--config", str(path)])
    assert read == config
    assert read.key() == config.key()
    for leaf in leaves(config):
        assert type(value_of(read, leaf)) is type(value_of(config, leaf)), leaf


def test_an_option_after_a_recipe_file_overrides_it_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(EVERYTHING.to_dict()))
    read = parsed(["--config", str(path), "--training.epochs", "43", "--model.locality.kernel_size", "7"])
    assert EVERYTHING.model.locality is not None
    assert read == replace(
        EVERYTHING,
        model=replace(EVERYTHING.model, locality=replace(EVERYTHING.model.locality, kernel_size=7)),
        training=replace(EVERYTHING.training, epochs=43),
    )


def test_the_parser_refuses_what_the_dataclasses_refuse() -> None:
    with pytest.raises(ValueError, match=r"batch_size is 0; it must be more than 0"):
        parsed(["--training.batch_size", "0"])


def test_total_epochs_count_the_cool_down() -> None:
    assert EVERYTHING.training.total_epochs == 23


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, r"epochs is 0; it must be more than 0"),
        ({"batch_size": 0}, r"batch_size is 0; it must be more than 0"),
        ({"accumulate": 0}, r"accumulate is 0; it must be more than 0"),
        ({"learning_rate": -1.0}, r"learning_rate is -1\.0; it must be more than 0"),
        ({"learning_rate": float("nan")}, r"learning_rate is nan; it must be more than 0"),
        ({"checkpoint_minutes": 0.0}, r"checkpoint_minutes is 0\.0; it must be more than 0"),
        ({"weight_decay": -0.1}, r"weight_decay is -0\.1; it must be at least 0"),
        ({"warmup_learning_rate": -1e-6}, r"warmup_learning_rate is -1e-06; it must be at least 0"),
        ({"min_learning_rate": -1e-6}, r"min_learning_rate is -1e-06; it must be at least 0"),
        ({"gradient_clip": -1.0}, r"gradient_clip is -1\.0; it must be at least 0"),
        ({"cooldown_epochs": -1}, r"cooldown_epochs is -1; it must be at least 0"),
        ({"warmup_epochs": -1}, r"warmup_epochs is -1; it must be at least 0"),
        ({"epochs": 3, "warmup_epochs": 3}, r"warmup_epochs is 3 of 3 epochs; it must be fewer"),
        ({"learning_rate_images": 0}, r"learning_rate_images is 0; it must be at least 1"),
        ({"label_smoothing": 1.0}, r"label_smoothing is 1\.0; it must be at least 0 and below 1"),
        ({"ema_decay": 1.0}, r"ema_decay is 1\.0; it must be at least 0 and below 1"),
        ({"layer_decay": 0.0}, r"layer_decay is 0\.0; it must be above 0 and at most 1"),
        ({"layer_decay": 1.5}, r"layer_decay is 1\.5; it must be above 0 and at most 1"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "tfrecord"}, r"source is 'tfrecord'; it must be one of folder, parquet, webdataset"),
        ({"held_out": 1.0}, r"held_out is 1\.0; it must be at least 0 and below 1"),
        ({"held_out": -0.1}, r"held_out is -0\.1"),
        ({"train_images": 0}, r"train_images is 0; it must be at least 1"),
    ],
)
def test_data_that_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": (0, 8)}, r"image_size is 0; it must be at least 1"),
        ({"channels": 1}, r"mean is \(0\.485, 0\.456, 0\.406\); it must have 1 number\(s\), one per channel"),
        (
            {"channels": 1, "mean": (0.5,)},
            r"std is \(0\.229, 0\.224, 0\.225\); it must have 1 number\(s\), one per channel",
        ),
        ({"std": (0.2, 0.0, 0.2)}, r"std is 0\.0; it must be more than 0"),
        ({"crop_fraction": 0.0}, r"crop_fraction is 0\.0; it must be above 0 and at most 1"),
        ({"crop_fraction": 1.1}, r"crop_fraction is 1\.1; it must be above 0 and at most 1"),
    ],
)
def test_input_that_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InputConfig(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop_scale": (0.9, 0.1)}, r"crop_scale is \(0\.9, 0\.1\); it must be two positive numbers, the smaller"),
        ({"crop_scale": (0.5, 1.5)}, r"a crop keeps at most 1\.0"),
        ({"crop_ratio": (0.0, 1.0)}, r"crop_ratio is \(0\.0, 1\.0\); it must be two positive numbers"),
        ({"horizontal_flip": -0.1}, r"horizontal_flip is -0\.1; a probability must be between 0 and 1"),
        ({"random_erasing": 2.0}, r"random_erasing is 2\.0; a probability must be between 0 and 1"),
        ({"mix_probability": 1.1}, r"mix_probability is 1\.1; a probability must be between 0 and 1"),
        ({"mix_switch_probability": -1}, r"mix_switch_probability is -1; a probability must be between 0 and 1"),
        ({"crop_padding": -1}, r"crop_padding is -1; it must be at least 0"),
        ({"color_jitter": -0.4}, r"color_jitter is -0\.4; it must be at least 0"),
        ({"mixup": -0.8}, r"mixup is -0\.8; it must be at least 0"),
        ({"cutmix": -1.0}, r"cutmix is -1\.0; it must be at least 0"),
        ({"repeats": 0}, r"repeats is 0; it must be at least 1"),
    ],
)
def test_augmentation_that_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentationConfig(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": 1.1}, r"weight is 1\.1; it must be between 0 and 1"),
        ({"weight": -0.1}, r"weight is -0\.1; it must be between 0 and 1"),
        ({"temperature": 0.0}, r"temperature is 0\.0; it must be more than 0"),
    ],
)
def test_distillation_that_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillationConfig("resnet18", **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": -1}, r"workers is -1; it must be at least 0"),
        ({"threads": 0}, r"threads is 0; it must be at least 1"),
        ({"devices": 0}, r"devices is 0; it must be at least 1"),
    ],
)
def test_hardware_that_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HardwareConfig(**arguments)


def test_weights_from_two_places_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pretrained and checkpoint are both given"):
        ModelConfig(pretrained=True, checkpoint="a.pth")


@pytest.mark.parametrize("mixing", [{"mixup": 0.8, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}])
def test_an_odd_batch_is_refused_where_images_are_mixed_in_pairs(mixing: dict[str, float]) -> None:
    training = TrainingConfig(batch_size=33)
    augmentation = replace(AugmentationConfig(), **mixing)  # type: ignore[arg-type]  # two of its numbers
    with pytest.raises(ValueError, match=r"batch_size is 33; mixup and cutmix pair images, so it must be even"):
        RunConfig(training=training, augmentation=augmentation)
    for unmixed in (replace(augmentation, mixup=0.0, cutmix=0.0), replace(augmentation, mix_probability=0.0)):
        assert RunConfig(training=training, augmentation=unmixed).training.batch_size == 33
