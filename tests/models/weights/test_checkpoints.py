"""Checkpoints: the authors' numbers, their file format, and files that do not fit or cannot be trusted."""

import argparse
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

import localvit
from localvit import LocalityConfig, load_checkpoint, localize
from localvit.training.checkpointing import AtomicCheckpointIO, CheckpointError

PARITY = Path(__file__).parents[2] / "parity"
PARITY_CONFIGS = {
    "deit_relu6": LocalityConfig(activation="relu6"),
    "deit_hswish": LocalityConfig(),
    "deit_hswish_se": LocalityConfig(channel_attention="se", se_reduction=8),
    "deit_hswish_eca": LocalityConfig(channel_attention="eca"),
    "deit_hswish_ecah": LocalityConfig(channel_attention="ecah"),
    "deit_no_depthwise": LocalityConfig(activation="relu6", depthwise=False),
}


def small_model(config: LocalityConfig) -> nn.Module:
    """The body of the parity files, localized."""
    body = timm.create_model(
        "deit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=10
    )
    return localize(body, config).eval()


def official(name: str) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """State dict by the authors' keys, images and the logits that their model gives for them in float64."""
    tensors = safetensors.torch.load_file(PARITY / f"{name}.safetensors")
    state_dict = {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
    return state_dict, tensors["input"].double(), tensors["logits"].double()


@pytest.mark.parametrize("name", PARITY_CONFIGS)
def test_the_authors_weights_give_the_authors_logits(name: str, tmp_path: Path) -> None:
    state_dict, images, logits = official(name)
    path = tmp_path / "official.safetensors"
    safetensors.torch.save_file(state_dict, path)
    model = small_model(PARITY_CONFIGS[name])

    load_checkpoint(model, path)

    with torch.no_grad():
        torch.testing.assert_close(model.double()(images), logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["theirs", "bare", "safetensors", "legacy", "misnamed"])
def test_every_form_of_file_loads_the_same(form: str, tmp_path: Path) -> None:
    state_dict, images, logits = official("deit_hswish_se")
    path = tmp_path / "localvit_t.pth"
    if form == "theirs":
        arguments = argparse.Namespace(lr=5e-4, model="localvit", output_dir="out", distributed=True, betas=None)
        weight = torch.zeros(2, requires_grad=True)
        optimizer = torch.optim.AdamW([weight])
        weight.sum().backward()
        optimizer.step()
        content = {"model": state_dict, "optimizer": optimizer.state_dict(), "epoch": 299, "args": arguments}
        torch.save(content, path)
    elif form == "bare":
        torch.save(state_dict, path)
    elif form == "legacy":
        torch.save({"model": state_dict}, path, _use_new_zipfile_serialization=False)
    else:
        path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
        safetensors.torch.save_file(state_dict, path)
    model = small_model(PARITY_CONFIGS["deit_hswish_se"])

    load_checkpoint(model, path)

    with torch.no_grad():
        torch.testing.assert_close(model.double()(images), logits, rtol=0, atol=1e-6)


def test_our_own_state_dict_loads_as_it_is(tmp_path: Path) -> None:
    saved, loaded = small_model(LocalityConfig()), small_model(LocalityConfig())
    safetensors.torch.save_file(saved.state_dict(), tmp_path / "ours.safetensors")
    load_checkpoint(loaded, tmp_path / "ours.safetensors")
    torch.testing.assert_close(loaded.state_dict(), saved.state_dict(), rtol=0, atol=0)


class Malicious:
    """Unpickled the ordinary way, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", ["zip", "bare pickle"])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(protocol: str, tmp_path: Path) -> None:
    path, folder = tmp_path / "evil.pth", tmp_path / "made by the pickle"
    content = {"model": official("deit_relu6")[0], "args": Malicious(folder)}
    if protocol == "zip":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"could run code, so it was not read"):
        load_checkpoint(small_model(PARITY_CONFIGS["deit_relu6"]), path)
    assert not folder.exists()


def test_missing_and_unexpected_keys_are_listed(tmp_path: Path) -> None:
    state_dict, _, _ = official("deit_hswish")
    state_dict["surprise"] = state_dict.pop("head.bias")
    torch.save(state_dict, tmp_path / "file.pth")
    with pytest.raises(ValueError, match="does not fit") as raised:
        load_checkpoint(small_model(LocalityConfig()), tmp_path / "file.pth")
    assert "1 keys of the model that the file lacks: head.bias" in str(raised.value)
    assert "1 keys of the file that the model lacks: surprise" in str(raised.value)


def test_shapes_that_differ_are_listed_and_nothing_is_loaded(tmp_path: Path) -> None:
    state_dict, _, _ = official("deit_hswish")
    torch.save(state_dict | {"head.bias": torch.zeros(7)}, tmp_path / "file.pth")
    model = small_model(LocalityConfig())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"head\.bias is \(7,\) in the file and \(10,\) in the model"):
        load_checkpoint(model, tmp_path / "file.pth")
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_checkpoint_of_another_variant_is_refused(tmp_path: Path) -> None:
    torch.save(official("deit_hswish_se")[0], tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"keys of the file that the model lacks"):
        load_checkpoint(small_model(LocalityConfig()), tmp_path / "file.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"weight": 3}}, r"weight are not tensors"),
        ([1, 2], r"holds a list; a state dict maps parameter names to tensors"),
        ({}, r"holds an empty dict"),
        ({"epoch": 3, "args": {}}, r"epoch, args are not tensors"),
    ],
)
def test_a_file_without_a_state_dict_is_refused(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=message):
        load_checkpoint(small_model(LocalityConfig()), tmp_path / "file.pth")


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(1).expand(2**40),
        torch.ones(4, 4).to_sparse(),
        torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
        torch.ones(4, dtype=torch.complex64),
        torch.ones(4, device="meta"),
    ],
)
def test_tensors_whose_numbers_are_not_in_the_file_are_refused(value: Tensor, tmp_path: Path) -> None:
    torch.save({"head.weight": value}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"file\.pth holds no state dict: head\.weight are not tensors"):
        localvit.load_model(tmp_path / "file.pth", name="test_vit")


def test_keys_that_are_no_text_are_refused(tmp_path: Path) -> None:
    torch.save({7: torch.ones(2)}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"file\.pth holds no state dict: 7 are not tensors"):
        localvit.load_model(tmp_path / "file.pth", name="test_vit")


def test_a_head_without_numbers_gives_no_classes(tmp_path: Path) -> None:
    torch.save({"head.weight": torch.ones(0).reshape(2**40, 0)}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"file\.pth does not fit"):
        localvit.load_model(tmp_path / "file.pth", name="test_vit")


def test_an_archive_that_unpacks_to_more_than_its_size_is_not_unpacked(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(10_000)}, tmp_path / "whole.pth")
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(tmp_path / "packed.pth", "w") as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name), zipfile.ZIP_DEFLATED)
    with pytest.raises(
        ValueError, match=r"packed\.pth is a damaged .*compressed or overlap, which PyTorch never writes"
    ):
        load_checkpoint(nn.Linear(1, 1), tmp_path / "packed.pth")
    with pytest.raises(CheckpointError, match=r"packed\.pth is damaged.*compressed or overlap"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "packed.pth")


@pytest.mark.parametrize("kind", ["pth", "safetensors", "text", "empty"])
def test_a_damaged_file_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    state_dict, _, _ = official("deit_hswish")
    if kind == "pth":
        torch.save(state_dict, path)
    else:
        safetensors.torch.save_file(state_dict, path)
    whole = path.read_bytes()
    path.write_bytes({"text": b"no checkpoint", "empty": b""}.get(kind, whole[: len(whole) // 2]))
    with pytest.raises(ValueError, match=r"damaged or truncated PyTorch file|nor whole safetensors"):
        load_checkpoint(small_model(LocalityConfig()), path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint file .*nowhere\.pth"):
        load_checkpoint(small_model(LocalityConfig()), tmp_path / "nowhere.pth")


def test_a_refused_pickle_is_described_in_a_line_without_pytorchs_advice(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model": _Evil()}, path)
    with pytest.raises(ValueError, match="with the object eval, which could run code") as raised:
        localvit.load_checkpoint(nn.Linear(1, 1), path)
    message = str(raised.value)
    assert "weights_only" not in message
    assert "add_safe_globals" not in message
    assert len(message.splitlines()) == 1


class _Evil:
    def __reduce__(self) -> Any:
        return eval, ("1",)
