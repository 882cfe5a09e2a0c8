"""Files that describe their model: what comes back, and what is refused of files that nobody vouches for."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import timm
import torch
from torch import nn

import localvit
from localvit import LocalityConfig, localize
from localvit.data.config import InputConfig
from localvit.locality.localize import localizations
from localvit.models.official_keys import to_official
from localvit.models.weights import checkpoints
from localvit.models.weights.model_description import REFUSED_ARGUMENTS
from localvit.models.weights.model_file import (
    ModelDescription,
    create_model,
    load_model,
    read_description,
    save_model,
)
from localvit.system.errors import LocalViTError

ARGUMENTS = {"patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 2}
SHOWN = InputConfig(image_size=(32, 48), channels=1, mean=(0.4,), std=(0.3,), interpolation="bilinear", crop_fraction=1)
CLASSES = ("ant", "bee", "Ωmega, the last")
DESCRIPTION = ModelDescription("localvit_tiny_patch16_224", ARGUMENTS, CLASSES, SHOWN)


def small_model(name: str = "localvit_tiny_patch16_224", **arguments: Any) -> nn.Module:
    given = {"img_size": (32, 48), "in_chans": 1, "num_classes": 3, **ARGUMENTS, **arguments}
    model: nn.Module = timm.create_model(name, **given)
    return model.eval()


def logits(model: nn.Module, channels: int = 1, size: tuple[int, int] = (32, 48)) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(0)))
    return result


def test_a_model_comes_back_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    saved = small_model()
    save_model(saved, DESCRIPTION, tmp_path / "best.safetensors")
    loaded, description = load_model(tmp_path / "best.safetensors")
    assert description == DESCRIPTION
    assert not loaded.training
    assert localizations(loaded) == localizations(saved)
    torch.testing.assert_close(logits(loaded), logits(saved), rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["replace", "residual"])
def test_a_localized_model_comes_back_localized(mode: Any, tmp_path: Path) -> None:
    saved = localize(small_model("deit_tiny_patch16_224"), LocalityConfig(kernel_size=5), mode=mode)
    description = dataclasses.replace(DESCRIPTION, name="deit_tiny_patch16_224")
    save_model(saved, description, tmp_path / "best.safetensors")
    loaded, _ = load_model(tmp_path / "best.safetensors", name="deit_tiny_patch16_224")
    assert localizations(loaded) == localizations(saved)
    torch.testing.assert_close(logits(loaded), logits(saved.eval()), rtol=0, atol=0)


def test_a_model_for_images_of_any_size_comes_back(tmp_path: Path) -> None:
    saved = timm.create_model("pvt_v2_b0", num_classes=3, in_chans=1).eval()
    save_model(saved, ModelDescription("pvt_v2_b0", {}, CLASSES, SHOWN), tmp_path / "m.safetensors")
    torch.testing.assert_close(
        logits(load_model(tmp_path / "m.safetensors")[0], size=(64, 64)), logits(saved, size=(64, 64)), rtol=0, atol=0
    )


def test_the_file_is_plain_safetensors_that_others_read(tmp_path: Path) -> None:
    model = small_model()
    save_model(model, DESCRIPTION, tmp_path / "best.safetensors")
    with safetensors.safe_open(tmp_path / "best.safetensors", "pt") as file:
        described = json.loads(file.metadata()["localvit_model"])
        assert set(file.keys()) == set(model.state_dict())
    assert described["class_names"] == list(CLASSES)
    assert described["input"]["mean"] == [0.4]
    again = small_model()
    localvit.load_checkpoint(again, tmp_path / "best.safetensors")
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=0)


def test_a_description_of_another_model_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    with pytest.raises(ValueError, match=r"best\.safetensors does not fit.*\n.*head\.weight is \(3, 48\) in the file"):
        save_model(small_model(), dataclasses.replace(DESCRIPTION, class_names=("a", "b")), path)
    with pytest.raises(ValueError, match="cannot be built"):
        save_model(small_model(), dataclasses.replace(DESCRIPTION, arguments={"heads": 2}), path)
    assert not path.exists()


@pytest.mark.parametrize("form", ["theirs", "bare", "ours"])
def test_a_file_without_a_description_needs_the_name_alone(form: str, tmp_path: Path) -> None:
    saved = timm.create_model("localvit_tiny_patch16_224", num_classes=7).eval()
    path = tmp_path / "localvit_t.pth"
    if form == "theirs":
        torch.save({"model": to_official(saved.state_dict(), saved), "epoch": 3}, path)
    elif form == "bare":
        torch.save(saved.state_dict(), path)
    else:
        localvit.save_checkpoint(saved, path)

    with pytest.raises(ValueError, match=r"does not say which model it contains; name it with --model, such as"):
        load_model(path)
    loaded, description = load_model(path, name="localvit_tiny_patch16_224")

    torch.testing.assert_close(logits(loaded, 3, (224, 224)), logits(saved, 3, (224, 224)), rtol=0, atol=0)
    assert description.class_names == ("0", "1", "2", "3", "4", "5", "6")
    assert description.input == InputConfig()  # the paper's evaluation: 224 pixels, bicubic, 224 / 256
    assert read_description(path) is None


@pytest.mark.parametrize("name", ["localvit_tiny_patch16_224", "resnet18"])  # the second takes no image size
def test_weights_that_cannot_be_downloaded_are_named(name: str) -> None:
    nowhere = {"url": "http://127.0.0.1:9/weights.pth", "hf_hub_id": None}
    with pytest.raises(LocalViTError, match=rf"weights of {name} cannot be downloaded: .*refused"):
        create_model(name, InputConfig(), num_classes=9, pretrained=True, pretrained_cfg_overlay=nowhere)


def test_a_thousand_classes_are_those_of_imagenet(tmp_path: Path) -> None:
    torch.save(timm.create_model("pvt_v2_b0").state_dict(), tmp_path / "file.pth")
    names = load_model(tmp_path / "file.pth", name="pvt_v2_b0")[1].class_names
    assert len(names) == 1000
    assert "tench" in names[0]
    assert "toilet tissue" in names[999]


def test_a_wrong_name_is_told_the_nearest(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"no model localvit_tiny_patch16_225; near are localvit_tiny_patch16_224"):
        load_model(tmp_path / "file.pth", name="localvit_tiny_patch16_225")
    with pytest.raises(ValueError, match=r"file\.pth does not fit"):
        load_model(tmp_path / "file.pth", name="localvit_tiny_patch16_224")
    save_model(small_model(), DESCRIPTION, tmp_path / "best.safetensors")
    with pytest.raises(ValueError, match=r"contains a localvit_tiny_patch16_224, but --model is deit_tiny_patch16_224"):
        load_model(tmp_path / "best.safetensors", name="deit_tiny_patch16_224")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint file"):
        load_model(tmp_path / "nowhere.safetensors")


def forged(path: Path, description: object, localized: object = None) -> Path:
    """A file with the tensors of a small model and texts of somebody else."""
    text = description if isinstance(description, str) else json.dumps(description)
    metadata = {"localvit_model": text}
    if localized is not None:
        metadata["localvit"] = localized if isinstance(localized, str) else json.dumps(localized)
    safetensors.torch.save_file(small_model().state_dict(), path, metadata)
    return path


def honest() -> dict[str, Any]:
    values: dict[str, Any] = json.loads(DESCRIPTION.to_json())
    return values


@pytest.mark.parametrize(
    "name",
    [
        "hf-hub:timm/vit_tiny_patch16_224.augreg_in21k",
        "hf_hub:timm/deit_tiny_patch16_224",
        "local-dir:/tmp/deit_tiny_patch16_224",
        "/tmp/deit_tiny_patch16_224",  # noqa: S108 - refused
        "../deit_tiny_patch16_224",
        "timm/deit_tiny_patch16_224",
        "deit_tiny_patch16_224\n",
        "",
        "os.system",
        "__import__",
        3,
        None,
        ["deit_tiny_patch16_224"],
        "deit_tiny_patch16_224.no_such_weights",
    ],
)
def test_only_names_of_the_registry_are_taken(name: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = forged(tmp_path / "f.safetensors", honest() | {"name": name})

    def never(*_: object, **__: object) -> None:
        raise AssertionError("timm was asked to load something")

    for module, function in [
        ("timm.models._builder", "load_pretrained"),
        ("timm.models._factory", "load_checkpoint"),
        ("timm.models._factory", "load_model_config_from_hf"),
        ("timm.models._factory", "load_model_config_from_path"),
    ]:
        monkeypatch.setattr(f"{module}.{function}", never, raising=False)
    with pytest.raises(ValueError, match=r"f\.safetensors .*damaged or from another version"):
        load_model(path)
    if isinstance(name, str):
        torch.save({"weight": torch.zeros(2)}, tmp_path / "bare.pth")
        with pytest.raises(ValueError, match=r"plain name|no model|Invalid pretrained tag"):
            load_model(tmp_path / "bare.pth", name=name)


@pytest.mark.parametrize("key", sorted(REFUSED_ARGUMENTS))
def test_arguments_that_reach_beyond_the_model_are_refused(key: str, tmp_path: Path) -> None:
    for arguments in ({key: True}, {"block": {key: "/etc/passwd"}}):
        with pytest.raises(ValueError, match=rf"damaged or from another version.*{key}.*may not have"):
            load_model(forged(tmp_path / "f.safetensors", honest() | {"arguments": arguments}))


def test_all_that_timm_takes_beside_the_model_s_own_arguments_is_refused() -> None:
    import inspect

    from timm.models import build_model_with_cfg

    from localvit.models.build import build

    for function in (timm.create_model, build_model_with_cfg, build):
        kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        names = {name for name, value in inspect.signature(function).parameters.items() if value.kind not in kinds}
        assert names <= REFUSED_ARGUMENTS


@pytest.mark.parametrize("value", [10**400, -(10**400), float("nan"), float("inf"), 100_001])
def test_numbers_beyond_any_model_are_refused(value: float, tmp_path: Path) -> None:
    described = honest() | {"arguments": {"embed_dim": value}}
    with pytest.raises(ValueError, match=r"argument embed_dim is .*; it must be finite and at most 100,000"):
        load_model(forged(tmp_path / "f.safetensors", described))
    shown = honest()["input"] | {"mean": [value * 10**5]}
    with pytest.raises(ValueError, match=r"mean is .*; it must be a list of numbers"):
        load_model(forged(tmp_path / "f.safetensors", honest() | {"input": shown}))


TOO_DEEP = '{"version": 1, "name": ' + "[" * 100_000


@pytest.mark.parametrize(
    "change",
    [
        "no JSON",
        "[1]",
        "null",
        TOO_DEEP,
        {"version": 2},
        {"version": None},
        {"surprise": 1},
        {"arguments": [1]},
        {"arguments": {"depth": 10**9}},
        {"arguments": {"embed_dim": 10**12}},
        {"arguments": {"embed_dim": float("inf")}},
        {"arguments": {"embed_dim": 99_999, "patch_size": 1}},
        {"arguments": {"patch_size": 0}},
        {"arguments": {"norm_layer": "os.system"}},
        {"arguments": {"no_such_argument": 1}},
        {"class_names": []},
        {"class_names": "abc"},
        {"class_names": [1, 2, 3]},
        {"class_names": {"a": 1}},
        {"input": None},
        {"input": {}},
        {"input.image_size": [10**9, 10**9]},
        {"input.image_size": [32]},
        {"input.image_size": [32, 48, 3]},
        {"input.image_size": ["32", "48"]},
        {"input.image_size": [32.5, 48]},
        {"input.image_size": 32},
        {"input.image_size": [0, 0]},
        {"input.channels": 4},
        {"input.channels": "1"},
        {"input.channels": [1]},
        {"input.mean": [0.1, 0.2]},
        {"input.mean": [float("nan")]},
        {"input.mean": ["a"]},
        {"input.std": [0]},
        {"input.interpolation": "os.system"},
        {"input.interpolation": {}},
        {"input.crop_fraction": 7},
        {"input.crop_fraction": None},
    ],
    ids=lambda change: str(change)[:50],
)
def test_a_description_that_is_none_is_refused_by_name_of_the_file(change: Any, tmp_path: Path) -> None:
    if isinstance(change, dict):
        values = honest()
        for key, value in change.items():
            place = values["input"] if key.startswith("input.") else values
            place[key.removeprefix("input.")] = value
        change = values
    with pytest.raises(ValueError, match=r"f\.safetensors") as raised:
        load_model(forged(tmp_path / "f.safetensors", change))
    assert "another version of localvit" in str(raised.value) or "does not fit" in str(raised.value)


@pytest.mark.parametrize("field", ["name", "arguments", "class_names", "input", "version"])
def test_a_description_that_lacks_something_is_refused(field: str, tmp_path: Path) -> None:
    values = honest()
    del values[field]
    with pytest.raises(ValueError, match="damaged or from another version"):
        load_model(forged(tmp_path / "f.safetensors", values))


TAMPERED: list[dict[str, object]] = [
    {"expansion_ratio": "4"},
    {"expansion_ratio": 1e300},
    {"expansion_ratio": 1e9},
    {"kernel_size": 3.5},
    {"kernel_size": 10**15 + 1},
    {"activation": []},
    {"activation": "os.system"},
    {"depthwise": "no"},
    {"se_reduction": None},
    {"residual": False},
]
LOCALIZED: dict[str, Any] = {"config": dataclasses.asdict(LocalityConfig()), "layers": [0], "mode": "replace"}


@pytest.mark.parametrize(
    "localized",
    [
        "no JSON",
        "3",
        "{}x",
        '["call"]',
        "[" * 100_000,
        [{}],
        [LOCALIZED | {"surprise": 1}],
        [LOCALIZED | {"mode": "eval"}],
        [LOCALIZED | {"mode": []}],
        [LOCALIZED | {"layers": 3}],
        [LOCALIZED | {"layers": ["0"]}],
        [LOCALIZED | {"layers": [10**9]}],
        [LOCALIZED | {"layers": []}],
        [LOCALIZED, LOCALIZED],
        [LOCALIZED | {"config": None}],
        [LOCALIZED | {"config": {"expansion": 4}}],
        *([LOCALIZED | {"config": LOCALIZED["config"] | change}] for change in TAMPERED),
    ],
    ids=lambda localized: str(localized)[-60:],
)
def test_tampered_localizations_are_refused_by_name_of_the_file(localized: Any, tmp_path: Path) -> None:
    values = honest() | {"name": "deit_tiny_patch16_224"}
    path = forged(tmp_path / "f.safetensors", values, localized)
    with pytest.raises(ValueError, match=r"f\.safetensors"):
        load_model(path)
    plain = small_model("deit_tiny_patch16_224")
    keys = list(plain.state_dict())
    with pytest.raises(ValueError, match=r"f\.safetensors"):
        localvit.load_checkpoint(plain, path)
    assert localizations(plain) == []
    assert list(plain.state_dict()) == keys


def test_a_checkpoint_that_does_not_fit_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    saved = localize(small_model("deit_tiny_patch16_224", num_classes=5))
    localvit.save_checkpoint(saved, tmp_path / "five.safetensors")
    model = small_model("deit_tiny_patch16_224")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    answer = logits(model)
    with pytest.raises(ValueError, match=r"head\.weight is \(5, 48\) in the file and \(3, 48\) in the model"):
        localvit.load_checkpoint(model, tmp_path / "five.safetensors")
    assert localizations(model) == []
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(logits(model), answer, rtol=0, atol=0)
    localize(model)  # it still can be


def test_no_length_of_a_header_is_taken_for_the_start_of_a_pickle(tmp_path: Path) -> None:
    model, path = small_model(), tmp_path / "m.safetensors"
    starts = set()
    for padding in range(0, 256, 8):
        localvit.save_checkpoint(model, path, metadata={"padding": "x" * padding})
        starts.add(path.read_bytes()[:1])
        assert checkpoints.read_metadata(path, "padding") == "x" * padding
        assert set(checkpoints.read_state_dict(path)) == set(model.state_dict())
    assert b"\x80" in starts


def test_further_texts_stay_beside_those_of_the_project(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    localvit.save_checkpoint(small_model(), path, metadata={"run": "7", "localvit": "no"})
    assert checkpoints.read_metadata(path, "run") == "7"
    assert checkpoints.read_metadata(path, "nothing") is None
    assert checkpoints.read_localizations(path) == localizations(small_model())


class Malicious:
    """Unpickled the ordinary way, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("name", [None, "localvit_tiny_patch16_224"])
def test_a_pickle_that_would_run_code_runs_none(name: str | None, tmp_path: Path) -> None:
    path, folder = tmp_path / "best.safetensors", tmp_path / "made by the pickle"
    torch.save({"model": small_model().state_dict(), "args": Malicious(folder)}, path)
    with pytest.raises(ValueError, match="could run code, so it was not read"):
        load_model(path, name=name)
    assert not folder.exists()


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    save_model(small_model(), DESCRIPTION, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="nor whole safetensors"):
        load_model(path)
