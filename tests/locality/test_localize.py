"""Placement: which layers get the mechanism, and that nothing else of the model changes."""

from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from localvit import LocalityConfig, LocalityFeedForward, localize
from localvit.locality.localize import select_layers

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}
LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "class token": ("deit_tiny_patch16_224", {}),
    "no prefix token": ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}),
    "distillation token": ("deit_tiny_distilled_patch16_224", {}),
    "class token and registers": ("vit_tiny_patch16_224", {"reg_tokens": 4}),
    "layer scale, qk-norm": ("vit_tiny_patch16_224", {"init_values": 1e-5, "qk_norm": True}),
}


def small_vit(**arguments: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model("deit_tiny_patch16_224", **(SMALL | arguments))


@pytest.mark.parametrize(
    ("layers", "selected"),
    [
        ("all", range(12)),
        ("low", range(4)),
        ("middle", range(4, 8)),
        ("high", range(8, 12)),
        ([0, -1, 5], [0, 5, 11]),
        ((3,), [3]),
    ],
)
def test_layers_are_selected_by_name_or_index(layers: Any, selected: Any) -> None:
    assert select_layers(layers, 12) == tuple(selected)


@given(st.integers(3, 60))
def test_thirds_and_layers_can_be_listed_together(depth: int) -> None:
    expected = sorted({*select_layers("low", depth), *select_layers("middle", depth), depth - 1})
    assert list(select_layers(["middle", "low", -1], depth)) == expected


@given(st.integers(3, 60))
def test_thirds_partition_the_depth_and_differ_by_one_at_most(depth: int) -> None:
    thirds = [select_layers(third, depth) for third in ("low", "middle", "high")]
    assert sum(thirds, ()) == tuple(range(depth))
    sizes = [len(third) for third in thirds]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("lower", r"layers has 'lower'; it must be one of all, low, middle, high, or a list"),
        (["low", "top"], r"layers has 'top'; it must be one of"),
        (["low", 0], r"names a layer twice"),
        ([3, 12], r"layers has 12; a transformer of 12 layers has -12 to 11"),
        ([1, -11], r"names a layer twice"),
        ([], r"of 12 layers that selects none"),
    ],
)
def test_layers_that_are_not_there_are_refused(layers: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select_layers(layers, 12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_token_layout_runs_and_keeps_timms_interface(layout: str) -> None:
    name, arguments = LAYOUTS[layout]
    baseline: Any = timm.create_model(name, **(SMALL | arguments)).eval()
    model: Any = localize(
        timm.create_model(name, **(SMALL | arguments)), LocalityConfig(channel_attention="eca")
    ).eval()
    images = torch.randn(2, 3, 32, 32)

    assert isinstance(model, type(baseline))
    for pass_name in ("forward_features", "forward"):
        assert getattr(model, pass_name)(images).shape == getattr(baseline, pass_name)(images).shape
    final, maps = model.forward_intermediates(images, indices=[0, 2], norm=True)
    assert torch.equal(final, model.forward_features(images))
    prefix = baseline.num_prefix_tokens
    assert torch.equal(maps[1].flatten(2).transpose(1, 2), final[:, prefix:])
    assert [tuple(feature.shape) for feature in maps] == [(2, 24, 4, 4)] * 2


@pytest.mark.parametrize("options", [{"stop_early": True}, {"output_fmt": "NLC"}, {"return_prefix_tokens": True}])
@pytest.mark.parametrize("result", [{}, {"intermediates_only": True}, {"output_dict": True}])
def test_intermediates_of_unlocalized_layers_are_timms_in_every_form(
    options: dict[str, Any], result: dict[str, Any]
) -> None:
    # Only the last layer differs, so all that comes before it must be timm's to the bit.
    baseline = small_vit().eval()
    model: Any = localize(small_vit(), layers=[-1]).eval()
    images = torch.randn(2, 3, 32, 32)
    if "intermediates_only" not in result:
        options = {**options, "stop_early": True}
    torch.testing.assert_close(
        model.forward_intermediates(images, [0, 1], **options, **result),
        baseline.forward_intermediates(images, [0, 1], **options, **result),
        rtol=0,
        atol=0,
    )


def test_a_localized_model_is_its_baseline_but_for_the_feed_forward() -> None:
    baseline, model = small_vit(), localize(small_vit(), layers="middle")
    before, after = baseline.state_dict(), model.state_dict()
    gone = [key for key in before if key not in after]
    assert all(key.startswith(("blocks.1.norm2", "blocks.1.mlp")) for key in gone)
    assert all(key.startswith("blocks.1.mlp.locality.") for key in after if key not in before)
    assert all(torch.equal(after[key], before[key]) for key in after if key in before)
    assert isinstance(model.get_submodule("blocks.1.mlp.locality"), LocalityFeedForward)


def test_stochastic_depth_stays_on_attention_and_leaves_the_locality_branch() -> None:
    model: Any = localize(small_vit(drop_path_rate=0.2))
    last = model.get_submodule("blocks.2")
    assert last.get_submodule("drop_path1").drop_prob == pytest.approx(0.2)
    assert isinstance(last.get_submodule("drop_path2"), nn.Identity)


def test_dtype_and_mode_follow_the_model() -> None:
    model: Any = localize(small_vit().double().eval())
    block = model.get_submodule("blocks.0.mlp.locality")
    assert {parameter.dtype for parameter in block.parameters()} == {torch.float64}
    assert not block.training


def test_other_layers_can_be_localized_another_way() -> None:
    # The paper's placement study: everywhere the block, only in the low third its depth-wise convolution.
    model: Any = localize(small_vit(), LocalityConfig(depthwise=False), layers=[1, 2])
    model = localize(model, LocalityConfig(), layers="low")
    depthwise = [module.config.depthwise for module in model.modules() if isinstance(module, LocalityFeedForward)]
    assert depthwise == [True, False, False]


def test_two_image_sizes_may_run_forward_before_either_runs_backward() -> None:
    # 2 x 8 and 4 x 4 patches are as many tokens, so a grid remembered from the other size would pass unseen.
    # Localized in two calls, which must share what they know of the grid.
    model: Any = localize(localize(small_vit(dynamic_img_size=True), layers="low"), layers=[1, 2]).double().train()
    model.set_grad_checkpointing(True)
    images = [torch.randn(2, 3, 16, 64, dtype=torch.float64), torch.randn(2, 3, 32, 32, dtype=torch.float64)]

    def gradients(together: bool) -> list[torch.Tensor]:
        model.zero_grad()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
        if together:
            (model(images[0]).square().sum() + model(images[1]).square().sum()).backward()
        else:
            for batch in images:
                model(batch).square().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    for apart, together in zip(gradients(together=False), gradients(together=True), strict=True):
        torch.testing.assert_close(apart, together, rtol=1e-9, atol=1e-9)


def test_checkpointing_that_was_on_stays_on() -> None:
    model = small_vit(dynamic_img_size=True).train()
    model.set_grad_checkpointing(True)
    localize(model, layers="low")
    calls: list[str] = []
    model.blocks[2].norm1.register_forward_hook(lambda *_: calls.append("forward"))
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert calls == ["forward"] * 2


def test_gradient_checkpointing_changes_no_gradient() -> None:
    images = torch.randn(2, 3, 32, 32)
    gradients = []
    for enable in (False, True):
        model: Any = localize(small_vit()).train()
        model.load_state_dict(_fixed_weights(model))
        model.set_grad_checkpointing(enable)
        model(images).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(gradients[0], gradients[1])
    assert all(gradient is not None for gradient in gradients[0].values())


def _fixed_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        key: torch.rand(value.shape, generator=generator) * 0.2 if value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }


def test_a_convolutional_network_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cannot localize a ResNet: no token layout is known for it\. Known are Beit"):
        localize(timm.create_model("resnet10t"))


def test_a_layer_cannot_be_localized_twice() -> None:
    with pytest.raises(ValueError, match=r"layer 1 is already localized"):
        localize(localize(small_vit(), layers=[1]))


def test_a_block_of_another_shape_is_refused_and_the_model_left_alone() -> None:
    model = small_vit(block_fn=timm.models.vision_transformer.ParallelScalingBlock)
    with pytest.raises(ValueError, match=r"layer 0 is a ParallelScalingBlock"):
        localize(model)
    assert type(model) is timm.models.VisionTransformer


def test_dropped_patches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"patch_drop_rate"):
        localize(small_vit(patch_drop_rate=0.5))
