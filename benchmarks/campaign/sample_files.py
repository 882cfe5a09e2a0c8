"""Sound files of every kind that the project reads, which damage starts from."""

import argparse
import io
import json
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from localvit.benchmark import BenchmarkResult, Setting, provenance
from localvit.benchmark.result import Measurement, SettingResult
from localvit.data.config import DataConfig, InputConfig
from localvit.models.exported import export_model
from localvit.models.weights.model_file import ModelDescription, save_model
from localvit.system.errors import LocalViTError
from localvit.training import RunConfig, run
from localvit.training.config import HardwareConfig, LoggingConfig, ModelConfig, TrainingConfig

NAME = "localvit_tiny_se4_patch16_224"
ARGUMENTS: dict[str, Any] = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
SHOWN = InputConfig(image_size=(32, 32))
DESCRIPTION = ModelDescription(NAME, ARGUMENTS, ("cat", "dog"), SHOWN)
RUN = RunConfig(
    ModelConfig(NAME, {"patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 2}),
    DataConfig(source="digits", held_out=0.2, train_images=64, val_images=32),
    InputConfig(image_size=(8, 8), channels=1, mean=(0.5,), std=(0.5,)),
    training=TrainingConfig(epochs=2, warmup_epochs=1, cooldown_epochs=0, batch_size=16, checkpoint_minutes=1e-6),
    hardware=HardwareConfig(accelerator="cpu", workers=0),
    logging=LoggingConfig(tensorboard=False),
)
_STUDIES = Path(__file__).parents[2] / "docs" / "results"


class _Stopped(LocalViTError):
    """Stops a run after its first epoch."""


def small_model() -> nn.Module:
    """The model that the files describe."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(NAME, img_size=32, num_classes=2, **ARGUMENTS)
    return model.eval()


def write_samples(folder: Path) -> None:
    """Write the sound files into a folder."""
    model = small_model()
    save_model(model, DESCRIPTION, folder / "model.safetensors")
    weights = model.state_dict()
    torch.save({"model": weights, "args": argparse.Namespace(lr=0.1), "epoch": 3}, folder / "model.pth")
    torch.save({"model": weights}, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    (folder / "bare.pth").write_bytes(pickle.dumps({"model": {"a": 1}}, protocol=2))
    _write_runs(folder)
    for name in ("equal_time-cifar10", "kernel_size-digits"):
        shutil.copy(_STUDIES / name / "study.json", folder / f"study-{name}.json")
    measured = Measurement("deit", Setting(), (10.0, 11.0), 5, 6, 7)
    result = BenchmarkResult((SettingResult(Setting(), (measured,)),), {"cpu fp32": 1e9}, provenance())
    (folder / "benchmark.json").write_text(result.to_json())
    found = {"title": "Kernels", "answer": ["They are small."], "pictures": {}}
    (folder / "analysis.json").write_text(json.dumps({"measures": {"kernels": found, "frequencies": found}}))
    _write_config(folder, model)
    _write_data(folder)
    _write_exports(folder, model)


def _write_runs(folder: Path) -> None:
    def stop(_: object) -> None:
        raise _Stopped

    try:
        run(RUN, folder / "stopped", on_epoch=stop)
    except _Stopped:
        assert (folder / "stopped" / "last.ckpt").exists()
    run(RUN, folder / "finished")


def _write_config(folder: Path, model: nn.Module) -> None:
    """A model in the form of the hub, without a description of ours, with a list of classes."""
    hub = folder / "hub"
    hub.mkdir()
    torch_weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(torch_weights, hub / "model.safetensors")
    shown = {
        "input_size": [3, 32, 32],
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    values = {
        "architecture": NAME,
        "num_classes": 2,
        "label_names": ["cat", "dog"],
        "model_args": ARGUMENTS,
        "pretrained_cfg": {**shown, "num_classes": 2, "first_conv": "patch_embed.proj", "classifier": "head"},
    }
    (hub / "config.json").write_text(json.dumps(values))


def _write_data(folder: Path) -> None:
    def png(value: int) -> bytes:
        file = io.BytesIO()
        Image.new("L", (8, 8), value).save(file, "PNG")
        return file.getvalue()

    images = [png(value) for value in (10, 20, 30, 40)]
    pq.write_table(pa.table({"image": images, "label": [0, 1, 0, 1]}), folder / "train.parquet")
    pq.write_table(pa.table({"image": images, "label": ["cat", "dog", "cat", "dog"]}), folder / "names.parquet")
    with tarfile.open(folder / "train.tar", "w") as archive:
        for index, image in enumerate(images):
            label, described = b"%d" % (index % 2), json.dumps({"label": index % 2}).encode()
            for name, content in (("png", image), ("cls", label), ("json", described)):
                member = tarfile.TarInfo(f"{index:03}.{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def _write_exports(folder: Path, model: nn.Module) -> None:
    """ONNX and OpenVINO, where their packages are installed."""
    for ending in (".onnx", ".xml"):
        try:
            export_model(model, DESCRIPTION, folder / f"model{ending}")
        except LocalViTError as error:
            if "not installed" not in str(error):
                raise
