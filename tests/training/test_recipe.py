"""The recipe's arithmetic, against its formulas.

Shape suffixes: B images of a batch, C channels, H height, W width, K classes.
"""

import contextlib
import dataclasses
import math
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pytest
import timm
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from torch import Tensor, nn

from localvit import LocalityConfig
from localvit.data import NO_AUGMENTATION, AugmentationConfig, DataConfig, InputConfig
from localvit.data.dataset import Batch
from localvit.data.sources import open_parts
from localvit.models.weights.checkpoints import read_state_dict, save_checkpoint
from localvit.models.weights.model_file import load_model
from localvit.training import (
    DistillationConfig,
    HardwareConfig,
    LoggingConfig,
    ModelConfig,
    RunConfig,
    RunResult,
    TrainingConfig,
    read_result,
    run,
)
from localvit.training.classifier import Classifier
from localvit.training.distillation import Teacher
from localvit.training.history import Epoch
from localvit.training.initial_model import build_model

GREY = InputConfig((8, 8), 1, (0.3,), (0.37,), crop_fraction=1.0)
COLOUR = InputConfig((8, 8), 3, (0.3, 0.4, 0.5), (0.37, 0.2, 0.3), crop_fraction=1.0)
ARGUMENTS = {"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2}
# 128 images to learn from: 4 batches of 32, without anything random but their order.
CONFIG = RunConfig(
    model=ModelConfig("deit_tiny_patch16_224", ARGUMENTS),
    data=DataConfig("digits", held_out=0.25, train_images=128),
    input=GREY,
    augmentation=NO_AUGMENTATION,
    training=TrainingConfig(
        epochs=1, cooldown_epochs=0, warmup_epochs=0, batch_size=32, learning_rate=1e-3, learning_rate_images=None
    ),
    hardware=HardwareConfig("cpu", threads=1, workers=0),
    logging=LoggingConfig(tensorboard=False),
)
LOCAL = replace(CONFIG.model, locality=LocalityConfig())
PLAIN_SGD: dict[str, Any] = {"optimizer": "momentum", "optimizer_arguments": {"momentum": 0.0}, "weight_decay": 0.0}


def recipe(config: RunConfig = CONFIG, **changes: Any) -> RunConfig:
    return replace(config, training=replace(config.training, **changes))


class Watch(Callback):
    """Keeps the weights before training and after every batch, and the groups of the optimizer at every step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.groups: list[list[dict[str, Any]]] = []

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        self.classifier, self.optimizer = pl_module, trainer.optimizers[0]
        self._keep()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        self.groups.append([{**group} for group in optimizer.param_groups])

    def on_train_batch_end(self, *args: Any) -> None:
        self._keep()

    def _keep(self) -> None:
        self.weights.append({key: value.clone() for key, value in self.classifier.model.state_dict().items()})


def watched(config: RunConfig, folder: Path) -> tuple[Watch, RunResult]:
    watch = Watch()
    return watch, run(config, folder, callbacks=[watch])


def test_the_defaults_are_the_published_recipe() -> None:
    training, augmentation, distillation = TrainingConfig(), AugmentationConfig(), DistillationConfig("regnety_160")
    assert dataclasses.asdict(training) | {"checkpoint_minutes": 10.0} == {
        "epochs": 300,
        "cooldown_epochs": 10,
        "batch_size": 128,
        "accumulate": 1,
        "optimizer": "adamw",
        "optimizer_arguments": {},
        "learning_rate": 5e-4,
        "learning_rate_images": 512,
        "weight_decay": 0.05,
        "layer_decay": None,
        "warmup_epochs": 5,
        "warmup_learning_rate": 1e-6,
        "min_learning_rate": 1e-5,
        "label_smoothing": 0.1,
        "gradient_clip": 0.0,
        "ema_decay": 0.99996,
        "ema_warmup": False,
        "freeze_batch_norm": False,
        "checkpoint_minutes": 10.0,
        "evaluate_every": 1,
        "score_test": True,
    }
    assert dataclasses.asdict(augmentation) == {
        "crop_scale": (0.08, 1.0),
        "crop_ratio": (3 / 4, 4 / 3),
        "crop_padding": 0,
        "horizontal_flip": 0.5,
        "policy": "rand-m9-mstd0.5-inc1",
        "color_jitter": 0.4,
        "random_erasing": 0.25,
        "erasing_mode": "pixel",
        "repeats": 3,
        "mixup": 0.8,
        "cutmix": 1.0,
        "mix_probability": 1.0,
        "mix_switch_probability": 0.5,
    }
    assert InputConfig().image_size == (224, 224)
    assert InputConfig().interpolation == "bicubic"
    assert DataConfig().source == "folder"
    assert (DataConfig().train_split, DataConfig().val_split) == ("train", "val")
    assert (distillation.kind, distillation.weight) == ("soft", 0.5)


def test_the_optimizer_is_the_published_one(tmp_path: Path) -> None:
    watch, _ = watched(CONFIG, tmp_path)
    assert isinstance(watch.optimizer, torch.optim.AdamW)
    for group in watch.optimizer.param_groups:
        assert (group["eps"], group["betas"]) == (1e-8, (0.9, 0.999))


def test_further_arguments_reach_the_optimizer(tmp_path: Path) -> None:
    watch, _ = watched(recipe(optimizer_arguments={"betas": (0.8, 0.9), "eps": 1e-6}), tmp_path)
    assert all((group["eps"], group["betas"]) == (1e-6, (0.8, 0.9)) for group in watch.optimizer.param_groups)


@pytest.mark.parametrize(("accumulate", "steps_an_epoch"), [(1, 4), (2, 2), (3, 2)])
def test_the_learning_rate_warms_up_follows_the_cosine_and_cools_down(
    accumulate: int, steps_an_epoch: int, tmp_path: Path
) -> None:
    epochs, warmup, cooldown = 3, 1, 1
    config = recipe(
        epochs=epochs,
        warmup_epochs=warmup,
        cooldown_epochs=cooldown,
        accumulate=accumulate,
        learning_rate=1e-2,
        warmup_learning_rate=1e-4,
        min_learning_rate=1e-3,
    )
    watch, result = watched(config, tmp_path)
    assert len(result.epochs) == epochs + cooldown
    rates = [groups[0]["lr"] for groups in watch.groups]
    total, rising = epochs * steps_an_epoch, warmup * steps_an_epoch
    expected = [
        1e-4 + (1e-2 - 1e-4) * step / rising
        if step < rising
        else 1e-3 + (1e-2 - 1e-3) * (1 + math.cos(math.pi * step / total)) / 2
        for step in range(total)
    ]
    assert rates == pytest.approx(expected + [1e-3] * (cooldown * steps_an_epoch))


@pytest.mark.parametrize(("images", "expected"), [(512, 5e-4 * 32 * 2 / 512), (64, 5e-4), (None, 5e-4)])
def test_the_learning_rate_is_scaled_with_the_images_of_a_step(
    images: int | None, expected: float, tmp_path: Path
) -> None:
    config = recipe(learning_rate=5e-4, learning_rate_images=images, accumulate=2)
    watch, _ = watched(config, tmp_path)
    assert watch.groups[0][0]["lr"] == pytest.approx(expected)


@pytest.mark.parametrize("locality", [None, LocalityConfig(channel_attention="se")])
@pytest.mark.parametrize("layer_decay", [None, 0.7])
def test_biases_norms_and_embeddings_do_not_decay_and_all_else_does(
    locality: LocalityConfig | None, layer_decay: float | None, tmp_path: Path
) -> None:
    config = replace(CONFIG, model=replace(CONFIG.model, locality=locality))
    watch, _ = watched(recipe(config, weight_decay=0.3, layer_decay=layer_decay), tmp_path)
    decays = {
        id(parameter): group["weight_decay"] for group in watch.optimizer.param_groups for parameter in group["params"]
    }
    named = dict(watch.classifier.model.named_parameters())
    assert len(decays) == len(named)
    for name, parameter in named.items():
        is_free = name.endswith(".bias") or "norm" in name or name in {"cls_token", "pos_embed"}
        assert decays[id(parameter)] == (0.0 if is_free else 0.3), name


@pytest.mark.parametrize("model", [CONFIG.model, LOCAL])
def test_layer_decay_multiplies_the_learning_rate_from_each_layer_to_the_one_below(
    model: ModelConfig, tmp_path: Path
) -> None:
    config = recipe(replace(CONFIG, model=model), layer_decay=0.5, warmup_epochs=1, epochs=3, learning_rate=1e-2)
    watch, _ = watched(config, tmp_path)
    layers = {"patch_embed": 3, "cls_token": 3, "pos_embed": 3, "blocks.0": 2, "blocks.1": 1, "norm": 1, "head": 0}
    of_each = {id(parameter): name for name, parameter in watch.classifier.model.named_parameters()}
    assert len(watch.groups) == 12
    for step, groups in enumerate(watch.groups):
        rates = {of_each[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}
        assert len(rates) == len(of_each)
        for name, rate in rates.items():
            depth = next(depth for prefix, depth in layers.items() if name.startswith(prefix))
            assert rate == pytest.approx(rates["head.weight"] * 0.5**depth), (step, name)


def test_two_accumulated_batches_equal_one_of_twice_the_size(tmp_path: Path) -> None:
    config = replace(CONFIG, hardware=replace(CONFIG.hardware, precision="64-true"))
    config = recipe(config, epochs=2, learning_rate=0.5, **PLAIN_SGD)
    halves, _ = watched(recipe(config, batch_size=32, accumulate=2), tmp_path / "halves")
    whole, _ = watched(recipe(config, batch_size=64), tmp_path / "whole")
    assert len(halves.groups) == len(whole.groups) == 4
    moved = 0.0
    for key, value in whole.weights[-1].items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(halves.weights[-1][key], value, rtol=0, atol=1e-12)
        moved = max(moved, float((value - whole.weights[0][key]).abs().max()))
    assert moved > 0.01


@pytest.mark.parametrize("share", [0.1, 10.0])
def test_a_gradient_is_clipped_to_its_largest_norm_and_left_alone_below_it(share: float, tmp_path: Path) -> None:
    config = recipe(batch_size=128, learning_rate=0.5, **PLAIN_SGD)

    def step(name: str, clip: float) -> NDArray[np.float64]:
        watch, _ = watched(recipe(config, gradient_clip=clip), tmp_path / name)
        before, after = watch.weights
        keys = [key for key, _ in watch.classifier.model.named_parameters()]
        return np.concatenate([(after[key] - before[key]).double().flatten().numpy() for key in keys])

    whole = step("whole", 0.0)
    norm = float(np.linalg.norm(whole)) / 0.5  # of the gradient
    clipped = step("clipped", share * norm)
    assert np.linalg.norm(clipped) == pytest.approx(0.5 * norm * min(share, 1), rel=1e-3)
    np.testing.assert_allclose(clipped, whole * min(share, 1), atol=1e-5)


def averages(watch: Watch, decays: Sequence[float]) -> dict[str, Tensor]:
    """The recursion a := d a + (1 - d) w in float64, from the weights before training on."""
    average = {key: value.double() for key, value in watch.weights[0].items()}
    for decay, weights in zip(decays, watch.weights[1:], strict=True):
        for key, value in weights.items():
            average[key] = decay * average[key] + (1 - decay) * value.double()
    return average


def test_the_average_follows_its_recursion_after_every_step_of_the_optimizer(tmp_path: Path) -> None:
    config = recipe(replace(CONFIG, model=LOCAL), epochs=2, ema_decay=0.7, learning_rate=1e-2, min_learning_rate=1e-2)
    watch, _ = watched(config, tmp_path)
    assert watch.classifier.averaged is not None
    found = watch.classifier.averaged.module.state_dict()
    for key, expected in averages(watch, [0.7] * 8).items():
        if found[key].is_floating_point():
            torch.testing.assert_close(found[key].double(), expected, rtol=1e-5, atol=1e-6)
            # The last block's patch tokens reach no output, so its mechanism learns nothing.
            assert "blocks.1.mlp" in key or (found[key] - watch.weights[-1][key]).abs().max() > 1e-5, key
        else:
            assert torch.equal(found[key], watch.weights[-1][key])


def test_the_average_moves_once_for_batches_that_are_accumulated(tmp_path: Path) -> None:
    watch, _ = watched(recipe(ema_decay=0.7, accumulate=2, learning_rate=1e-2), tmp_path)
    watch.weights = [watch.weights[0], watch.weights[2], watch.weights[4]]
    assert watch.classifier.averaged is not None
    found = watch.classifier.averaged.module.state_dict()
    for key, expected in averages(watch, [0.7, 0.7]).items():
        torch.testing.assert_close(found[key].double(), expected, rtol=1e-5, atol=1e-6)


def test_the_decay_of_a_warmed_up_average_rises_as_in_timms_training_script(tmp_path: Path) -> None:
    # timm counts the steps taken, the one at hand included: the first gives the weights, then 1 - (1 + k)^(-2/3).
    watch, _ = watched(recipe(epochs=3, ema_decay=0.7, ema_warmup=True, learning_rate=1e-2), tmp_path)
    decays = [min(0.7, 1 - (1 + k) ** (-2 / 3)) for k in range(12)]
    assert decays[0] == 0
    assert decays[-1] == 0.7
    assert watch.classifier.averaged is not None
    found = watch.classifier.averaged.module.state_dict()
    for key, expected in averages(watch, decays).items():
        torch.testing.assert_close(found[key].double(), expected, rtol=1e-5, atol=1e-6)


def held_out() -> tuple[Tensor, Tensor]:
    """Images held out, normalised by hand, and their labels."""
    val = open_parts(CONFIG.data, channels=1).val
    pixels_BHW = np.stack([np.asarray(val.read(index)) for index in range(len(val.labels_M))])
    images_BHW = (pixels_BHW.astype(np.float64) / 255 - 0.3) / 0.37
    return torch.tensor(images_BHW[:, None], dtype=torch.float32), torch.tensor(val.labels_M)


def test_weights_and_average_are_evaluated_on_every_image_held_out(tmp_path: Path) -> None:
    result = run(recipe(epochs=3, ema_decay=0.7, learning_rate=1e-2), tmp_path)
    images_BCHW, labels_B = held_out()
    figures = {}
    for prefix, file in (("val", "last.safetensors"), ("ema", "last_average.safetensors")):
        model, _ = load_model(tmp_path / file)
        with torch.no_grad():
            logits_BK = model(images_BCHW).double().numpy()
        ranks_BK = (-logits_BK).argsort(axis=1)
        hits_BK = ranks_BK == labels_B.numpy()[:, None]
        shifted_BK = logits_BK - logits_BK.max(axis=1, keepdims=True)
        log_likelihood_B = (shifted_BK - np.log(np.exp(shifted_BK).sum(axis=1, keepdims=True)))[
            np.arange(len(labels_B)), labels_B
        ]
        figures[f"{prefix}_top1"] = 100 * hits_BK[:, 0].mean()
        figures[f"{prefix}_top5"] = 100 * hits_BK[:, :5].any(axis=1).mean()
        figures[f"{prefix}_loss"] = -log_likelihood_B.mean()
    for name, expected in figures.items():
        assert result.epochs[-1][name] == pytest.approx(expected, rel=1e-5), name
    assert figures["val_loss"] != pytest.approx(figures["ema_loss"], rel=1e-3)
    assert set(result.epochs[-1]) == {"epoch", "train_loss", *figures}


def test_without_an_average_there_is_none_to_evaluate_and_none_written(tmp_path: Path) -> None:
    watch, result = watched(recipe(ema_decay=0.0), tmp_path)
    assert watch.classifier.averaged is None
    assert not any(key.startswith("ema") for key in result.epochs[-1])
    assert not (tmp_path / "last_average.safetensors").exists()


def log_softmax(logits_BK: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted_BK = logits_BK - logits_BK.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted_BK - np.log(np.exp(shifted_BK).sum(axis=1, keepdims=True))
    return result


class Answers(nn.Module):
    """Gives the same logits (B, K) whatever it is asked, and remembers what that was."""

    def __init__(self, logits_BK: Tensor) -> None:
        super().__init__()
        self.logits_BK = nn.Parameter(logits_BK)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        self.seen_BCHW = images_BCHW
        return self.logits_BK


def some_batch(channels: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(0)
    pixels_BCHW = torch.randint(0, 256, (6, channels, 8, 8), dtype=torch.uint8, generator=generator)
    labels_B = torch.tensor([3, 1, 4, 1, 5, 9])
    return Batch(pixels_BCHW, labels_B, torch.arange(6), torch.ones(6, dtype=torch.bool), [])


def some_logits(seed: int) -> Tensor:
    return 3 * torch.randn(6, 10, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_cross_entropy_with_smoothed_labels(smoothing: float) -> None:
    logits_BK = some_logits(0)
    classifier = Classifier(Answers(logits_BK), recipe(label_smoothing=smoothing), num_classes=10)
    log_p_BK = log_softmax(logits_BK.double().numpy())
    targets_BK = np.full((6, 10), smoothing / 10)
    targets_BK[np.arange(6), some_batch().labels_B] += 1 - smoothing
    expected = -(targets_BK * log_p_BK).sum(axis=1).mean()
    assert classifier.training_step(some_batch(), 0).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_mixed_images_is_cross_entropy_with_mixed_and_smoothed_labels() -> None:
    logits_BK = some_logits(0)
    config = replace(recipe(label_smoothing=0.1), augmentation=replace(NO_AUGMENTATION, mixup=0.8))
    model = Answers(logits_BK)
    loss = Classifier(model, config, num_classes=10).training_step(some_batch(), 0).item()
    # The share of each image's own pixels in the mixture, by least squares.
    own_BCHW = (some_batch().images_BCHW.double() / 255 - 0.3) / 0.37
    towards_BCHW = own_BCHW - own_BCHW.flip(0)
    share = float(((model.seen_BCHW - own_BCHW.flip(0)) * towards_BCHW).sum() / towards_BCHW.square().sum())
    assert 0.001 < share < 0.999
    smooth_BK = np.full((6, 10), 0.1 / 10)
    smooth_BK[np.arange(6), some_batch().labels_B] += 0.9
    targets_BK = share * smooth_BK + (1 - share) * smooth_BK[::-1]
    expected = -(targets_BK * log_softmax(logits_BK.double().numpy())).sum(axis=1).mean()
    assert loss == pytest.approx(expected, rel=1e-4)


def test_what_is_random_in_a_step_follows_from_seed_epoch_and_step_alone() -> None:
    config = replace(CONFIG, augmentation=replace(NO_AUGMENTATION, mixup=0.8, random_erasing=0.5))

    def seen(seed: int, batch_idx: int) -> Tensor:
        model = Answers(some_logits(0))
        torch.seed()  # whatever was drawn before
        np.random.seed(None)
        Classifier(model, replace(config, seed=seed), num_classes=10).training_step(some_batch(), batch_idx)
        return model.seen_BCHW

    assert torch.equal(seen(0, 3), seen(0, 3))
    assert not torch.equal(seen(0, 3), seen(0, 4))
    assert not torch.equal(seen(0, 3), seen(1, 3))


def running_statistics(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if "running_" in key or "num_batches" in key}


@pytest.mark.parametrize("epochs", [1, 2])
def test_frozen_batch_norms_keep_their_statistics_while_weights_are_trained(epochs: int, tmp_path: Path) -> None:
    config = recipe(replace(CONFIG, model=LOCAL), epochs=epochs, freeze_batch_norm=True, learning_rate=1e-2)
    watch, _ = watched(config, tmp_path)
    before, after = watch.weights[0], watch.weights[-1]
    assert running_statistics(before)
    for key, value in running_statistics(before).items():
        assert torch.equal(after[key], value), key
    norm = "blocks.0.mlp.locality.depthwise.norm.weight"
    assert not torch.equal(after[norm], before[norm])


def test_batch_norms_that_are_not_frozen_follow_the_images(tmp_path: Path) -> None:
    watch, _ = watched(replace(CONFIG, model=LOCAL), tmp_path)
    before, after = watch.weights[0], watch.weights[-1]
    for key, value in running_statistics(before).items():
        assert not torch.equal(after[key], value), key


def test_frozen_batch_norms_stay_so_when_training_mode_is_set_again() -> None:
    model = build_model(LOCAL, GREY, num_classes=10)
    classifier = Classifier(model, recipe(freeze_batch_norm=True), num_classes=10)
    classifier.eval()
    classifier.train()
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert len(norms) == 6
    for name, module in model.named_modules():
        assert module.training == (name not in norms), name
    assert classifier.averaged is not None
    assert not any(module.training for module in classifier.averaged.modules())


def test_mixed_precision_gives_about_the_same_loss(tmp_path: Path) -> None:
    config = recipe(replace(CONFIG, model=LOCAL), epochs=2)
    exact = run(config, tmp_path / "32").epochs[-1]
    mixed = run(replace(config, hardware=replace(config.hardware, precision="bf16-mixed")), tmp_path / "16").epochs[-1]
    assert mixed["train_loss"] == pytest.approx(exact["train_loss"], rel=0.02)
    assert mixed["val_loss"] == pytest.approx(exact["val_loss"], rel=0.02)
    assert mixed["train_loss"] != exact["train_loss"]


def test_channels_last_changes_the_memory_and_not_the_result(tmp_path: Path) -> None:
    model = replace(LOCAL, arguments={**ARGUMENTS, "patch_size": 2})
    config = recipe(replace(CONFIG, model=model, input=COLOUR), epochs=2)
    watch, result = watched(
        replace(config, hardware=replace(config.hardware, channels_last=True)), tmp_path / "channels_last"
    )
    assert watch.weights[0]["patch_embed.proj.weight"].is_contiguous(memory_format=torch.channels_last)
    assert watch.classifier.model.get_parameter("patch_embed.proj.weight").stride() == (12, 1, 6, 3)
    for epoch, expected in zip(result.epochs, run(config, tmp_path / "plain").epochs, strict=True):
        for name in ("train_loss", "val_loss", "ema_loss"):
            assert epoch[name] == pytest.approx(expected[name], rel=1e-4), name


@pytest.mark.slow  # half a minute of compiling
def test_a_compiled_model_gives_the_same_loss(tmp_path: Path) -> None:
    config = recipe(replace(CONFIG, model=replace(LOCAL, arguments={**ARGUMENTS, "depth": 1})), epochs=2)
    compiled = run(replace(config, hardware=replace(config.hardware, compile=True)), tmp_path / "compiled")
    for epoch, expected in zip(compiled.epochs, run(config, tmp_path / "eager").epochs, strict=True):
        for name in ("train_loss", "val_loss", "ema_loss"):
            assert epoch[name] == pytest.approx(expected[name], rel=1e-4), name
    assert not any("_orig_mod" in key for key in read_state_dict(tmp_path / "compiled" / "last.safetensors"))


def teacher_file(folder: Path, channels: int = 3, classes: int = 10) -> Path:
    torch.manual_seed(5)
    model = timm.create_model("test_resnet", num_classes=classes, in_chans=channels)
    # New weights answer all alike; these differ from image to image.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var.fill_(0.05)
    save_checkpoint(model, folder / "teacher.safetensors")
    return folder / "teacher.safetensors"


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teacher_file(tmp_path_factory.mktemp("teacher"))


def teaching(checkpoint: Path, **changes: Any) -> DistillationConfig:
    return DistillationConfig("test_resnet", checkpoint=str(checkpoint), **changes)


def direct_answers(pixels_BCHW: Tensor, checkpoint: Path) -> Tensor:
    """What the teacher says to images that are normalised as its training was: (x - 0.5) / 0.5."""
    channels = pixels_BCHW.shape[1]
    model: Any = timm.create_model("test_resnet", num_classes=10, in_chans=channels).eval()
    assert (model.pretrained_cfg["mean"], model.pretrained_cfg["std"]) == ((0.5,) * 3, (0.5,) * 3)
    model.load_state_dict(read_state_dict(checkpoint))
    with torch.no_grad():
        answers_BK: Tensor = model((pixels_BCHW.float() / 255 - 0.5) / 0.5)
    return answers_BK


def normalised(pixels_BCHW: Tensor, shown: InputConfig) -> Tensor:
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (shown.mean, shown.std))
    return (pixels_BCHW.float() / 255 - mean) / std


def test_a_teacher_sees_images_normalised_its_own_way(resnet: Path) -> None:
    teacher = Teacher(teaching(resnet), num_classes=10, shown=COLOUR)
    pixels_BCHW = some_batch(channels=3).images_BCHW
    expected_BK = direct_answers(pixels_BCHW, resnet)
    assert expected_BK.std(dim=0).max() > 1e-3  # the answers depend on the image
    found_BK = teacher.answers(normalised(pixels_BCHW, COLOUR))
    torch.testing.assert_close(found_BK, expected_BK, rtol=1e-4, atol=1e-5)
    as_they_are_BK = teacher.model(normalised(pixels_BCHW, COLOUR))
    assert (as_they_are_BK - expected_BK).abs().max() > 1e-3


def test_a_teacher_of_grey_images_sees_them_normalised_its_own_way(tmp_path: Path) -> None:
    checkpoint = teacher_file(tmp_path, channels=1)
    teacher = Teacher(teaching(checkpoint), num_classes=10, shown=GREY)
    pixels_BCHW = some_batch(channels=1).images_BCHW
    found_BK = teacher.answers(normalised(pixels_BCHW, GREY))
    torch.testing.assert_close(found_BK, direct_answers(pixels_BCHW, checkpoint), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("weight", "temperature"), [(0.5, 1.0), (0.3, 4.0), (0.0, 2.0), (1.0, 2.0)])
def test_soft_distillation_is_equation_2_of_deit(weight: float, temperature: float, resnet: Path) -> None:
    """(1 - a) CE(student, label) + a tau^2 KL(teacher / tau || student / tau)."""
    logits_BK = some_logits(1)
    config = replace(
        recipe(label_smoothing=0.0), input=COLOUR, distillation=teaching(resnet, weight=weight, temperature=temperature)
    )
    assert config.distillation is not None
    teacher = Teacher(config.distillation, num_classes=10, shown=COLOUR)
    batch = some_batch(channels=3)
    loss = Classifier(Answers(logits_BK), config, num_classes=10, teacher=teacher).training_step(batch, 0)

    student_BK, teacher_BK = logits_BK.double().numpy(), direct_answers(batch.images_BCHW, resnet).double().numpy()
    cross_entropy = -log_softmax(student_BK)[np.arange(6), batch.labels_B].mean()
    log_q_BK, log_p_BK = log_softmax(student_BK / temperature), log_softmax(teacher_BK / temperature)
    divergence = (np.exp(log_p_BK) * (log_p_BK - log_q_BK)).sum(axis=1).mean()
    expected = (1 - weight) * cross_entropy + weight * temperature**2 * divergence
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("weight", [0.5, 0.3])
def test_hard_distillation_is_equation_3_of_deit(weight: float, resnet: Path) -> None:
    """(1 - a) CE(student, label) + a CE(student, the teacher's first choice)."""
    logits_BK = some_logits(1)
    distillation = teaching(resnet, kind="hard", weight=weight, temperature=3.0)
    config = replace(recipe(label_smoothing=0.0), input=COLOUR, distillation=distillation)
    teacher = Teacher(distillation, num_classes=10, shown=COLOUR)
    batch = some_batch(channels=3)
    loss = Classifier(Answers(logits_BK), config, num_classes=10, teacher=teacher).training_step(batch, 0)

    log_q_BK = log_softmax(logits_BK.double().numpy())
    choice_B = direct_answers(batch.images_BCHW, resnet).argmax(dim=1)
    by_label, by_teacher = (-log_q_BK[np.arange(6), chosen_B].mean() for chosen_B in (batch.labels_B, choice_B))
    assert loss.item() == pytest.approx((1 - weight) * by_label + weight * by_teacher, rel=1e-5)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_a_teacher_is_neither_trained_nor_kept_in_checkpoints(precision: Any, resnet: Path, tmp_path: Path) -> None:
    config = recipe(replace(CONFIG, input=COLOUR, distillation=teaching(resnet)), epochs=2, learning_rate=1e-2)
    watch, result = watched(replace(config, hardware=replace(config.hardware, precision=precision)), tmp_path)
    classifier = watch.classifier
    assert classifier.teacher is not None
    for key, value in read_state_dict(resnet).items():
        torch.testing.assert_close(classifier.teacher.model.state_dict()[key].to(value.dtype), value, rtol=0, atol=0)
    taught = {id(parameter) for parameter in classifier.teacher.model.parameters()}
    trained = {id(parameter) for group in watch.optimizer.param_groups for parameter in group["params"]}
    assert taught.isdisjoint(trained)
    assert not classifier.teacher.model.training
    assert all(parameter.grad is None for parameter in classifier.teacher.model.parameters())
    kept = {key.partition(".")[0] for key in classifier.state_dict()}
    assert kept <= {"model", "averaged", "val_metrics", "ema_metrics"}
    assert math.isfinite(result.epochs[-1]["train_loss"])


def test_a_teacher_changes_what_is_learned(resnet: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, input=COLOUR)
    alone, _ = watched(config, tmp_path / "alone")
    taught, _ = watched(replace(config, distillation=teaching(resnet)), tmp_path / "taught")
    assert all(torch.equal(alone.weights[0][key], value) for key, value in taught.weights[0].items())
    assert not torch.equal(alone.weights[-1]["head.weight"], taught.weights[-1]["head.weight"])


def test_a_teacher_that_is_unknown_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"distillation\.teacher is 'resnet_of_mine'; timm knows no such model"):
        Teacher(DistillationConfig("resnet_of_mine"), num_classes=10, shown=COLOUR)
    with pytest.raises(ValueError, match=r"fc\.weight is \(7, \d+\) in the file and \(10, \d+\) in the model"):
        Teacher(teaching(teacher_file(tmp_path, classes=7)), num_classes=10, shown=COLOUR)


def test_a_run_repeats_to_the_bit(tmp_path: Path) -> None:
    config = recipe(replace(CONFIG, model=LOCAL, augmentation=AugmentationConfig()), epochs=2)
    first, second = (watched(config, tmp_path / name) for name in "ab")
    assert first[1] == second[1]
    for key, value in read_state_dict(tmp_path / "a" / "last.safetensors").items():
        assert torch.equal(value, read_state_dict(tmp_path / "b" / "last.safetensors")[key]), key


def test_a_finished_run_is_read_and_not_repeated(tmp_path: Path) -> None:
    first = run(CONFIG, tmp_path)

    def fail(epoch: Epoch) -> None:
        raise AssertionError("trained again")

    assert run(CONFIG, tmp_path, on_epoch=fail) == first == read_result(tmp_path)
    assert not (tmp_path / "last.ckpt").exists()


class Fail(Callback):
    """Fails in the middle of training."""

    def on_train_batch_end(self, *args: Any) -> None:
        raise ZeroDivisionError


@pytest.mark.parametrize("callbacks", [[], [Fail()]], ids=["finished", "failed"])
def test_a_run_gives_back_the_signals_that_it_takes_over(callbacks: list[Callback], tmp_path: Path) -> None:
    asked: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: asked.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        with pytest.raises(ZeroDivisionError) if callbacks else contextlib.nullcontext():
            run(CONFIG, tmp_path / "run", callbacks=callbacks)
        for number in before:
            signal.raise_signal(number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert asked == [signal.SIGTERM, signal.SIGINT]
