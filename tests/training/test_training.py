"""One training run: what is equal between variants, the recipe's arithmetic, and interruptions."""

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from localvit import LocalityConfig
from localvit.data import DataConfig, DigitsData
from localvit.training import BodyConfig, RunConfig, TrainingConfig, read_result, run
from localvit.training.callbacks import Epoch
from localvit.training.classifier import Classifier

CONFIG = RunConfig(
    body=BodyConfig(arguments={"patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 2, "drop_path_rate": 0.1}),
    locality=LocalityConfig(),
    layers="all",
    data=DataConfig(train_fraction=0.25, crop_scale=(0.8, 1.0), random_erasing=0.2),
    training=TrainingConfig(epochs=6, warmup_epochs=1, batch_size=64, checkpoint_every_epochs=2, accelerator="cpu"),
    seed=0,
)


class Interrupt(Exception):
    """Raised in the middle of a run."""


def test_the_held_out_images_are_those_of_scikit_learn_and_never_learned_from() -> None:
    data = DigitsData(DataConfig(train_fraction=0.5), batch_size=64, seed=0)
    pixels, labels = load_digits(return_X_y=True)
    images, test_labels = next(iter(data.val_dataloader()))
    learned = pixels[:898] / 16
    expected = torch.tensor((pixels[898 : 898 + 256] / 16 - learned.mean()) / learned.std(), dtype=torch.float32)
    # The scans have 17 grey levels, which 8-bit images hold to half of 1 / 255.
    torch.testing.assert_close(images.flatten(1), expected, rtol=0, atol=0.01)
    assert test_labels.tolist() == labels[898 : 898 + 256].tolist()
    assert len(data.train_part) + len(data.test_part) == len(labels)


def test_order_and_augmentation_follow_from_the_seed_alone() -> None:
    def batches(seed: int, epoch: int) -> list[Tensor]:
        loader = DigitsData(CONFIG.data, batch_size=64, seed=seed).train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        return [labels for _, labels in loader]

    assert torch.equal(torch.cat(batches(0, 3)), torch.cat(batches(0, 3)))
    assert not torch.equal(torch.cat(batches(0, 3)), torch.cat(batches(0, 4)))
    assert not torch.equal(torch.cat(batches(0, 3)), torch.cat(batches(1, 3)))


def test_variants_start_from_the_baselines_weights() -> None:
    def weights(locality: LocalityConfig | None) -> dict[str, Tensor]:
        torch.manual_seed(7)
        return replace(CONFIG, locality=locality).build_model(input_size=(1, 8, 8), num_classes=10).state_dict()

    baseline, variant = weights(None), weights(LocalityConfig(channel_attention="se"))
    shared = baseline.keys() & variant.keys()
    assert {"head.weight", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= shared
    assert all(torch.equal(baseline[key], variant[key]) for key in shared)


def test_learning_rate_warms_up_and_follows_the_cosine() -> None:
    recipe = TrainingConfig(
        epochs=10, warmup_epochs=2, learning_rate=1.0, warmup_learning_rate=0.1, min_learning_rate=0.01
    )
    classifier = Classifier(torch.nn.Linear(2, 2), recipe, num_classes=2, steps_per_epoch=5)
    configured: Any = classifier.configure_optimizers()
    for step in range(50):
        configured["lr_scheduler"]["scheduler"].step_update(num_updates=step)
        expected = (
            0.1 + (1.0 - 0.1) * step / 10
            if step < 10
            else 0.01 + (1.0 - 0.01) * (1 + math.cos(math.pi * step / 50)) / 2
        )
        assert configured["optimizer"].param_groups[0]["lr"] == pytest.approx(expected), step


def test_biases_norms_and_embeddings_do_not_decay() -> None:
    model = CONFIG.build_model(input_size=(1, 8, 8), num_classes=10)
    classifier = Classifier(model, TrainingConfig(weight_decay=0.3), num_classes=10, steps_per_epoch=1)
    configured: Any = classifier.configure_optimizers()
    decays = {
        id(parameter): group["weight_decay"]
        for group in configured["optimizer"].param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        free = parameter.ndim <= 1 or name in {"cls_token", "pos_embed"}
        assert decays[id(parameter)] == (0.0 if free else 0.3), name


def test_a_run_repeats_to_the_bit(tmp_path: Path) -> None:
    assert run(CONFIG, tmp_path / "a") == run(CONFIG, tmp_path / "b")


@pytest.mark.parametrize("epoch_reached", [1, 3, 4])
def test_an_interrupted_run_ends_with_the_same_numbers(epoch_reached: int, tmp_path: Path) -> None:
    seen: list[float] = []

    def interrupt(epoch: Epoch) -> None:
        if epoch["epoch"] == epoch_reached:
            raise Interrupt

    with pytest.raises(Interrupt):
        run(CONFIG, tmp_path / "interrupted", on_epoch=interrupt)
    resumed = run(CONFIG, tmp_path / "interrupted", on_epoch=lambda epoch: seen.append(epoch["epoch"]))

    assert resumed == run(CONFIG, tmp_path / "whole")
    last_checkpoint = (epoch_reached - 1) // 2 * 2
    assert seen == list(range(last_checkpoint + 1, 7))


def test_a_finished_run_is_read_and_not_repeated(tmp_path: Path) -> None:
    first = run(CONFIG, tmp_path)

    def fail(epoch: Epoch) -> None:
        raise AssertionError("trained again")

    assert run(CONFIG, tmp_path, on_epoch=fail) == first == read_result(tmp_path)
    assert not (tmp_path / "checkpoint.ckpt").exists()


KILLED = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_training import CONFIG
from localvit.training import run
config = replace(CONFIG, training=replace(CONFIG.training, checkpoint_every_epochs=1))
run(config, Path({folder!r}), on_epoch=lambda epoch: print(int(epoch["epoch"]), flush=True))
"""


@pytest.mark.parametrize("epoch_reached", [1, 3])
def test_a_killed_run_ends_with_the_same_numbers(epoch_reached: int, tmp_path: Path) -> None:
    script = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "killed"))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == str(epoch_reached):
            time.sleep(0.05)  # into the next epoch, or the writing of this one's checkpoint
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert read_result(tmp_path / "killed") is None
    (tmp_path / "killed" / ".checkpoint.ckpt.1.tmp").write_bytes(b"half a checkp")

    config = replace(CONFIG, training=replace(CONFIG.training, checkpoint_every_epochs=1))
    assert run(config, tmp_path / "killed") == run(config, tmp_path / "whole")
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {".lock", "config.json", "result.json"}


def test_the_key_of_a_run_follows_from_all_of_its_configuration() -> None:
    others: list[RunConfig] = [
        replace(CONFIG, seed=1),
        replace(CONFIG, layers="low"),
        replace(CONFIG, locality=LocalityConfig(kernel_size=5)),
        replace(CONFIG, training=replace(CONFIG.training, learning_rate=1e-4)),
        replace(CONFIG, body=BodyConfig(name="vit_tiny_patch16_224")),
    ]
    assert len({config.key() for config in [CONFIG, *others]}) == 6
    assert replace(CONFIG).key() == CONFIG.key()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, r"epochs is 0; it must be more than 0"),
        ({"learning_rate": -1.0}, r"learning_rate is -1\.0; it must be more than 0"),
        ({"weight_decay": -0.1}, r"weight_decay is -0\.1; it must be at least 0"),
        ({"epochs": 3, "warmup_epochs": 3}, r"warmup_epochs is 3 of 3 epochs; it must be fewer"),
        ({"label_smoothing": 1.0}, r"label_smoothing is 1\.0; it must be at least 0 and below 1"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_fraction": 1.0}, r"train_fraction is 1\.0; it must lie between 0 and 1"),
        ({"crop_scale": (0.9, 0.1)}, r"crop_scale is \(0\.9, 0\.1\); it must be two positive numbers, the smaller"),
        ({"crop_scale": (0.5, 1.5)}, r"a crop keeps at most 1\.0"),
        ({"random_erasing": 2.0}, r"random_erasing is 2\.0"),
    ],
)
def test_data_that_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**arguments)


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch_size is 2000, more than the 1348 training images"):
        DigitsData(DataConfig(train_fraction=0.75), batch_size=2000, seed=0)
