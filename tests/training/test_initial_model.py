"""What a run starts from, against the weights in the file and PyTorch's own interpolation.

Shape suffixes: B images of a batch, C channels, H height, W width, N tokens, D channels of a token.
"""

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import use_fused_attn
from timm.models.swin_transformer import checkpoint_filter_fn
from torch import Tensor, nn
from torch.nn import functional as F

from localvit import LocalityConfig, localize
from localvit.data import InputConfig
from localvit.locality.localize import localizations
from localvit.models.official_keys import to_official
from localvit.models.weights.checkpoints import save_checkpoint
from localvit.models.weights.model_file import ModelDescription, load_model, save_model
from localvit.training import ModelConfig
from localvit.training.initial_model import attention, build_model

SHOWN = InputConfig((8, 8), 1, (0.3,), (0.37,), crop_fraction=1.0)
COLOUR = InputConfig((8, 8))
ARGUMENTS: dict[str, Any] = {"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2}
PLAIN = ModelConfig("deit_tiny_patch16_224", ARGUMENTS)
LOCALVIT = ModelConfig("localvit_tiny_patch16_224", {**ARGUMENTS, "embed_dim": 48})  # its se leaves fewer no channel
SWIN = ModelConfig(
    "swin_tiny_patch4_window7_224", {"patch_size": 2, "embed_dim": 12, "depths": (1, 1), "num_heads": (2, 2)}
)


def random_weights(model: nn.Module, seed: int = 3) -> nn.Module:
    """Weights that no initialisation gives, in buffers too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(0.3 * torch.randn(value.shape, generator=generator) + 1.0 * name.endswith("running_var"))
                if name.endswith("running_var"):
                    value.abs_()
    return model


def built(config: ModelConfig, shown: InputConfig = SHOWN, *, num_classes: int = 10, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(config, shown, num_classes=num_classes).eval()


def saved(
    folder: Path, config: ModelConfig = PLAIN, shown: InputConfig = SHOWN, *, num_classes: int = 10
) -> tuple[dict[str, Tensor], str]:
    """Weights of a trained model and the file they are in."""
    model = random_weights(build_model(config, shown, num_classes=num_classes))
    save_checkpoint(model, folder / "start.safetensors")
    return {key: value.clone() for key, value in model.state_dict().items()}, str(folder / "start.safetensors")


def logits(model: nn.Module, shown: InputConfig = SHOWN) -> Tensor:
    images_BCHW = torch.randn(3, shown.channels, *shown.image_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        answers: Tensor = model(images_BCHW)
    return answers


@pytest.mark.parametrize(
    "locality", [LocalityConfig(), LocalityConfig(channel_attention="se"), LocalityConfig(depthwise=False)]
)
@pytest.mark.parametrize("config", [PLAIN, SWIN])
def test_variants_start_from_the_baselines_weights(locality: LocalityConfig, config: ModelConfig) -> None:
    baseline = built(config, seed=7).state_dict()
    variant = built(replace(config, locality=locality), seed=7).state_dict()
    shared = baseline.keys() & variant.keys()
    assert {"patch_embed.proj.weight", "norm.weight"} <= shared
    assert any(key.endswith("attn.qkv.weight") for key in shared)
    assert any(key.startswith("head") for key in shared)
    assert variant.keys() - baseline.keys()
    assert all(torch.equal(baseline[key], variant[key]) for key in shared)
    other = built(config, seed=8).state_dict()
    assert not torch.equal(baseline["patch_embed.proj.weight"], other["patch_embed.proj.weight"])


@pytest.mark.parametrize("form", ["safetensors", "state dict", "authors' dict"])
def test_a_checkpoint_that_fits_is_loaded_whole(form: str, tmp_path: Path) -> None:
    weights, path = saved(tmp_path)
    if form != "safetensors":
        path = str(tmp_path / "start.pth")
        torch.save(weights if form == "state dict" else {"model": weights, "epoch": 3}, path)
    model = built(replace(PLAIN, checkpoint=path))
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("config", "heads"),
    [
        (PLAIN, ("head",)),
        (replace(PLAIN, name="deit_tiny_distilled_patch16_224"), ("head", "head_dist")),
        (SWIN, ("head.fc",)),
        (LOCALVIT, ("head",)),
    ],
)
def test_with_other_classes_the_head_is_new_and_all_else_is_loaded(
    config: ModelConfig, heads: tuple[str, ...], tmp_path: Path
) -> None:
    weights, path = saved(tmp_path, config, num_classes=7)
    model = built(replace(config, checkpoint=path), num_classes=10, seed=5)
    fresh = built(config, num_classes=10, seed=5).state_dict()
    new = {f"{head}.{kind}" for head in heads for kind in ("weight", "bias")}
    assert new <= model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(value, fresh[key] if key in new else weights[key]), key


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
@pytest.mark.parametrize("size", [(16, 16), (8, 20), (4, 4)])
def test_the_position_embedding_is_resized_bicubically_and_prefix_tokens_are_kept(
    name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    config = replace(PLAIN, name=name)
    weights, path = saved(tmp_path, config, replace(SHOWN, image_size=(12, 12)))
    model = built(replace(config, checkpoint=path), replace(SHOWN, image_size=size))
    prefix = 1 if name == "deit_tiny_patch16_224" else 2
    found, old = model.state_dict()["pos_embed"], weights["pos_embed"]
    assert torch.equal(found[:, :prefix], old[:, :prefix])
    map_BDHW = old[:, prefix:].reshape(1, 3, 3, 12).permute(0, 3, 1, 2)
    resized_BDHW = F.interpolate(map_BDHW, (size[0] // 4, size[1] // 4), mode="bicubic", antialias=True)
    torch.testing.assert_close(found[:, prefix:], resized_BDHW.flatten(2).transpose(1, 2))
    for key, value in model.state_dict().items():
        assert key == "pos_embed" or torch.equal(value, weights[key]), key


def test_a_position_embedding_of_a_grid_that_is_not_square_goes_on_unchanged(tmp_path: Path) -> None:
    shown = replace(SHOWN, image_size=(4, 16))  # as many tokens as a square has
    weights, path = saved(tmp_path, PLAIN, shown)
    model = built(replace(PLAIN, checkpoint=path), shown)
    assert torch.equal(model.state_dict()["pos_embed"], weights["pos_embed"])


@pytest.mark.parametrize("config", [PLAIN, SWIN])
def test_a_first_convolution_of_colour_answers_grey_images_as_it_did_in_colour(
    config: ModelConfig, tmp_path: Path
) -> None:
    weights, path = saved(tmp_path, config, COLOUR)
    model = built(replace(config, checkpoint=path), SHOWN)
    torch.testing.assert_close(
        model.state_dict()["patch_embed.proj.weight"], weights["patch_embed.proj.weight"].sum(dim=1, keepdim=True)
    )
    # A grey image in three channels and in one give the same.
    original = built(config, COLOUR)
    original.load_state_dict(weights)
    grey_BCHW = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(model(grey_BCHW), original(grey_BCHW.expand(3, 3, 8, 8)), rtol=1e-4, atol=1e-4)


def test_a_first_convolution_of_grey_images_is_refused_for_colour(tmp_path: Path) -> None:
    _, path = saved(tmp_path, PLAIN, SHOWN)  # timm adapts those of colour alone
    with pytest.raises(
        ValueError, match=r"patch_embed\.proj\.weight is \(12, 1, 4, 4\) in the file and \(12, 3, 4, 4\)"
    ):
        built(replace(PLAIN, checkpoint=path), COLOUR)


@pytest.mark.parametrize(("size", "window"), [((16, 16), 4), ((16, 16), 8), ((8, 8), 2), ((8, 16), 4), ((16, 8), 2)])
def test_tables_of_relative_positions_are_resized_for_another_window_as_timm_does(
    size: tuple[int, int], window: int, tmp_path: Path
) -> None:
    start = replace(SWIN, arguments={**SWIN.arguments, "window_size": 3})
    weights, path = saved(tmp_path, start, replace(SHOWN, image_size=(12, 12)))
    config = replace(SWIN, arguments={**SWIN.arguments, "window_size": window}, checkpoint=path)
    shown = replace(SHOWN, image_size=size)
    model = built(config, shown)
    expected = checkpoint_filter_fn(weights, model)
    tables = [key for key in weights if key.endswith("relative_position_bias_table")]
    assert len(tables) == 2
    assert any(weights[key].shape != expected[key].shape for key in tables)
    for key, value in model.state_dict().items():
        assert torch.allclose(value, expected[key], rtol=1e-5, atol=1e-6), key
    assert torch.isfinite(logits(model, shown)).all()


@pytest.mark.parametrize("locality", [LocalityConfig(), LocalityConfig(kernel_size=5)])
@pytest.mark.parametrize("config", [PLAIN, SWIN])
def test_added_locality_leaves_the_answers_of_a_plain_checkpoint_as_they_were(
    config: ModelConfig, locality: LocalityConfig, tmp_path: Path
) -> None:
    weights, path = saved(tmp_path, config)
    plain = built(config)
    plain.load_state_dict(weights)
    model = built(replace(config, checkpoint=path, locality=locality, mode="residual"))
    assert [call.config for call in localizations(model)] == [locality]
    assert logits(plain).std(dim=0).min() > 1e-3  # the answers depend on the images
    torch.testing.assert_close(logits(model), logits(plain), rtol=0, atol=0)


def test_replaced_locality_keeps_the_rest_of_a_plain_checkpoint(tmp_path: Path) -> None:
    weights, path = saved(tmp_path)
    model = built(replace(PLAIN, checkpoint=path, locality=LocalityConfig(), layers=[1]))
    for key, value in model.state_dict().items():
        if not key.startswith("blocks.1.mlp.locality"):
            assert torch.equal(value, weights[key]), key
    assert localizations(model)[0].layers == (1,)


LOCALIZED = replace(PLAIN, locality=LocalityConfig(kernel_size=5, activation="silu"), layers=[0])


@pytest.mark.parametrize("given", [None, LOCALIZED.locality])
@pytest.mark.parametrize("mode", ["replace", "residual"])
@pytest.mark.parametrize("num_classes", [10, 4])
@pytest.mark.parametrize("form", ["checkpoint", "model"])
def test_a_localized_checkpoint_goes_on_localized_whether_it_is_said_again_or_not(
    given: LocalityConfig | None, mode: Any, num_classes: int, form: str, tmp_path: Path
) -> None:
    before = random_weights(built(replace(LOCALIZED, mode=mode)))
    path = tmp_path / "start.safetensors"
    if form == "checkpoint":
        save_checkpoint(before, path)
    else:
        description = ModelDescription(PLAIN.name, ARGUMENTS, tuple("0123456789"), SHOWN)
        save_model(before, description, path)
    config = replace(LOCALIZED, mode=mode) if given is not None else PLAIN
    model = built(replace(config, checkpoint=str(path)), num_classes=num_classes)
    assert localizations(model) == localizations(before)
    weights = before.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key]) or (num_classes == 4 and key.startswith("head")), key
    if num_classes == 10:
        torch.testing.assert_close(logits(model), logits(before), rtol=0, atol=0)


def test_a_file_of_a_localized_model_of_the_paper_fits_its_own_name(tmp_path: Path) -> None:
    weights, path = saved(tmp_path, LOCALVIT)
    model = built(replace(LOCALVIT, checkpoint=path))
    assert len(localizations(model)) == 1
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_a_file_of_the_authors_is_read_by_their_names(tmp_path: Path) -> None:
    before = random_weights(built(LOCALVIT))
    theirs = to_official(before.state_dict(), before)
    assert theirs.keys() != before.state_dict().keys()
    torch.save({"model": theirs}, tmp_path / "authors.pth")
    model = built(replace(LOCALVIT, checkpoint=str(tmp_path / "authors.pth")))
    torch.testing.assert_close(logits(model), logits(before), rtol=0, atol=0)


@pytest.mark.parametrize(
    "contradiction",
    [
        {"locality": LocalityConfig(kernel_size=5, activation="relu6"), "layers": [0]},  # the tensors would fit
        {"locality": LocalityConfig(kernel_size=3, activation="silu"), "layers": [0]},
        {"locality": LOCALIZED.locality, "layers": [1]},
        {"locality": LOCALIZED.locality, "layers": "all"},
        {"locality": LOCALIZED.locality, "layers": [0], "mode": "residual"},
    ],
)
def test_locality_that_contradicts_the_file_is_refused(contradiction: dict[str, Any], tmp_path: Path) -> None:
    _, path = saved(tmp_path, LOCALIZED)
    with pytest.raises(ValueError, match=r"was saved from a model localized as .* leave model\.locality out"):
        built(replace(PLAIN, checkpoint=path, **contradiction))


def test_a_localized_state_dict_that_does_not_say_so_is_refused_with_its_keys(tmp_path: Path) -> None:
    weights, _ = saved(tmp_path, LOCALIZED)
    torch.save(weights, tmp_path / "silent.pth")
    with pytest.raises(ValueError, match=r"(?s)does not fit.*blocks\.0\.mlp\.locality"):
        built(replace(PLAIN, checkpoint=str(tmp_path / "silent.pth")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 3}, r"keys of the model that the file lacks: blocks\.2\."),
        ({"depth": 1}, r"keys of the file that the model lacks: blocks\.1\."),
        ({"embed_dim": 16}, r"cls_token is \(1, 1, 12\) in the file and \(1, 1, 16\) in the model"),
        ({"patch_size": 2}, r"patch_embed\.proj\.weight is \(12, 1, 4, 4\) in the file and \(12, 1, 2, 2\)"),
    ],
)
@pytest.mark.parametrize("locality", [None, LocalityConfig()])
def test_a_checkpoint_of_another_architecture_is_refused_with_what_differs(
    arguments: dict[str, int], message: str, locality: LocalityConfig | None, tmp_path: Path
) -> None:
    _, path = saved(tmp_path)
    with pytest.raises(ValueError, match=rf"(?s)does not fit this VisionTransformer.*{message}"):
        built(ModelConfig(PLAIN.name, {**ARGUMENTS, **arguments}, checkpoint=path, locality=locality))


class Malicious:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["start.pth", "start.safetensors"])
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("config", [PLAIN, LOCALIZED])
def test_a_pickle_that_asks_to_run_code_is_refused_and_runs_none(
    name: str, bare: bool, config: ModelConfig, tmp_path: Path
) -> None:
    weights, _ = saved(tmp_path)
    content, path = {**weights, "extra": Malicious(tmp_path / "harm")}, tmp_path / name
    if bare:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match="could run code"):
        built(replace(config, checkpoint=str(path)))
    assert not (tmp_path / "harm").exists()
    with path.open("rb") as file:  # it would have: what was refused is no blunt weapon
        (pickle.load(file) if bare else torch.load(file, weights_only=False))  # noqa: S301
    assert (tmp_path / "harm").exists()


@pytest.mark.parametrize("config", [PLAIN, LOCALIZED])
def test_a_checkpoint_that_is_not_there_is_said_to_be_missing(config: ModelConfig, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        built(replace(config, checkpoint=str(tmp_path / "nowhere.safetensors")))


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    Path(path).write_bytes(Path(path).read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"start\.safetensors"):
        built(replace(PLAIN, checkpoint=path))


def test_arguments_reach_the_model_and_input_and_classes_follow_from_the_run() -> None:
    model: Any = built(replace(PLAIN, arguments={**ARGUMENTS, "drop_path_rate": 0.3}), COLOUR, num_classes=6)
    reference: Any = timm.create_model(PLAIN.name, img_size=8, in_chans=3, num_classes=6, **ARGUMENTS)
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in reference.state_dict().items()
    }
    assert model.blocks[1].drop_path1.drop_prob == pytest.approx(0.3)


def test_the_mechanism_is_placed_as_localize_places_it() -> None:
    model = built(replace(LOCALIZED, layers="low"))
    torch.manual_seed(0)
    expected = timm.create_model(PLAIN.name, img_size=8, in_chans=1, num_classes=10, **ARGUMENTS)
    localize(expected, LOCALIZED.locality, layers="low")
    assert localizations(model) == localizations(expected)
    for key, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_other_layers_get_the_same_block_without_the_convolution() -> None:
    deep = replace(PLAIN, arguments={**ARGUMENTS, "depth": 3})
    block = LocalityConfig(activation="relu6")
    model: Any = built(
        replace(deep, locality=block, layers=["low", "middle"], other_layers=replace(block, depthwise=False))
    )
    has_convolution = [
        any(module.groups > 1 for module in each.modules() if isinstance(module, nn.Conv2d)) for each in model.blocks
    ]
    assert has_convolution == [True, True, False]
    assert isinstance(model.blocks[2].norm2, nn.Identity)
    assert [call.layers for call in localizations(model)] == [(0, 1), (2,)]
    # Where all layers are localized there are no others.
    everywhere = built(replace(deep, locality=block, other_layers=replace(block, depthwise=False)))
    assert [call.layers for call in localizations(everywhere)] == [(0, 1, 2)]
    with pytest.raises(ValueError, match="other_layers is given and locality is not"):
        replace(deep, other_layers=block)


def test_a_model_of_two_kinds_of_layers_is_saved_and_loaded(tmp_path: Path) -> None:
    block = LocalityConfig(activation="relu6")
    config = replace(PLAIN, locality=block, layers=[0], other_layers=replace(block, depthwise=False))
    model = random_weights(built(config))
    description = ModelDescription(config.name, config.arguments, tuple("0123456789"), SHOWN)
    save_model(model, description, tmp_path / "both.safetensors")
    loaded, _ = load_model(tmp_path / "both.safetensors")
    image = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded.eval()(image), model.eval()(image))


@pytest.mark.parametrize("fused", [True, False])
def test_attention_is_computed_as_asked_and_timms_setting_is_left_alone(fused: bool) -> None:
    before = use_fused_attn()
    with attention(fused=fused):
        model: Any = built(PLAIN)
    assert [block.attn.fused_attn for block in model.blocks] == [fused, fused]
    assert use_fused_attn() == before
    with attention(fused=not fused):
        other = built(PLAIN)
    image = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(model(image), other(image))
