"""The DeiT family of LocalViT: sizes to the digit, timm's interface, compilation and export."""

from typing import Any

import pytest
import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, resolve_model_data_config

import localvit
from localvit.models.costs import count_macs, count_parameters

MODELS = timm.list_models("localvit_tiny*") + timm.list_models("localvit_small*")
# Rows of the paper's ablations, on its body, DeiT-T with 4 heads, that no study has: tests/studies has the others.
ABLATIONS = [
    ({"depthwise": False, "activation": "relu6", "expansion_ratio": 6}, 7_503_016, 1_596_960_768),
    ({"activation": "relu6", "expansion_ratio": 6}, 7_655_080, 1_621_346_304),
]


def tiny(**arguments: Any) -> Any:
    """LocalViT-T on small images, so that a test takes no time."""
    return timm.create_model("localvit_tiny_patch16_224", **({"img_size": 64, "depth": 2} | arguments))


@pytest.mark.parametrize(("config", "parameters", "macs"), ABLATIONS, ids=str)
def test_costs_of_the_ablations_equal_the_table(config: dict[str, Any], parameters: int, macs: int) -> None:
    body = timm.create_model("deit_tiny_patch16_224", num_heads=4)
    model = localvit.localize(body, localvit.LocalityConfig(**config))
    assert (count_parameters(model), count_macs(model, (3, 224, 224))) == (parameters, macs)


@pytest.mark.parametrize("name", MODELS)
def test_timm_lists_and_creates_the_model(name: str) -> None:
    assert name in timm.list_models("localvit*")
    model: Any = timm.create_model(name, img_size=(64, 96), num_classes=7, in_chans=1, drop_path_rate=0.1).eval()
    assert model(torch.randn(1, 1, 64, 96)).shape == (1, 7)
    rates = [block.drop_path1.drop_prob for block in model.blocks[1:]]
    assert rates == pytest.approx([0.1 * layer / 11 for layer in range(1, 12)])


def test_evaluation_transform_is_the_papers() -> None:
    data = resolve_model_data_config(timm.create_model("localvit_tiny_patch16_224"))
    assert data["input_size"] == (3, 224, 224)
    assert data["crop_pct"] == pytest.approx(224 / 256)
    assert data["interpolation"] == "bicubic"
    assert (data["mean"], data["std"]) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (80, 48)])
def test_dynamic_image_sizes(size: tuple[int, int]) -> None:
    assert tiny(dynamic_img_size=True).eval()(torch.randn(1, 3, *size)).shape == (1, 1000)


@pytest.mark.slow
def test_compiled_without_graph_breaks_it_agrees_with_eager() -> None:
    model, images = timm.create_model("localvit_tiny_patch16_224").eval(), torch.randn(2, 3, 224, 224)
    compiled: Any = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_exported_with_a_dynamic_batch_it_agrees_with_eager() -> None:
    model = timm.create_model("localvit_tiny_patch16_224").eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (torch.randn(2, 3, 224, 224),), dynamic_shapes=({0: batch},)).module()
    for size in (1, 2, 5):
        images = torch.randn(size, 3, 224, 224)
        with torch.no_grad():
            torch.testing.assert_close(exported(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_compiled_with_gradient_checkpointing_on_varying_sizes() -> None:
    model = tiny(dynamic_img_size=True).train()
    model.set_grad_checkpointing(True)
    compiled: Any = torch.compile(model, fullgraph=True, backend="aot_eager")
    for size in ((64, 96), (96, 64)):
        compiled(torch.randn(2, 3, *size)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
