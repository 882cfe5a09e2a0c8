"""A loss that is not finite: what is written down, and that nothing saved is lost.

Shape suffixes: B images of a batch, C channels, H height, W width, N tokens, D channels of a token.
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from localvit import LocalityConfig
from localvit.data import AugmentationConfig, DataConfig, InputConfig
from localvit.data.order import TrainingOrder
from localvit.system.errors import LocalViTError
from localvit.training import HardwareConfig, LoggingConfig, ModelConfig, RunConfig, TrainingConfig, read_result, run
from localvit.training.checkpointing import AtomicCheckpointIO
from localvit.training.classifier import Classifier
from localvit.training.initial_model import build_model
from localvit.training.non_finite import NonFiniteLossError, layer_norms

SHOWN = InputConfig((8, 8), 1, (0.3,), (0.37,), crop_fraction=1.0)
CONFIG = RunConfig(
    model=ModelConfig(
        "deit_tiny_patch16_224",
        {"patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 2},
        locality=LocalityConfig(),
    ),
    data=DataConfig("digits", held_out=0.25, train_images=128),
    input=SHOWN,
    augmentation=AugmentationConfig(repeats=1),
    training=TrainingConfig(epochs=3, cooldown_epochs=0, warmup_epochs=0, batch_size=32, checkpoint_minutes=1e-6),
    hardware=HardwareConfig("cpu", threads=1, workers=0),
    logging=LoggingConfig(tensorboard=False),
    seed=4,
)


class Two(nn.Module):
    """Two layers and a batch norm between them, small enough to compute by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.second = nn.Linear(4, 2, bias=False)

    def forward(self, x_BD: Tensor) -> Tensor:
        answers: Tensor = self.second(self.norm(self.first(x_BD)))
        return answers


def norm(*tensors: Any) -> float:
    return math.sqrt(sum(float(np.square(tensor.detach().double().numpy()).sum()) for tensor in tensors))


def test_norms_of_weights_gradients_and_outputs_are_those_computed_by_hand() -> None:
    torch.manual_seed(0)
    model, x_BD = Two(), torch.randn(5, 3)
    model(x_BD).square().sum().backward()
    model.second.weight.grad = None  # as for a layer that is not trained
    found = layer_norms(model, x_BD)

    weight, bias = (value.detach().double().numpy() for value in (model.first.weight, model.first.bias))
    first_BD = x_BD.double().numpy() @ weight.T + bias
    normed_BD = (first_BD - first_BD.mean(axis=0)) / np.sqrt(first_BD.var(axis=0) + 1e-5)
    second_BD = normed_BD @ model.second.weight.detach().double().numpy().T
    assert [layer["layer"] for layer in found] == ["first", "norm", "second"]
    for layer, module, output_BD in zip(
        found, (model.first, model.norm, model.second), (first_BD, normed_BD, second_BD), strict=True
    ):
        assert layer["weights"] == pytest.approx(norm(*module.parameters()), rel=1e-6)
        assert layer["output"] == pytest.approx(float(np.linalg.norm(output_BD)), rel=1e-4)
    assert found[0]["gradients"] == pytest.approx(norm(model.first.weight.grad, model.first.bias.grad), rel=1e-6)
    assert found[2]["gradients"] is None


@pytest.mark.parametrize(("value", "name"), [(math.nan, "nan"), (math.inf, "inf")])
def test_norms_that_are_no_numbers_are_written_as_words_that_json_can_hold(value: float, name: str) -> None:
    model = Two()
    with torch.no_grad():
        model.first.weight[0, 0] = value
    found = layer_norms(model, torch.ones(5, 3))
    assert found[0]["weights"] == name
    assert found[1]["output"] == "nan"
    assert isinstance(found[2]["weights"], float)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_every_layer_of_a_transformer_is_there_and_neither_its_buffers_nor_its_gradients_are_changed() -> None:
    torch.manual_seed(0)
    model = build_model(CONFIG.model, SHOWN, num_classes=10).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = layer_norms(model, torch.randn(4, 1, 8, 8))
    assert {"running_mean", "num_batches_tracked"} <= {name.rpartition(".")[2] for name in before}
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    with_weights = {name for name, module in model.named_modules() if list(module.parameters(recurse=False))}
    with_weights.discard("")  # the class token and the position embedding are the model's own
    assert with_weights <= {layer["layer"] for layer in found}
    assert not any(module._forward_hooks for module in model.modules() if not any(module.children()))


def test_a_model_that_raises_is_left_without_hooks_and_with_its_buffers() -> None:
    model = Two()
    model.second = nn.Linear(7, 2)  # fits nothing
    with pytest.raises(RuntimeError):
        layer_norms(model, torch.randn(5, 3))
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(model.norm.running_mean, torch.zeros(4))  # type: ignore[arg-type]  # tracked, so not None


class Break(Callback):
    """Does something to the model before a batch."""

    def __init__(self, epoch: int, batch: int, break_model: Callable[[Any], object]) -> None:
        self.at, self.break_model = (epoch, batch), break_model

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Classifier)
        if (trainer.current_epoch, batch_idx) == self.at:
            with torch.no_grad():
                self.break_model(pl_module.model)


def stopped(config: RunConfig, folder: Path, epoch: int, batch: int, value: float = math.nan) -> tuple[str, Any]:
    """The message and the report of a run whose class token becomes ``value`` before a batch."""
    callback = Break(epoch, batch, lambda model: model.cls_token.fill_(value))
    with pytest.raises(LocalViTError) as raised:
        run(config, folder, callbacks=[callback])
    assert not isinstance(raised.value, NonFiniteLossError)
    return str(raised.value), json.loads((folder / "non_finite_loss.json").read_text())


@pytest.mark.parametrize(("epoch", "batch"), [(0, 0), (1, 2)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_report_names_exactly_the_images_of_the_batch(epoch: int, batch: int, value: float, tmp_path: Path) -> None:
    message, report = stopped(CONFIG, tmp_path, epoch, batch, value)
    order = TrainingOrder(128, seed=4)
    order.set_epoch(epoch)
    draws = [draw.place for draw in order]
    assert report["image_indices"] == draws[32 * batch : 32 * (batch + 1)]
    assert (report["epoch"], report["step"]) == (epoch + 1, batch + 1)
    assert f"the loss is not finite in epoch {epoch + 1}, step {batch + 1}" in message
    assert str(tmp_path / "non_finite_loss.json") in message


def test_the_report_shows_where_it_began(tmp_path: Path) -> None:
    _, report = stopped(CONFIG, tmp_path, 0, 1)
    layers = {layer["layer"]: layer for layer in report["layers"]}
    assert isinstance(layers["patch_embed.proj"]["output"], float)  # before the class token comes in
    assert layers["blocks.0.norm1"]["output"] == "nan"
    assert layers["head"]["output"] == "nan"
    assert all(isinstance(layer["weights"], float) for layer in layers.values())


def test_a_learning_rate_far_too_high_stops_the_run(tmp_path: Path) -> None:
    training = replace(CONFIG.training, learning_rate=1e30, learning_rate_images=None)
    with pytest.raises(LocalViTError, match=r"the loss is not finite in epoch \d+, step \d+.*learning_rate"):
        run(replace(CONFIG, training=training), tmp_path)
    assert (tmp_path / "non_finite_loss.json").exists()
    assert read_result(tmp_path) is None


def test_the_last_checkpoint_stays_and_the_run_goes_on_from_it(tmp_path: Path) -> None:
    stopped(CONFIG, tmp_path / "stopped", 1, 2)
    assert read_result(tmp_path / "stopped") is None
    checkpoint = AtomicCheckpointIO().load_checkpoint(tmp_path / "stopped" / "last.ckpt")
    assert (checkpoint["epoch"], checkpoint["global_step"]) == (1, 6)
    for name, value in checkpoint["state_dict"].items():
        if value.is_floating_point() and not name.startswith(("val_metrics", "ema_metrics")):
            assert torch.isfinite(value).all(), name
    assert run(CONFIG, tmp_path / "stopped") == run(CONFIG, tmp_path / "whole")  # nothing breaks it this time


def test_the_report_of_a_run_without_broken_losses_is_not_written(tmp_path: Path) -> None:
    run(replace(CONFIG, training=replace(CONFIG.training, epochs=1)), tmp_path)
    assert not (tmp_path / "non_finite_loss.json").exists()
