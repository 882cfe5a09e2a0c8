"""Evaluation against scikit-learn, alone and shared between processes: every image counts once."""

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix, log_loss, top_k_accuracy_score
from torch import nn
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from localvit.data import DataConfig, DataError, InputConfig
from localvit.data.transforms import evaluation_transform
from localvit.evaluation.evaluate import Evaluation, evaluate
from localvit.evaluation.report import write_evaluation
from localvit.models.weights.model_file import ModelDescription, create_model, load_model, save_model
from localvit.training import HardwareConfig

CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox")
SHOWN = InputConfig((8, 8), crop_fraction=1.0)
ARGUMENTS = {"patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 2}
CPU = HardwareConfig(accelerator="cpu", threads=1, workers=0)


def make_images(folder: Path, count: int, *, classes: tuple[str, ...] = CLASSES) -> Path:
    """``count`` images of noise, shared out between classes, as a part held out."""
    rng = np.random.default_rng(count)
    for index in range(count):
        path = folder / "val" / classes[index % len(classes)] / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose answers differ from image to image."""
    torch.manual_seed(0)
    model = create_model("localvit_tiny_relu6_mlp6_patch16_224", SHOWN, num_classes=len(CLASSES), **ARGUMENTS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(model, ModelDescription("localvit_tiny_relu6_mlp6_patch16_224", ARGUMENTS, CLASSES, SHOWN), path)
    return path


def plain_answers(model: nn.Module, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (M, K) and labels (M,), image by image."""
    paths = sorted((folder / "val").glob("*/*.png"))
    transform = evaluation_transform(SHOWN)
    with torch.no_grad():
        logits_MK = torch.cat([model(transform(Image.open(path).convert("RGB"))[None]) for path in paths])
    return logits_MK.double().softmax(dim=1).numpy(), np.array([CLASSES.index(path.parent.name) for path in paths])


def data(folder: Path, **options: object) -> DataConfig:
    return DataConfig("folder", root=str(folder), cache=str(folder / "cache"), **options)  # type: ignore[arg-type]


def evaluated(model_file: Path, config: DataConfig, batch_size: int = 4) -> Evaluation:
    return evaluate(*load_model(model_file), config, CPU, batch_size=batch_size)


def test_the_figures_are_scikit_learns(model_file: Path, tmp_path: Path) -> None:
    folder = make_images(tmp_path, 53)
    found = evaluated(model_file, data(folder))
    probabilities_MK, labels_M = plain_answers(load_model(model_file)[0], folder)
    classes = range(len(CLASSES))
    assert found.images == 53
    expected_KK = confusion_matrix(labels_M, probabilities_MK.argmax(axis=1), labels=classes)
    assert np.array_equal(found.confusion_KK, expected_KK)
    assert len(np.unique(probabilities_MK.argmax(axis=1))) > 2, "the model answers all alike"
    assert found.top1 == pytest.approx(100 * expected_KK.trace() / 53, abs=1e-12)
    assert found.top5 == pytest.approx(100 * top_k_accuracy_score(labels_M, probabilities_MK, k=5, labels=classes))
    assert found.loss == pytest.approx(log_loss(labels_M, probabilities_MK, labels=classes), rel=1e-5)


Figures = list[tuple[int, float, float, float, list[list[int]]]]


def figures(model_file: Path, folders: list[Path]) -> Figures:
    found = [evaluated(model_file, data(folder)) for folder in folders]
    return [(one.images, one.top1, one.top5, one.loss, one.confusion_KK.tolist()) for one in found]


@pytest.mark.parametrize("processes", [2, pytest.param(7, marks=pytest.mark.slow)])
def test_processes_that_share_an_evaluation_count_each_image_once(
    processes: int, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [make_images(tmp_path / str(count), count) for count in (5, 28, 53)]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    multiprocessing.set_forkserver_preload(["localvit.evaluation.evaluate"])
    # What torchrun does, with processes that have imported everything already.
    settings = LaunchConfig(
        *(1, 1, processes), start_method="forkserver", rdzv_backend="c10d", rdzv_endpoint="localhost:0"
    )
    shared: Figures = elastic_launch(settings, figures)(model_file, folders)[0]
    for one, alone in zip(shared, figures(model_file, folders), strict=True):
        assert one[:3] == alone[:3]
        assert one[3] == pytest.approx(alone[3], rel=1e-6)
        assert one[4] == alone[4]


def test_classes_are_matched_by_name_where_some_are_not_there(model_file: Path, tmp_path: Path) -> None:
    folder = make_images(tmp_path, 9, classes=("bee", "fox"))
    found = evaluated(model_file, data(folder))
    assert found.confusion_KK.sum(axis=1).tolist() == [0, 5, 0, 0, 0, 4]
    assert found.per_class()["top1"].isna().tolist() == [True, False, True, True, True, False]


def test_a_class_that_the_model_does_not_know_is_named(model_file: Path, tmp_path: Path) -> None:
    folder = make_images(tmp_path, 9, classes=("bee", "gnu"))
    with pytest.raises(DataError, match=r"does not know 1 class\(es\) of the data: gnu. It knows 6: ant, bee"):
        evaluated(model_file, data(folder))


def test_a_broken_image_is_named_and_not_counted_or_stops(model_file: Path, tmp_path: Path) -> None:
    folder = make_images(tmp_path, 12)
    broken = folder / "val" / "bee" / "001.png"
    broken.write_bytes(broken.read_bytes()[:40])
    found = evaluated(model_file, data(folder, on_broken="skip"))
    assert found.images == 11
    assert len(found.broken_images) == 1
    assert "001.png" in found.broken_images[0]
    with pytest.raises(DataError, match=r"001\.png.*--data\.on_broken skip"):
        evaluated(model_file, data(folder))


def test_the_files_say_what_was_found(model_file: Path, tmp_path: Path) -> None:
    found = evaluated(model_file, data(make_images(tmp_path / "images", 40)))
    write_evaluation(found, tmp_path / "out")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["images"], metrics["top1"], metrics["loss"]) == (40, found.top1, found.loss)
    matrix = pd.read_csv(tmp_path / "out" / "confusion_matrix.csv", index_col=0)
    assert matrix.to_numpy().tolist() == found.confusion_KK.tolist()
    assert tuple(matrix.columns) == tuple(matrix.index) == CLASSES
    classes = pd.read_csv(tmp_path / "out" / "per_class.csv")
    assert (classes["right"] / classes["images"] * 100).to_numpy() == pytest.approx(classes["top1"].to_numpy())
    with Image.open(tmp_path / "out" / "confusion_matrix.png") as picture:
        colours = picture.convert("RGB").getcolors(maxcolors=1 << 20)
    assert colours is not None
    assert len(colours) > 100, "the picture is empty"
