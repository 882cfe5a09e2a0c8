"""``localvit export``: from a run's folder to files that classify on their own."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

from localvit import ModelDescription, localize, save_model
from localvit.commands.cli import main
from localvit.data.config import InputConfig
from localvit.evaluation import checked_export
from localvit.evaluation.agreement import Agreement
from localvit.models.exported import ErrorGoal
from localvit.models.weights.model_file import create_model

pytest.importorskip("onnx", reason="the extras onnx, openvino and quantize are not installed")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
pytest.importorskip("nncf")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with a model for digits, and a folder of photographs beside it."""
    shown: dict[str, Any] = {"image_size": [8, 8], "channels": 1, "mean": [0.3], "std": [0.37], "crop_fraction": 1.0}
    arguments: dict[str, Any] = {"patch_size": 2, "embed_dim": 24, "depth": 2, "num_heads": 3}
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in shown.items()}
    description = ModelDescription("deit_tiny_patch16_224", arguments, tuple("0123456789"), InputConfig(**fields))
    torch.manual_seed(0)
    model = create_model(description.name, description.input, num_classes=10, **arguments)
    save_model(localize(model).eval(), description, tmp_path / "run" / "best.safetensors")
    config = {"model": {"name": description.name}, "data": {"source": "digits", "held_out": 0.1}, "input": shown}
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "photos").mkdir()
    for number, digit in enumerate(load_digits().images[:12]):
        Image.fromarray((digit * 15).astype("uint8")).resize((16, 20)).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "run"


def predictions(checkpoint: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> list[list[tuple[str, float]]]:
    capsys.readouterr()
    assert main(["predict", "--checkpoint", str(checkpoint), "--json", "--top", "3", str(photos)]) == 0
    rows = map(json.loads, capsys.readouterr().out.splitlines())
    return [[(found["class"], found["probability"]) for found in row["predictions"]] for row in rows]


def test_exported_files_predict_like_the_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run / "best.safetensors"), "--to", "onnx", "openvino"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Compared with the original on 179 images" in printed
    assert "100.00 %" in printed
    expected = predictions(run / "best.safetensors", run.parent / "photos", capsys)
    for name in ("best.onnx", "best.xml"):
        found = predictions(run / name, run.parent / "photos", capsys)
        assert [[label for label, _ in row] for row in found] == [[label for label, _ in row] for row in expected]
        shares = [[share for _, share in row] for row in found]
        assert torch.allclose(torch.tensor(shares), torch.tensor([[p for _, p in row] for row in expected]), atol=1e-5)
    assert {path.name for path in run.iterdir()} == {
        "best.safetensors", "config.yaml", "best.onnx", "best.xml", "best.bin"
    }  # fmt: skip
    assert (
        main(["eval", "--checkpoint", str(run / "best.onnx"), "--data.source", "digits", "--data.held_out", "0.1"]) == 0
    )
    assert "on 179 images" in capsys.readouterr().out
    words = ["bench", str(run / "best.safetensors"), str(run / "best.onnx"), "--rounds", "1", "--batch-size", "1"]
    assert main([*words, "--output", str(run / "bench")]) == 0
    assert "8 x 8" in capsys.readouterr().out


def test_int8_ranges_come_from_the_runs_own_images(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", str(run / "best.safetensors"), "--to", "openvino", "--int8"]
    assert main([*words, "--max-drop", "100"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "best_int8.xml" in printed
    assert (run / "best_int8.bin").stat().st_size > 0


def test_layers_stay_in_full_precision_if_int8_costs_too_much(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    goals: list[ErrorGoal | None] = []
    export_model, agreement = checked_export.export_model, checked_export.agreement

    def noted(*given: Any, goal: ErrorGoal | None, **options: Any) -> None:
        goals.append(goal)
        export_model(*given, goal=goal, **options)

    def costly(*given: Any, **options: Any) -> Agreement:
        found = agreement(*given, **options)
        exported_accuracy = {None: 40.0, 0.01: 49.0, 0.003: 49.6}[None if goals[-1] is None else goals[-1].most_error]
        return dataclasses.replace(found, accuracy=50.0, exported_accuracy=exported_accuracy)

    monkeypatch.setattr(checked_export, "export_model", noted)
    monkeypatch.setattr(checked_export, "agreement", costly)
    words = ["export", str(run / "best.safetensors"), "--to", "onnx", "--int8"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "int8 costs 10.00 points of accuracy" in printed.err
    assert "49.60 %" in printed.out
    assert "int8 costs 1.00 points of accuracy" in printed.err
    assert [goal and goal.most_error for goal in goals] == [None, 0.01, 0.003]
    assert (run / "best_int8.onnx").stat().st_size > 0
    assert main([*words, "--max-drop", "0.2"]) == 1
    assert "int8 costs 0.40 points" in capsys.readouterr().err


def test_a_file_that_disagrees_is_not_kept(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "best.onnx").write_bytes(b"of an earlier export")
    real = checked_export.export_model

    def wrong(model: nn.Module, description: ModelDescription, path: Path, **options: Any) -> None:
        class Other(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, images_BCHW: Tensor) -> Tensor:
                answer: Tensor = self.model(images_BCHW) + 0.01
                return answer

        real(Other(), description, path, **options)

    monkeypatch.setattr(checked_export, "export_model", wrong)
    assert main(["export", str(run / "best.safetensors"), "--to", "onnx"]) == 1
    assert "the exported model differs from the original: a logit by 0.01" in capsys.readouterr().err.replace("\n", " ")
    assert (run / "best.onnx").read_bytes() == b"of an earlier export"
    assert {path.name for path in run.iterdir()} == {"best.safetensors", "config.yaml", "best.onnx"}


def test_without_images_noise_is_compared_and_int8_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "config.yaml").unlink()
    words = ["export", str(run / "best.safetensors"), "--to", "openvino"]
    assert main(words) == 0
    assert "50 images of noise" in " ".join(capsys.readouterr().out.split())
    assert main([*words, "--int8"]) == 1
    assert "int8 needs real images" in capsys.readouterr().err
