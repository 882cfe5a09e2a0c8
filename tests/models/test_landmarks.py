"""Landmarks: their sizes, timm's interface, and a training run on handwritten digits."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from localvit.data import DataConfig, InputConfig
from localvit.data.config import NO_AUGMENTATION
from localvit.models.costs import count_macs, count_parameters
from localvit.models.weights.model_file import load_model
from localvit.training import HardwareConfig, LoggingConfig, ModelConfig, RunConfig, TrainingConfig, run

LANDMARKS = {"linear_classifier": 3072 * 10 + 10, "resnet_small": 318_186}


@pytest.mark.parametrize("name", LANDMARKS)
def test_sizes_and_timms_interface(name: str) -> None:
    model: Any = timm.create_model(name, num_classes=10).eval()
    assert count_parameters(model) == LANDMARKS[name]
    images = torch.randn(2, 3, 32, 32)
    assert model.pretrained_cfg["input_size"] == (3, 32, 32)
    assert model(images).shape == (2, 10)
    torch.testing.assert_close(model.forward_head(model.forward_features(images)), model(images))
    assert model.get_classifier() is model.get_submodule(model.pretrained_cfg["classifier"])
    model.reset_classifier(0)
    assert model(images).shape == (2, model.num_features)
    model.reset_classifier(3)
    assert model(images).shape == (2, 3)


def test_the_linear_classifier_is_one_product_of_the_pixels() -> None:
    model: Any = timm.create_model("linear_classifier", img_size=(4, 6), in_chans=1, num_classes=3)
    images = torch.randn(2, 1, 4, 6)
    torch.testing.assert_close(model(images), images.flatten(1) @ model.head.weight.T + model.head.bias)
    assert count_macs(model, (1, 4, 6)) == 4 * 6 * 3


def test_the_small_resnet_keeps_the_resolution_of_small_images() -> None:
    model: Any = timm.create_model("resnet_small", features_only=True, in_chans=1).eval()
    assert model.feature_info.reduction() == [1, 1, 2, 4, 8]
    assert [feature.shape[-1] for feature in model(torch.randn(1, 1, 8, 8))] == [8, 8, 4, 2, 1]
    assert not any(isinstance(module, nn.MaxPool2d) for module in model.modules())


@pytest.mark.slow
@pytest.mark.parametrize("name", LANDMARKS)
def test_it_trains_on_digits(name: str, tmp_path: Path) -> None:
    config = RunConfig(
        model=ModelConfig(name),
        data=DataConfig("digits", held_out=0.25, train_images=256),
        input=InputConfig((8, 8), 1, (0.3,), (0.37,), crop_fraction=1.0),
        augmentation=NO_AUGMENTATION,
        training=TrainingConfig(
            epochs=12, cooldown_epochs=0, warmup_epochs=0, batch_size=32, learning_rate=0.003, learning_rate_images=None
        ),
        hardware=HardwareConfig("cpu", threads=1, workers=0),
        logging=LoggingConfig(tensorboard=False),
    )
    result = run(config, tmp_path / "run")
    assert result.accuracy > 30  # of ten classes
    model, description = load_model(tmp_path / "run" / "last.safetensors")
    assert description.name == name
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 10)
