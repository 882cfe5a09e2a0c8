"""The three controls of locality in all five families: no depth-wise step, a kernel of 1 x 1, a permuted grid."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import localvit
from localvit import LocalityFeedForward
from localvit.data import InputConfig
from localvit.locality.localize import localizations
from localvit.models.costs import count_macs, count_parameters

FAMILIES: dict[str, dict[str, Any]] = {
    "localvit_tiny_patch16_224": {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3},
    "localvit_t2t_7": {"img_size": 32, "patch_size": 8, "embed_dim": 32, "token_dim": 16, "depth": 2, "num_heads": 2},
    "localvit_pvt_tiny": {"img_size": 32, "embed_dims": (16, 32, 40, 64), "depths": (1, 1, 1, 1)},
    "localvit_tnt_tiny_patch16_224": {"img_size": 32, "depth": 2},
    "localvit_swin_tiny_patch4_window7_224": {
        "img_size": 56, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)
    },
}  # fmt: skip
CONTROLS: dict[str, dict[str, Any]] = {
    "no depth-wise": {"depthwise": False},
    "kernel 1 x 1": {"kernel_size": 1},
    "permuted grid": {"permuted": True},
}


def small(name: str, **arguments: Any) -> Any:
    torch.manual_seed(0)
    model: Any = timm.create_model(name, num_classes=5, **FAMILIES[name], **arguments)
    return model


def feed_forwards(model: nn.Module) -> list[LocalityFeedForward]:
    return [module for module in model.modules() if isinstance(module, LocalityFeedForward)]


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_control_differs_in_its_field_alone_and_trains(name: str, control: str) -> None:
    fields, twin = CONTROLS[control], small(name)
    model = small(name, locality=fields).train()
    for changed, plain in zip(feed_forwards(model), feed_forwards(twin), strict=True):
        assert changed.config == replace(plain.config, **fields)  # all others as in each stage of the twin

    side = FAMILIES[name]["img_size"]
    shapes, twins = ({key: value.shape for key, value in one.state_dict().items()} for one in (model, twin))
    taps = sum(module.project.conv.in_channels for module in feed_forwards(twin))
    if control == "permuted grid":
        assert shapes == twins
        assert count_macs(model, (3, side, side)) == count_macs(twin, (3, side, side))
    elif control == "kernel 1 x 1":
        assert shapes.keys() == twins.keys()
        assert count_parameters(twin) - count_parameters(model) == (3 * 3 - 1) * taps
    else:
        assert shapes == {key: shape for key, shape in twins.items() if ".locality.depthwise." not in key}

    logits = model(torch.randn(2, 3, side, side))
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", FAMILIES)
def test_a_permuted_model_is_another_function_of_the_same_weights(name: str) -> None:
    twin, permuted = small(name).eval(), small(name, locality={"permuted": True}).eval()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        permuted.load_state_dict(twin.state_dict())
        images = torch.randn(2, 3, *[FAMILIES[name]["img_size"]] * 2)
        assert not torch.allclose(permuted(images), twin(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_file_carries_the_changed_fields(name: str, tmp_path: Path) -> None:
    arguments = {key: value for key, value in FAMILIES[name].items() if key != "img_size"}
    side, locality = FAMILIES[name]["img_size"], {"permuted": True, "activation": "relu6"}
    model = small(name, locality=locality).eval()
    description = localvit.ModelDescription(
        name, {**arguments, "locality": locality}, tuple("abcde"), InputConfig((side, side))
    )
    localvit.save_model(model, description, tmp_path / "model.safetensors")
    loaded, described = localvit.load_model(tmp_path / "model.safetensors")
    assert described.arguments["locality"] == locality
    assert localizations(loaded) == localizations(model)
    images = torch.randn(1, 3, side, side)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize(
    ("locality", "message"),
    [
        ({"permutd": True}, r"locality has no field 'permutd'; its fields are .*Did you mean permuted\?"),
        ({"permuted": 1}, r"locality has permuted=1; it must be of type bool"),
        ({"kernel_size": True}, r"locality has kernel_size=True; it must be of type int"),
        ({"kernel_size": 2}, r"kernel_size is 2; it must be odd"),
        ({"permuted": True, "depthwise": False}, r"permuted is True and depthwise is False"),
    ],
)
@pytest.mark.parametrize("name", FAMILIES)
def test_fields_that_do_not_exist_or_fit_are_refused(name: str, locality: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(name, locality=locality)


def test_every_registered_model_takes_fields_of_its_locality() -> None:
    for name in timm.list_models("localvit_*"):
        with torch.device("meta"):
            model = timm.create_model(name, locality={"expansion_ratio": 2})
        assert {module.config.expansion_ratio for module in feed_forwards(model)} == {2}
