"""``localvit convert`` and ``localvit models``, as commands."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from localvit.commands.cli import main
from localvit.models import catalog
from localvit.models.weights.checkpoints import read_localizations, read_state_dict

OFFICIAL = json.loads((Path(__file__).parents[1] / "official_state_dicts.json").read_text())


def official_file(name: str, path: Path) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        key: torch.rand(shape, generator=generator) if shape else torch.tensor(3)
        for key, shape in OFFICIAL[name]["state_dict"].items()
    }
    torch.save({"model": tensors, "epoch": 1}, path)
    return tensors


@pytest.mark.parametrize("official", ["localvit_tiny_mlp4_act3_r192", "localvit_T2t_conv7", "localvit_pvt_tiny"])
def test_a_checkpoint_goes_from_theirs_to_ours_and_back_without_loss(official: str, tmp_path: Path) -> None:
    tensors = official_file(official, tmp_path / "theirs.pth")

    assert main(["convert", str(tmp_path / "theirs.pth"), str(tmp_path / "ours.safetensors")]) == 0
    assert main(["convert", str(tmp_path / "ours.safetensors"), str(tmp_path / "again.pth")]) == 0

    assert read_localizations(tmp_path / "ours.safetensors")
    torch.testing.assert_close(read_state_dict(tmp_path / "again.pth"), tensors, rtol=0, atol=0)


def test_a_file_that_fits_no_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    assert main(["convert", str(tmp_path / "other.pth"), str(tmp_path / "out.safetensors")]) == 1
    assert "fits no model of the paper" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


def test_a_target_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    official_file("localvit_pvt_tiny", tmp_path / "theirs.pth")
    (tmp_path / "file").write_text("text")
    words = ["convert", str(tmp_path / "theirs.pth"), str(tmp_path / "file" / "out.safetensors")]
    assert main([*words, "--model", "localvit_pvt_tiny"]) == 1
    error = capsys.readouterr().err
    assert "file" in error
    assert "Traceback" not in error
    assert (tmp_path / "file").read_text() == "text"


def test_a_full_disk_is_an_error_in_one_line(
    tmp_path: Path, largest_file: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    official_file("localvit_pvt_tiny", tmp_path / "theirs.pth")
    words = ["convert", str(tmp_path / "theirs.pth"), str(tmp_path / "out.pth"), "--model", "localvit_pvt_tiny"]
    largest_file(100_000)
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith("localvit convert: ")
    assert len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.pth"]


def test_a_target_of_unknown_form_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    official_file("localvit_pvt_tiny", tmp_path / "theirs.pth")
    assert main(["convert", str(tmp_path / "theirs.pth"), str(tmp_path / "out.onnx")]) == 1
    assert "it must be .safetensors for ours or .pth for the authors'" in " ".join(capsys.readouterr().err.split())


def test_models_are_listed_with_the_published_costs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first two; the costs of all are those of the authors by ``test_paper_models``."""
    assert len([model for model in catalog.PUBLISHED if model.name.startswith("localvit")]) == 9
    assert {model.baseline for model in catalog.PUBLISHED} - {None} <= {model.name for model in catalog.PUBLISHED}
    monkeypatch.setattr(catalog, "PUBLISHED", catalog.PUBLISHED[:2])
    assert main(["models", "--json"]) == 0
    tiny = OFFICIAL["localvit_tiny_mlp4_act3_r192"]
    assert json.loads(capsys.readouterr().out)[1:] == [
        {
            "name": "localvit_tiny_patch16_224",
            "parameters": tiny["parameters"],
            "macs": tiny["macs"],
            "baseline": "deit_tiny_patch16_224",
            "top1": 74.84,
        }
    ]


@pytest.mark.slow
def test_models_are_listed_in_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert "1,266,475,008" in printed
    assert "74.84" in printed
    assert printed.count("localvit_") >= 9
