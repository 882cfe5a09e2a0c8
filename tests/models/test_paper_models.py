"""All models of the paper and their baselines: published sizes and weights, timm's interface, compilation."""

import argparse
import http.server
import json
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from packaging.version import Version
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

import localvit
from localvit import LocalityConfig, localize
from localvit.models.costs import count_macs, count_parameters
from localvit.models.official_keys import from_official, to_official

OFFICIAL = json.loads((Path(__file__).parent / "official_state_dicts.json").read_text())
PARITY = Path(__file__).parent.parent / "parity"
OFFICIAL_NAME = {
    "localvit_tiny_patch16_224": "localvit_tiny_mlp4_act3_r192",
    "localvit_tiny_se4_patch16_224": "localvit_tiny_mlp4_act3_r4",
    "localvit_tiny_relu6_mlp6_patch16_224": "localvit_tiny_mlp6_act1",
    "localvit_small_patch16_224": "localvit_small_mlp4_act3_r384",
    "localvit_t2t_7": "localvit_T2t_conv7",
    "localvit_pvt_tiny": "localvit_pvt_tiny",
    "localvit_tnt_tiny_patch16_224": "localvit_tnt_t_patch16_224",
    "localvit_tnt_small_patch16_224": "localvit_tnt_s_patch16_224",
    "localvit_swin_tiny_patch4_window7_224": "localvit_swin_tiny_patch4_window7_224",
    "deit_tiny_patch16_224": "deit_tiny_patch16_224",
    "deit_small_patch16_224": "deit_small_patch16_224",
    "t2t_vit_7": "T2t_vit_7",
    "pvt_tiny": "pvt_tiny",
    "tnt_tiny_patch16_224": "tnt_t_patch16_224",
    "swin_tiny_patch4_window7_224": "swin_tiny_patch4_window7_224",
}
RELEASED = {
    "localvit_tiny_patch16_224": "localvit_t.pth",
    "localvit_tiny_se4_patch16_224": "localvit_t_se4.pth",
    "localvit_small_patch16_224": "localvit_s.pth",
    "localvit_pvt_tiny": "localvit_pvt.pth",
    "localvit_tnt_tiny_patch16_224": "localvit_tnt.pth",
    "localvit_swin_tiny_patch4_window7_224": "localvit_swin.pth",
}
# One model an architecture, small enough for a test, with the channels and strides of its feature maps.
SMALL: dict[str, dict[str, Any]] = {
    "localvit_tiny_patch16_224": {"img_size": 64, "depth": 2},
    "localvit_t2t_7": {"img_size": 64, "depth": 2},
    "localvit_pvt_tiny": {"img_size": 64},
    "localvit_tnt_tiny_patch16_224": {"img_size": 64, "depth": 2},
    "localvit_swin_tiny_patch4_window7_224": {"img_size": 224, "depths": (1, 2), "num_heads": (3, 6)},
}
# Compiling and exporting take long: LocalViT-T stands for all in daily work, and the slow tests try the others.
QUICKEST_TO_COMPILE = [
    name if name == "localvit_tiny_patch16_224" else pytest.param(name, marks=pytest.mark.slow) for name in SMALL
]
# Bfloat16 is emulated on many CPUs, and Swin needs images of 224 pixels.
IN_BFLOAT16 = [pytest.param(name, marks=pytest.mark.slow) if "swin" in name else name for name in SMALL]
MAPS = {
    "localvit_tiny_patch16_224": ([192, 192], [16, 16]),
    "localvit_t2t_7": ([256, 256], [16, 16]),
    "localvit_pvt_tiny": ([64, 128], [4, 8]),
    "localvit_tnt_tiny_patch16_224": ([192, 192], [16, 16]),
    "localvit_swin_tiny_patch4_window7_224": ([96, 192], [4, 8]),
}
RECTANGLE = (64, 96)


def small(name: str, **arguments: Any) -> Any:
    torch.manual_seed(0)
    model: Any = timm.create_model(name, **(SMALL[name] | {"num_classes": 5} | arguments))
    return model


def images(name: str, batch: int = 2, channels: int = 3) -> Tensor:
    size = SMALL[name]["img_size"]
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


def official_tensors(name: str) -> dict[str, Tensor]:
    """Deterministic values for every key of an official file, each tensor another."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.rand(shape, generator=generator) if shape else torch.tensor(7)
        for key, shape in OFFICIAL[OFFICIAL_NAME[name]]["state_dict"].items()
    }


@pytest.mark.parametrize("name", OFFICIAL_NAME)
def test_parameters_and_macs_equal_the_authors(name: str) -> None:
    model, official = timm.create_model(name), OFFICIAL[OFFICIAL_NAME[name]]
    assert (count_parameters(model), count_macs(model, (3, 224, 224))) == (official["parameters"], official["macs"])


@pytest.mark.parametrize("name", OFFICIAL_NAME)
def test_every_official_tensor_finds_its_place_and_goes_back(name: str) -> None:
    model, official = timm.create_model(name), official_tensors(name)
    derived = {key for key in official if key.endswith(("relative_position_index", "attn_mask"))}
    model.load_state_dict(from_official(official, model), strict=True)
    back = to_official(model.state_dict(), model)
    assert back.keys() == official.keys()
    for key in official.keys() - derived:
        assert torch.equal(back[key], official[key]), key
    for key in derived:  # they follow from the architecture, whatever a file says
        assert back[key].shape == official[key].shape


def parity_model(name: str) -> nn.Module:
    """The body of a parity file, localized; DeiT's are in test_checkpoints."""

    def se(reduction: int, ratio: float = 4) -> LocalityConfig:
        return LocalityConfig(expansion_ratio=ratio, channel_attention="se", se_reduction=reduction)

    if name == "swin":
        return timm.create_model(
            "localvit_swin_tiny_patch4_window7_224", img_size=56, embed_dim=16, depths=(2, 2), num_heads=(2, 4),
            num_classes=10,
        )  # fmt: skip
    if name == "tnt":
        body = timm.create_model(
            "tnt_tiny_patch16_224", img_size=48, embed_dim=32, inner_dim=8, depth=2, num_heads_outer=4,
            num_heads_inner=2, num_classes=10,
        )  # fmt: skip
        return localize(body, se(32))
    if name == "pvt":
        return timm.create_model(
            "localvit_pvt_tiny", img_size=64, embed_dims=(16, 32, 40, 64), depths=(1, 1, 1, 2),
            num_heads=(1, 2, 5, 8), num_classes=10,
        )  # fmt: skip
    return timm.create_model(
        "localvit_t2t_7", img_size=64, embed_dim=32, token_dim=16, depth=2, num_heads=2, num_classes=10
    )


@pytest.mark.parametrize(("name", "tolerance"), [("swin", 1e-6), ("tnt", 1e-6), ("pvt", 1e-6), ("t2t", 5e-6)])
def test_the_authors_weights_give_the_authors_logits(name: str, tolerance: float) -> None:
    tensors = safetensors.torch.load_file(PARITY / f"{name}.safetensors")
    official = {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
    model = parity_model(name)
    model.load_state_dict(from_official(official, model))
    with torch.no_grad():
        logits = model.double().eval()(tensors["input"].double())
    torch.testing.assert_close(logits, tensors["logits"].double(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", SMALL)
def test_intermediates_and_feature_maps(name: str) -> None:
    model, (channels, strides) = small(name).eval(), MAPS[name]
    batch = images(name)
    with torch.no_grad():
        final, maps = model.forward_intermediates(batch, indices=[0, 1])
        torch.testing.assert_close(final, model.forward_features(batch))
        torch.testing.assert_close(model.forward_head(model.forward_features(batch)), model(batch))
        extractor = small(name, features_only=True, out_indices=[0, 1]).eval()
        features = extractor(batch)
    assert extractor.feature_info.channels() == channels
    assert extractor.feature_info.reduction() == strides
    for feature, intermediate, channel, stride in zip(features, maps, channels, strides, strict=True):
        side = batch.shape[-1] // stride
        assert feature.shape == intermediate.shape == (2, channel, side, side)


@pytest.mark.parametrize("name", SMALL)
def test_classifier_pooling_and_channels_follow_timm(name: str) -> None:
    model, batch = small(name).eval(), images(name)
    assert model.get_classifier().out_features == 5
    model.reset_classifier(3)
    assert model(batch).shape == (2, 3)
    model.reset_classifier(0)
    assert model(batch).shape == (2, model.num_features)
    assert small(name, num_classes=0).eval()(batch).shape == (2, model.num_features)
    assert small(name, global_pool="avg").eval()(batch).shape == (2, 5)
    assert small(name, in_chans=1).eval()(images(name, channels=1)).shape == (2, 5)


@pytest.mark.parametrize("name", SMALL)
def test_a_single_image_gives_what_it_gives_in_a_batch(name: str) -> None:
    model, batch = small(name).eval(), images(name)
    with torch.no_grad():
        torch.testing.assert_close(model(batch)[:1], model(batch[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_layer_decay_and_weight_decay_groups_cover_the_model(name: str) -> None:
    model = small(name)
    groups = param_groups_layer_decay(model, weight_decay=0.05, no_weight_decay_list=model.no_weight_decay())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sum(len(group["params"]) for group in groups) == len(trained)
    scales = {group["lr_scale"] for group in groups}
    assert len(scales) > 2
    by_parameter = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    blocks = [module for module in model.modules() if isinstance(module, localvit.LocalityFeedForward)]
    first, last = (by_parameter[id(next(block.parameters()))] for block in (blocks[0], blocks[-1]))
    assert first < last


@pytest.mark.parametrize("name", SMALL)
def test_gradient_checkpointing_changes_no_gradient(name: str) -> None:
    gradients = []
    for enable in (False, True):
        model = small(name).train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        model.set_grad_checkpointing(enable)
        model(images(name)).square().sum().backward()
        gradients.append({key: value.grad for key, value in model.named_parameters() if value.grad is not None})
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in SMALL if "swin" not in name])
def test_rectangular_images(name: str) -> None:
    assert small(name, img_size=RECTANGLE).eval()(torch.randn(1, 3, *RECTANGLE)).shape == (1, 5)


def test_swin_takes_rectangles_that_its_windows_fit() -> None:
    name = "localvit_swin_tiny_patch4_window7_224"
    assert small(name, img_size=(224, 336)).eval()(torch.randn(1, 3, 224, 336)).shape == (1, 5)
    with pytest.raises(AssertionError, match=r"[Ii]nput.*(height|size)"):
        small(name)(torch.randn(1, 3, 100, 224))


@pytest.mark.parametrize("name", ["localvit_t2t_7", "localvit_pvt_tiny"])
def test_any_image_size_of_the_grid(name: str) -> None:
    model = small(name).eval()
    for size in ((64, 96), (96, 64), (128, 128)):
        assert model(torch.randn(1, 3, *size)).shape == (1, 5)


@pytest.mark.parametrize("name", QUICKEST_TO_COMPILE)
def test_compiled_without_graph_breaks_it_agrees_with_eager(name: str) -> None:
    model, batch = small(name).eval(), images(name)
    compiled: Any = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(batch), model(batch), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.14"), reason="torch 2.6 lets no hook run inside of a compiled checkpoint"
)
@pytest.mark.parametrize("name", QUICKEST_TO_COMPILE)
def test_compiled_with_gradient_checkpointing_it_trains(name: str) -> None:
    model, batch = small(name).train(), images(name)
    model.set_grad_checkpointing(True)
    # The quick backend cannot run backward through T2T's soft splits, with locality or without.
    compiled: Any = torch.compile(model, fullgraph=True, backend="inductor" if "t2t" in name else "aot_eager")
    compiled(batch).square().sum().backward()
    require_finite_gradients(model)


@pytest.mark.parametrize("name", QUICKEST_TO_COMPILE)
def test_exported_with_a_dynamic_batch_it_agrees_with_eager(name: str) -> None:
    model = small(name).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (images(name, 2),), dynamic_shapes=({0: batch},)).module()
    for size in (1, 3):
        with torch.no_grad():
            torch.testing.assert_close(exported(images(name, size)), model(images(name, size)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", IN_BFLOAT16)
def test_bf16_autocast_is_near_and_trains_every_parameter(name: str) -> None:
    model, batch = small(name), images(name, 4)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        low = model.eval()(batch).float()
    with torch.no_grad():
        full = model(batch)
    assert (low - full).abs().max() < 0.05 * full.abs().max().clamp(min=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss: Tensor = nn.functional.cross_entropy(model.train()(batch), torch.arange(4))
    loss.backward()
    require_finite_gradients(model)


@pytest.mark.parametrize("name", IN_BFLOAT16)
def test_weights_in_bf16_train_too(name: str) -> None:
    model = small(name).to(torch.bfloat16).train()
    logits = model(images(name, 4).to(torch.bfloat16))
    assert logits.dtype == torch.bfloat16
    loss: Tensor = nn.functional.cross_entropy(logits.float(), torch.arange(4))
    loss.backward()
    require_finite_gradients(model)


def require_finite_gradients(model: nn.Module) -> None:
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key


def released_file(name: str, folder: Path) -> Path:
    """A file as the authors released it: a pickle of a dict with their tensors beside their arguments."""
    path = folder / RELEASED[name]
    arguments = argparse.Namespace(model=OFFICIAL_NAME[name], lr=5e-4, batch_size=128)
    torch.save({"model": official_tensors(name), "epoch": 299, "args": arguments}, path)
    return path


@pytest.mark.parametrize("name", RELEASED)
def test_pretrained_weights_load_from_a_released_file(name: str, tmp_path: Path) -> None:
    path = released_file(name, tmp_path)
    overlay = {"file": str(path)}
    model: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    expected: Any = timm.create_model(name)
    localvit.load_checkpoint(expected, path)
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=0, atol=0)
    url = model.pretrained_cfg["url"]
    assert url == f"https://github.com/ofsoundof/LocalViT/releases/download/v1.0.0/{RELEASED[name]}"

    grey: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, in_chans=1, num_classes=7)
    stem = expected.pretrained_cfg["first_conv"] + ".weight"
    torch.testing.assert_close(grey.state_dict()[stem], expected.state_dict()[stem].sum(1, keepdim=True))
    assert grey.get_classifier().out_features == 7


@pytest.mark.parametrize("name", ["localvit_tiny_patch16_224", "localvit_pvt_tiny"])
def test_pretrained_weights_fit_another_image_size(name: str, tmp_path: Path) -> None:
    overlay = {"file": str(released_file(name, tmp_path))}
    model: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, img_size=(128, 192)).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 128, 192)).shape == (1, 1000)


def test_pretrained_weights_are_downloaded(tmp_path: Path) -> None:
    name = "localvit_tiny_patch16_224"
    released_file(name, tmp_path)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        overlay = {"url": f"http://127.0.0.1:{server.server_port}/{RELEASED[name]}"}
        model = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, cache_dir=str(tmp_path / "cache")
        )
        server.shutdown()
    expected = timm.create_model(name)
    localvit.load_checkpoint(expected, tmp_path / RELEASED[name])
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=0, atol=0)
