"""Models on the hub and in its folders: what timm and this project load is the model that was written."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from hub_server import Hub, hub_server
from torch import Tensor, nn

from localvit import LocalityConfig, ModelDescription, load_model, localize, save_model
from localvit.commands.cli import main
from localvit.data.config import InputConfig
from localvit.models.exported import load_exported
from localvit.models.weights.hub import require_same_model, write_folder
from localvit.models.weights.hub_files import HubError
from localvit.models.weights.model_file import create_model

SECRET = "hf_notfortheeyesofothers"  # noqa: S105
SMALL: dict[str, Any] = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
CLASSES = ("ant", "bee", "cat", "dog")


def described(
    name: str, arguments: dict[str, Any], size: tuple[int, int] = (32, 32), channels: Any = 3
) -> ModelDescription:
    shown = InputConfig(image_size=size, channels=channels, mean=(0.4,) * channels, std=(0.2,) * channels)
    return ModelDescription(name, arguments, CLASSES, shown)


def model_of(description: ModelDescription, *calls: Mapping[str, Any]) -> nn.Module:
    """A model with weights unlike those of any initialization."""
    model = create_model(description.name, description.input, num_classes=len(CLASSES), **description.arguments)
    for call in calls:
        localize(model, **call)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
    return model.eval()


def logits(model: nn.Module, description: ModelDescription) -> Tensor:
    torch.manual_seed(1)
    with torch.inference_mode():
        answer: Tensor = model(torch.randn(2, description.input.channels, *description.input.image_size))
    return answer


SE = LocalityConfig(channel_attention="se")
MODELS: list[tuple[str, dict[str, Any], tuple[int, int], int, Sequence[Mapping[str, Any]]]] = [
    ("vit_tiny_patch16_224", SMALL, (32, 32), 3, [{}]),
    ("vit_tiny_patch16_224", SMALL, (32, 32), 1, [{"mode": "residual", "layers": [1]}]),
    ("vit_tiny_patch16_224", SMALL, (32, 48), 3, [{"config": SE, "layers": [1]}, {"layers": [0]}]),
    ("localvit_tiny_patch16_224", {**SMALL, "locality": {"se_reduction": 4}}, (32, 32), 3, []),
    ("localvit_t2t_7", {}, (64, 64), 3, []),
    ("localvit_pvt_tiny", {}, (64, 64), 3, []),
    ("localvit_tnt_tiny_patch16_224", {}, (64, 64), 3, []),
    ("localvit_swin_tiny_patch4_window7_224", {}, (64, 64), 3, []),
    ("pvt_v2_b0", {}, (64, 96), 3, [{"mode": "residual"}]),
    ("deit_tiny_patch16_224", SMALL, (32, 32), 3, []),
]


@pytest.mark.parametrize(("name", "arguments", "size", "channels", "calls"), MODELS)
def test_timm_and_this_project_load_the_model_that_was_written(
    name: str,
    arguments: dict[str, Any],
    size: tuple[int, int],
    channels: int,
    calls: Sequence[Mapping[str, Any]],
    tmp_path: Path,
) -> None:
    description = described(name, arguments, size, channels)
    model = model_of(description, *calls)
    expected = logits(model, description)
    write_folder(model, description, tmp_path)
    require_same_model(model, description, tmp_path)

    by_timm: Any = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(logits(by_timm, description), expected)
    seen = timm.data.resolve_model_data_config(by_timm)
    assert (seen["input_size"], tuple(seen["mean"])) == ((channels, *size), description.input.mean)
    assert by_timm.pretrained_cfg["label_names"] == list(CLASSES)

    loaded, found = load_model(f"local-dir:{tmp_path}")
    assert torch.equal(logits(loaded, description), expected)
    assert found == description


def test_a_full_disk_leaves_the_folder_as_it_was(tmp_path: Path, largest_file: Callable[[int], None]) -> None:
    description = described("vit_tiny_patch16_224", SMALL)
    model = model_of(description, {})
    write_folder(model, description, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    largest_file(200)
    with pytest.raises(OSError, match="too large"):
        write_folder(model, description, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_another_number_of_classes_gets_a_fresh_head(tmp_path: Path) -> None:
    description = described("vit_tiny_patch16_224", SMALL)
    model = model_of(description, {})
    write_folder(model, description, tmp_path)
    adapted: Any = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=7)
    assert adapted.head.out_features == 7
    assert torch.equal(adapted.blocks[1].attn.qkv.weight, model.get_parameter("blocks.1.attn.qkv.weight"))


def test_a_folder_of_timms_own_is_described_by_its_configuration(tmp_path: Path) -> None:
    model: Any = timm.create_model("deit_tiny_patch16_224", img_size=32, num_classes=3, **SMALL)
    timm.models.save_for_hf(model, str(tmp_path), model_args={**SMALL, "img_size": 32}, safe_serialization=True)
    loaded, description = load_model(f"local-dir:{tmp_path}")
    assert description.class_names == ("0", "1", "2")
    assert torch.equal(loaded.get_parameter("head.weight"), model.head.weight)


def test_weights_that_do_not_belong_to_the_configuration_are_noticed(tmp_path: Path) -> None:
    description = described("vit_tiny_patch16_224", SMALL)
    write_folder(model_of(description, {}), description, tmp_path)
    other = model_of(description, {})
    nn.init.ones_(other.get_parameter("head.weight"))
    with pytest.raises(HubError, match="logits differ by"):
        require_same_model(other, description, tmp_path)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("{", "is not valid JSON"),
        ("[]", "describes no model of timm"),
        ('{"architecture": "no_such_model", "pretrained_cfg": {}}', "there is no model no_such_model"),
        ('{"architecture": "hf-hub:a/b", "pretrained_cfg": {}}', "must be a plain name"),
        ('{"architecture": "deit_tiny_patch16_224"}', "pretrained_cfg"),
        (
            '{"architecture": "deit_tiny_patch16_224", "pretrained_cfg": {}, "model_args": {"checkpoint_path": "x"}}',
            "may not have",
        ),
        (
            '{"architecture": "localized", "pretrained_cfg": {}, "model_args": {"base": "local-dir:x"}}',
            "it must be a model that timm.list_models",
        ),
        (
            '{"architecture": "localized", "pretrained_cfg": {}, "model_args": {"localizations": [{"config": {}}]}}',
            "a localization has config, layers and mode",
        ),
    ],
)
def test_a_configuration_that_is_not_one_is_refused(config: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    model = timm.create_model("deit_tiny_patch16_224", **SMALL)
    timm.models.save_for_hf(model, str(tmp_path / "other"), safe_serialization=True)
    (tmp_path / "other" / "model.safetensors").rename(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=problem):
        load_model(f"local-dir:{tmp_path}")


def test_names_that_lead_nowhere_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "only-one-part"]) == 1
    assert "it must be hf-hub:USER/NAME" in capsys.readouterr().err
    assert main(["predict", "--checkpoint", f"local-dir:{tmp_path}", "photo.jpg"]) == 1
    assert f"there is no model.safetensors in {tmp_path}" in capsys.readouterr().err.replace("\n", "")


def in_process(hub: Hub, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A Python process that knows the server as the hub, since Hugging Face reads its address when it is imported."""
    settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(folder / "cache"), "HF_TOKEN": SECRET}
    settings |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, *words]
    return subprocess.run(
        command, env={**os.environ, **settings}, cwd=folder, capture_output=True, text=True, check=False
    )


_FETCH = """
import sys, timm, torch, localvit
from localvit.commands.cli import main
assert main(["pull", "somebody/photos"]) == 0
torch.manual_seed(1)
images = torch.randn(2, 1, 8, 8)
by_timm = timm.create_model("hf-hub:somebody/photos", pretrained=True).eval()
loaded, description = localvit.load_model("hf-hub:somebody/photos@main")
torch.save([by_timm(images), loaded(images), localvit.load_model("photos.safetensors")[0](images)], "logits.pt")
assert description.class_names == tuple("0123456789")
sys.exit(main(["pull", "somebody/nothing"]))
"""


def test_a_run_is_published_with_its_card_and_loads_from_the_hub(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shown = {"image_size": [8, 8], "channels": 1, "mean": [0.3], "std": [0.37]}
    config = {
        "model": {"name": "deit_tiny_patch16_224"},
        "data": {"source": "digits", "held_out": 0.2},
        "input": shown,
        "hardware": {"workers": 0},
    }
    arguments = {**SMALL, "patch_size": 2}
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in shown.items()}
    description = ModelDescription("deit_tiny_patch16_224", arguments, tuple("0123456789"), InputConfig(**fields))
    model = create_model(description.name, description.input, num_classes=10, **arguments)
    localize(model)
    save_model(model.eval(), description, run / "best.safetensors")
    (run / "config.yaml").write_text(yaml.safe_dump(config))

    with hub_server() as hub:
        push = ["-m", "localvit", "push", str(run / "best.safetensors"), "somebody/photos", "--license", "mit"]
        pushed = in_process(hub, tmp_path, *push)
        assert pushed.returncode == 0, pushed.stderr
        assert f"{hub.address}/somebody/photos" in pushed.stdout.replace("\n", "")
        fetched = in_process(hub, tmp_path, "-c", _FETCH)
        assert fetched.returncode == 1, fetched.stderr
        assert "the hub has no model somebody/nothing" in fetched.stderr.replace("\n", " ")
        published = hub.models["somebody/photos"]
    torch.manual_seed(1)
    expected = model(torch.randn(2, 1, 8, 8))
    for answer in torch.load(tmp_path / "logits.pt"):
        assert torch.allclose(answer, expected, atol=1e-5)

    assert set(published) == {"config.json", "model.safetensors", "README.md", "confusion_matrix.png"}
    _, front, text = published["README.md"].decode().split("---\n", maxsplit=2)
    data = yaml.safe_load(front)
    assert (data["license"], data["library_name"]) == ("mit", "timm")
    (result,) = data["model-index"][0]["results"]
    assert result["dataset"] == {"name": "digits", "type": "digits"}
    assert 'timm.create_model("hf-hub:somebody/photos", pretrained=True)' in text
    assert "2 layers mix each token with its neighbors" in text
    assert hub.tokens == {f"Bearer {SECRET}"}
    everything = [pushed.stdout, pushed.stderr, *map(bytes.decode, (published["README.md"], published["config.json"]))]
    assert not any(SECRET in words for words in everything)
    assert not any(str(tmp_path) in words for words in everything[2:])
    assert json.loads(published["config.json"])["architecture"] == "localized"


def test_models_with_a_name_instead_of_a_file_are_exported(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    description = described("vit_tiny_patch16_224", SMALL)
    write_folder(model_of(description), description, tmp_path / "model")
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    with hub_server() as hub:
        hub.models["somebody/photos"] = files
        ended = in_process(hub, tmp_path, "-m", "localvit", "export", "hf-hub:somebody/photos@main", "--to", "onnx")
    assert ended.returncode == 0, ended.stderr
    assert main(["export", f"local-dir:{tmp_path / 'model'}", "--to", "onnx"]) == 0
    for exported in (tmp_path / "photos.onnx", tmp_path / "model" / "model.onnx"):
        assert load_exported(exported)[1] == description


def test_a_hub_that_refuses_says_so_and_the_token_stays_secret(tmp_path: Path) -> None:
    description = described("vit_tiny_patch16_224", SMALL)
    save_model(model_of(description), description, tmp_path / "model.safetensors")
    with hub_server(writable=False) as hub:
        ended = in_process(hub, tmp_path, "-m", "localvit", "push", "model.safetensors", "somebody/photos")
    assert ended.returncode == 1
    assert "somebody/photos was not uploaded" in ended.stderr.replace("\n", " ")
    assert "Traceback" not in ended.stderr
    assert SECRET not in ended.stderr + ended.stdout
