"""A fused copy gives what the model gives: all models of the paper, localized ones of timm, exported and compiled."""

import copy
from functools import partial
from itertools import product
from typing import Any, get_args

import pytest
import timm
import torch
from torch import Tensor, nn

import localvit
from localvit import LocalityConfig, LocalityFeedForward
from localvit.locality.channel_attention import channel_attention
from localvit.locality.config import Activation, ChannelAttention
from localvit.locality.kernels.attend import gates
from localvit.locality.kernels.fuse import FusedFeedForward, FusedHiddenLocality

TWINS = [
    "localvit_tiny_patch16_224",
    "localvit_tiny_relu6_mlp6_patch16_224",
    "localvit_t2t_7",
    "localvit_pvt_tiny",
    "localvit_tnt_tiny_patch16_224",
    "localvit_swin_tiny_patch4_window7_224",
]


def trained(model: nn.Module) -> nn.Module:
    """The model as training leaves it: no batch norm and no hidden locality does nothing."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            nn.init.normal_(module.weight, 0, 0.3)
    return model.eval()


def largest_difference(model: nn.Module, other: nn.Module, images_BCHW: Tensor) -> float:
    with torch.inference_mode():
        return float((model(images_BCHW) - other(images_BCHW)).abs().max())


@pytest.mark.parametrize("name", TWINS)
def test_models_of_the_paper_give_the_same_outputs(name: str) -> None:
    model = trained(timm.create_model(name, num_classes=10))
    fused = localvit.fuse(model)
    assert any(isinstance(module, FusedFeedForward) for module in fused.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert largest_difference(model, fused, torch.randn(2, 3, 224, 224)) < 1e-5


@pytest.mark.parametrize("activation", get_args(Activation))
@pytest.mark.parametrize("attention", get_args(ChannelAttention))
def test_every_mechanism_is_fused_in_float64_to_the_last_digits(
    activation: Activation, attention: ChannelAttention
) -> None:
    for kernel_size, depthwise in product((1, 3, 5), (True, False)):
        config = LocalityConfig(
            activation=activation, channel_attention=attention, kernel_size=kernel_size, depthwise=depthwise
        )
        model = trained(LocalityFeedForward(8, config, num_prefix_tokens=2).double())
        x_BND = torch.randn(3, 2 + 5 * 4, 8, dtype=torch.float64)
        fused = localvit.fuse(model)
        with torch.inference_mode():
            torch.testing.assert_close(fused(x_BND, (5, 4)), model(x_BND, (5, 4)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("attention", ["none", "se", "eca"])
@pytest.mark.parametrize("batch", [1, 5, 64])
def test_few_passes_and_public_operations_agree(attention: ChannelAttention, batch: int) -> None:
    """With gradients on, the public operations run; 64 images of 196 x 512 channels are more than one part."""
    model = trained(LocalityFeedForward(128, LocalityConfig(channel_attention=attention)))
    fused = localvit.fuse(model)
    x_BND = torch.randn(batch, 196, 128)
    with torch.inference_mode():
        in_few_passes_BND = fused(x_BND, (14, 14))
        expected_BND = model(x_BND, (14, 14))
    torch.testing.assert_close(in_few_passes_BND, expected_BND, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fused(x_BND, (14, 14)).detach(), expected_BND, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_as_near_to_the_truth_as_the_model_itself() -> None:
    model = trained(LocalityFeedForward(32, LocalityConfig(channel_attention="se")))
    x_BND = torch.randn(4, 49, 32)
    with torch.inference_mode():
        truth_BND = model(x_BND, (7, 7))
        plain_BND = copy.deepcopy(model).bfloat16()(x_BND.bfloat16(), (7, 7)).float()
        fused_BND = localvit.fuse(model).bfloat16()(x_BND.bfloat16(), (7, 7)).float()
    assert (fused_BND - truth_BND).abs().mean() < 1.1 * (plain_BND - truth_BND).abs().mean()


@pytest.mark.parametrize("mode", ["replace", "residual"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_tiny_patch16_224", {"img_size": 64, "depth": 3}),
        ("vit_small_patch14_reg4_dinov2", {"img_size": 56, "depth": 3}),
        ("pvt_v2_b0", {}),
        ("hiera_tiny_224", {}),
    ],
)
def test_localized_models_of_timm_are_fused(name: str, arguments: dict[str, Any], mode: str) -> None:
    layers = "all" if name.startswith("vit") or mode == "residual" else [1]
    model = timm.create_model(name, num_classes=5, **arguments)
    model = trained(localvit.localize(model, layers=layers, mode=mode))  # type: ignore[arg-type]
    fused = localvit.fuse(model)
    kind = FusedFeedForward if mode == "replace" else FusedHiddenLocality
    assert any(isinstance(module, kind) for module in fused.modules())
    side = arguments.get("img_size", 224)
    images_BCHW = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        torch.testing.assert_close(fused(images_BCHW), model(images_BCHW), rtol=1e-4, atol=1e-4)


def test_channel_attention_of_a_hidden_locality_stays() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5)
    config = LocalityConfig(channel_attention="eca")
    model = trained(localvit.localize(model, config, mode="residual"))
    assert largest_difference(model, localvit.fuse(model), torch.randn(2, 3, 32, 32)) < 1e-5


def test_the_model_itself_stays_as_it_was_and_can_be_trained_on() -> None:
    model = trained(timm.create_model("localvit_tiny_patch16_224", depth=1, img_size=32)).train()
    before = copy.deepcopy(model.state_dict())
    fused = localvit.fuse(model)
    assert model.training
    assert not fused.training
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    twice = localvit.fuse(fused)
    assert largest_difference(fused, twice, torch.randn(1, 3, 32, 32)) == 0


def test_a_model_without_locality_is_copied() -> None:
    model = timm.create_model("resnet10t", num_classes=5).eval()
    fused = localvit.fuse(model)
    assert fused is not model
    assert largest_difference(model, fused, torch.randn(1, 3, 32, 32)) == 0


@pytest.mark.slow
def test_exported_and_compiled_it_gives_the_same() -> None:
    model = trained(timm.create_model("localvit_tiny_patch16_224", depth=2, img_size=64, num_classes=5))
    fused = localvit.fuse(model)
    images_BCHW = torch.randn(2, 3, 64, 64)
    batch = torch.export.Dim("batch", min=2, max=64)
    with torch.inference_mode():
        expected_BK = model(images_BCHW)
    with torch.no_grad():
        exported = torch.export.export(fused, (images_BCHW,), dynamic_shapes={"x": {0: batch}})
        operations = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
        assert not any(name.startswith(("mkldnn", "localvit")) for name in operations)
        torch.testing.assert_close(exported.module()(images_BCHW), expected_BK, rtol=1e-4, atol=1e-4)
        seven_BCHW = torch.randn(7, 3, 64, 64)
        torch.testing.assert_close(exported.module()(seven_BCHW), model(seven_BCHW), rtol=1e-4, atol=1e-4)
        compiled = torch.compile(fused, fullgraph=True)
        torch.testing.assert_close(compiled(images_BCHW), expected_BK, rtol=1e-4, atol=1e-4)
        many_BCHW = torch.randn(33, 3, 64, 64)
        torch.testing.assert_close(compiled(many_BCHW), model(many_BCHW), rtol=1e-4, atol=1e-4)


def test_under_autocast_it_runs_the_public_operations() -> None:
    model = trained(LocalityFeedForward(16, LocalityConfig(channel_attention="se")))
    x_BND = torch.randn(2, 16, 16)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(
            localvit.fuse(model)(x_BND, (4, 4)).float(), model(x_BND, (4, 4)).float(), rtol=0.1, atol=0.1
        )


@pytest.mark.parametrize("channels", [32, 4])  # a matrix product, and few enough for a loop
def test_compiled_gates_are_those_of_the_module(channels: int) -> None:
    attention = channel_attention("se", 64, 64 // channels)
    mean_BC11 = torch.randn(3, 64, 1, 1)
    torch.compiler.reset()
    with torch.no_grad():
        compiled = torch.compile(partial(gates, attention), fullgraph=True)
        gates_B1C = compiled(mean_BC11.flatten(1)[:, None])
        expected_BC11 = attention(mean_BC11) / mean_BC11
    torch.testing.assert_close(gates_B1C[:, 0, :, None, None], expected_BC11, rtol=1e-4, atol=1e-5)
