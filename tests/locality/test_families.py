"""Every row of docs/families.md, repeated; and a family that the project does not know."""

import copy
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import localvit
from localvit.locality.families import supported_families
from localvit.locality.hidden import HiddenLocality
from localvit.locality.layouts import grid_from_image
from localvit.locality.localize import localizations

DOCS = Path(__file__).parents[2] / "docs"


def load_script() -> ModuleType:
    """The script that writes the page."""
    spec = importlib.util.spec_from_file_location("families", DOCS / "families.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = load_script()
ROWS = [
    [cell.strip(" `") for cell in line.strip("|").split("|")]
    for line in (DOCS / "families.md").read_text().splitlines()
    if line.startswith("| `")
]


def test_the_page_is_what_the_script_tries() -> None:
    assert [row[0] for row in ROWS] == list(SCRIPT.MODELS)
    assert len(ROWS) >= 25
    assert len({row[1] for row in ROWS}) >= 12
    # Those of transformers are known by the class that all models of a family share.
    assert {row[1] for row in ROWS if not row[0].startswith("transformers/")} <= set(supported_families())


FIRST_OF_CLASS = {row[1]: row[0] for row in reversed(ROWS) if "_base_" not in row[0]}.values()


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row[0], marks=[] if row[0] in FIRST_OF_CLASS else [pytest.mark.slow]) for row in ROWS],
)
def test_residual_mode_is_exact_and_replace_mode_trains(row: list[str]) -> None:
    if row[0].startswith("transformers/"):
        pytest.importorskip("transformers", reason="the extra transformers is not installed")
    kind, layers, exact, learned = SCRIPT.try_model(row[0])
    assert (kind, str(layers)) == (row[1], row[3])
    assert exact < 1e-5
    assert learned > 1e-4


WIDE: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "naflexvit_base_patch16_gap": ({"depth": 1}, (64, 128)),
    "pit_ti_224": ({"img_size": (96, 192)}, (96, 192)),
    "maxvit_rmlp_pico_rw_256": ({"img_size": (128, 256)}, (128, 256)),
    "swinv2_cr_tiny_224": ({"img_size": (112, 224)}, (112, 224)),
    "crossvit_tiny_240": ({"img_size": (240, 480)}, (240, 480)),
    "coat_lite_tiny": ({"img_size": (64, 128)}, (64, 128)),
    "torchvision/swin_t": ({}, (64, 128)),
    "transformers/vit": ({"image_size": (64, 128)}, (64, 128)),
    "transformers/swin": ({"image_size": (64, 128)}, (64, 128)),
}


@pytest.mark.parametrize("name", WIDE)
def test_a_wide_image_has_a_wide_grid(name: str) -> None:
    arguments, size = WIDE[name]
    if name.startswith("transformers/"):
        pytest.importorskip("transformers", reason="the extra transformers is not installed")
    model = SCRIPT.create(name, **arguments)[0]
    localvit.localize(model.eval(), mode="residual")
    seen: list[tuple[int, int]] = []
    for module in model.modules():
        if isinstance(module, HiddenLocality):
            module.depthwise.register_forward_hook(lambda _, args, output: seen.append(args[0].shape[-2:]))
    with torch.no_grad():
        model(torch.randn(1, 3, *size))
    assert len(seen) == sum(isinstance(module, HiddenLocality) for module in model.modules())
    assert all(1.7 < width / height < 2.2 for height, width in seen)  # edges are padded or cut


def test_torchvision_models_are_saved_and_loaded_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = {"patch_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32, "num_classes": 3}
    model = localvit.localize(torchvision.models.VisionTransformer(image_size=32, **small).eval(), mode="residual")
    for module in model.modules():
        if isinstance(module, HiddenLocality):
            nn.init.normal_(module.depthwise.weight, std=0.1)
    localvit.save_checkpoint(model, tmp_path / "model.safetensors")
    loaded = torchvision.models.VisionTransformer(image_size=32, **small).eval()
    localvit.load_checkpoint(loaded, tmp_path / "model.safetensors")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images), model(images))
    with pytest.raises(ValueError, match="layer 0 is already localized"):
        localvit.localize(model, mode="residual")


class Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = timm.layers.Mlp(dim, 2 * dim)
        self.drop_path2 = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.drop_path2(self.mlp(self.norm2(x)))
        return out


class Mine(nn.Module):
    """A transformer of somebody else, without attention, so that only locality can move information."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = timm.layers.PatchEmbed(img_size=None, patch_size=4, embed_dim=8, strict_img_size=False)
        self.layers = nn.Sequential(Block(8), Block(8), Block(8))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(self.embed(x))
        return out


def test_a_layout_can_be_registered_for_a_model_of_ones_own() -> None:
    with pytest.raises(ValueError, match=r"cannot localize a Mine: no token layout is known"):
        localvit.localize(Mine())
    layout = localvit.TokenLayout(blocks=lambda model: list(model.layers), watch=grid_from_image("embed"))
    localvit.register_layout(Mine, layout)
    model = localvit.localize(Mine(), layers=[1]).eval()

    images = torch.randn(1, 3, 20, 36)
    changed = images.clone()
    changed[:, :, 8:12, 16:20] += 1  # the patch in row 2, column 4 of a grid of 5 x 9
    moved = (model(images) != model(changed)).any(-1).view(5, 9).nonzero().tolist()
    assert moved == [[row, column] for row in (1, 2, 3) for column in (3, 4, 5)]


@pytest.mark.parametrize("mode", ["replace", "residual"])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "pvt_v2_b0"])
def test_a_saved_model_is_restored_into_a_fresh_one(name: str, mode: Any, tmp_path: Path) -> None:
    config = localvit.LocalityConfig(expansion_ratio=2, channel_attention="eca", activation="silu")
    saved: Any = localvit.localize(timm.create_model(name, num_classes=3), config, layers="low", mode=mode).eval()
    localvit.save_checkpoint(saved, tmp_path / "model.safetensors")
    fresh: Any = timm.create_model(name, num_classes=3).eval()

    localvit.load_checkpoint(fresh, tmp_path / "model.safetensors")

    images = torch.randn(2, 3, 224, 224)
    assert localizations(fresh) == localizations(saved)
    assert not fresh.training
    with torch.no_grad():
        assert torch.equal(fresh(images), saved(images))


def test_a_model_localized_otherwise_is_refused(tmp_path: Path) -> None:
    def model(activation: Any) -> nn.Module:
        body = timm.create_model("vit_tiny_patch16_224", depth=2)
        return localvit.localize(body, localvit.LocalityConfig(activation=activation))

    # Another activation has the same tensors, so only the saved configuration can tell.
    localvit.save_checkpoint(model("relu6"), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"localized as .*relu6.*this one is localized as .*hswish"):
        localvit.load_checkpoint(model("hswish"), tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "add"}, r"mode is 'add'; it must be replace or residual"),
        ({"config": localvit.LocalityConfig(residual=False)}, r"residual is False"),
        ({"config": localvit.LocalityConfig(depthwise=False), "mode": "residual"}, r"depthwise is False"),
        ({"layers": [7]}, r"layers has 7; a transformer of 2 layers has -2 to 1"),
    ],
)
def test_what_cannot_be_localized_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        localvit.localize(timm.create_model("vit_tiny_patch16_224", depth=2), **arguments)


def test_a_second_residual_localization_of_a_layer_is_refused() -> None:
    model = localvit.localize(timm.create_model("vit_tiny_patch16_224", depth=2), mode="residual")
    with pytest.raises(ValueError, match=r"layer 0 is already localized"):
        localvit.localize(model, layers=[0])


def test_a_shared_stochastic_depth_stays_on_attention_alone() -> None:
    model: Any = localvit.localize(timm.create_model("tnt_s_legacy_patch16_224", depth=2, drop_path_rate=0.9)).train()
    block, tokens = model.blocks[1], torch.randn(64, 17, 384)
    assert isinstance(block.drop_path, nn.Identity)
    dropped = block.attn_out(tokens).flatten(1).abs().sum(1) == 0
    assert 0.7 < dropped.float().mean() < 1


def test_a_localized_model_can_be_copied_and_the_copy_sees_its_own_grid() -> None:
    model: Any = localvit.localize(timm.create_model("vit_tiny_patch16_224", depth=2, dynamic_img_size=True)).eval()
    twin = copy.deepcopy(model)
    small, large = torch.randn(1, 3, 64, 96), torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        expected = model(small)
        twin(large)
        assert torch.equal(model(small), expected)
        assert torch.equal(twin(small), expected)
