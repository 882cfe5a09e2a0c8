"""PVT-Tiny: sizes to the digit, the authors' numbers and keys, timm's interface, images of any size."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, resolve_model_data_config
from timm.models import group_parameters
from timm.models.pvt_v2 import Attention
from torch import Tensor, nn

from localvit.models.costs import count_macs, count_parameters
from localvit.models.official_keys import from_official, to_official
from localvit.models.pvt import Block

OFFICIAL = json.loads((Path(__file__).parent / "official_state_dicts.json").read_text())
PARITY = Path(__file__).parent.parent / "parity" / "baseline_pvt.safetensors"
DIMS = (16, 32, 40, 64)
# Two stages have all there is: a reduced grid, a whole one, a class token. They keep the compiler's time short.
SHALLOW: dict[str, Any] = {
    "img_size": 16,
    "embed_dims": (16, 32),
    "depths": (1, 1),
    "num_heads": (1, 2),
    "mlp_ratios": (2, 2),
    "sr_ratios": (2, 1),
}


def small(**arguments: Any) -> Any:
    """The body of the parity file."""
    torch.manual_seed(0)
    body: dict[str, Any] = {"img_size": 64, "embed_dims": DIMS, "depths": (1, 1, 1, 2), "num_classes": 10}
    return timm.create_model("pvt_tiny", **(body | arguments))


def lively(**arguments: Any) -> Any:
    """The same with weights so large that every one of them shows in the output."""
    model = small(**arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def test_parameters_and_macs_equal_the_authors() -> None:
    model = timm.create_model("pvt_tiny")
    assert count_parameters(model) == OFFICIAL["pvt_tiny"]["parameters"] == 13_229_288
    assert count_macs(model, (3, 224, 224)) == OFFICIAL["pvt_tiny"]["macs"] == 1_932_911_616


def official() -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """State dict by the authors' keys, images and the logits that their model gives for them in float64."""
    tensors = safetensors.torch.load_file(PARITY)
    state_dict = {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
    return state_dict, tensors["input"].double(), tensors["logits"].double()


def test_the_authors_weights_give_the_authors_logits() -> None:
    state_dict, images, logits = official()
    model = small().double().eval()
    model.load_state_dict(from_official(state_dict, model))
    with torch.no_grad():
        torch.testing.assert_close(model(images), logits, rtol=0, atol=1e-6)


def test_timm_loads_a_file_of_the_authors(tmp_path: Path) -> None:
    state_dict, images, logits = official()
    safetensors.torch.save_file(state_dict, tmp_path / "pvt.safetensors")
    file = {"file": str(tmp_path / "pvt.safetensors"), "num_classes": 10}
    model = small(pretrained=True, pretrained_cfg_overlay=file).double().eval()
    with torch.no_grad():
        torch.testing.assert_close(model(images), logits, rtol=0, atol=1e-6)


def test_every_official_key_is_consumed_and_given_back() -> None:
    model: Any = timm.create_model("pvt_tiny")
    theirs = {key: torch.empty(shape) for key, shape in OFFICIAL["pvt_tiny"]["state_dict"].items()}
    ours = from_official(theirs, model)
    expected = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in ours.items()} == expected
    assert to_official(ours, model).keys() == theirs.keys()
    assert from_official(ours, model).keys() == ours.keys()


def test_timm_lists_the_model_and_evaluates_it_as_the_paper_does() -> None:
    assert timm.list_models("pvt_tiny") == ["pvt_tiny"]
    data = resolve_model_data_config(small(img_size=224))
    assert data["input_size"] == (3, 224, 224)
    assert data["crop_pct"] == pytest.approx(224 / 256)
    assert data["interpolation"] == "bicubic"
    assert (data["mean"], data["std"]) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    model = small(in_chans=1, dtype=torch.float64)
    assert model.default_cfg["fixed_input_size"] is False
    first, classifier = (model.default_cfg[name] for name in ("first_conv", "classifier"))
    assert model.get_submodule(first).in_channels == model.in_chans == 1
    assert model.get_submodule(classifier) is model.get_classifier()
    assert model(torch.randn(2, 1, 64, 64, dtype=torch.float64)).shape == (2, 10)


def test_initial_weights_are_the_papers() -> None:
    model: Any = timm.create_model("pvt_tiny", depths=(1, 1, 1, 1))
    model.reset_classifier(1000)
    embeddings = 0
    for name, parameter in model.named_parameters():
        owner = model.get_submodule(name.rpartition(".")[0])
        embedding = name.endswith(("pos_embed", "cls_token"))
        embeddings += embedding
        if embedding or (isinstance(owner, nn.Linear) and name.endswith("weight")):
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
        elif isinstance(owner, nn.Conv2d):
            bound = (owner.in_channels * owner.kernel_size[0] ** 2) ** -0.5
            assert 0.9 * bound < parameter.abs().max().item() <= bound, name
        else:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight")))), name
    assert embeddings == 5


def test_stochastic_depth_grows_linearly_over_all_blocks() -> None:
    blocks = [
        module for module in small(depths=(2, 2, 2, 2), drop_path_rate=0.1).modules() if isinstance(module, Block)
    ]
    assert isinstance(blocks[0].drop_path1, nn.Identity)
    for half in ("drop_path1", "drop_path2"):
        rates = [block.get_submodule(half).drop_prob for block in blocks[1:]]
        assert rates == pytest.approx([0.1 * index / 7 for index in range(1, 8)])


def test_stochastic_depth_drops_either_half_of_a_block_whole() -> None:
    torch.manual_seed(0)
    x_BND = torch.randn(64, 6, 8)
    for half, other in (("attn", "mlp.fc2"), ("mlp", "attn.proj")):
        block = Block(8, 2, drop_path=0.5).train()
        silent: Any = block.get_submodule(other)
        nn.init.zeros_(silent.weight)
        nn.init.zeros_(silent.bias)
        branch_BND = block.attn(block.norm1(x_BND), (2, 3)) if half == "attn" else block.mlp(block.norm2(x_BND))
        added_BND = block(x_BND, (2, 3)) - x_BND
        kept = added_BND.abs().amax((1, 2)) > 0
        assert 0 < kept.sum() < 64
        torch.testing.assert_close(added_BND[kept], 2 * branch_BND[kept], rtol=1e-4, atol=1e-5)


def test_projection_dropout_is_in_both_halves_of_a_block() -> None:
    torch.manual_seed(0)
    block, x_BND = Block(8, 2, proj_drop=0.5).train(), torch.randn(4, 6, 8)
    for branch in (partial(block.attn, feat_size=(2, 3)), block.mlp):
        assert (branch(x_BND) == 0).float().mean().item() == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("rate", ["drop_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"])
def test_dropout_is_for_training_alone(rate: str) -> None:
    model, without, images = lively(**{rate: 0.5}), lively(), torch.randn(8, 3, 64, 64)
    with torch.no_grad():
        expected = without.eval()(images)
        torch.testing.assert_close(model.eval()(images), expected, rtol=0, atol=0)
        assert (model.train()(images) - expected).abs().amax(1).max() > 1e-3


def test_spatial_reduction_attention_is_its_formula_on_a_rectangle() -> None:
    torch.manual_seed(0)
    (height, width), ratio, heads, dim = (4, 6), 2, 2, 8
    attention = Attention(dim, heads, sr_ratio=ratio).double()
    assert attention.sr is not None
    assert attention.sr.bias is not None
    assert attention.norm is not None
    x_BND = torch.randn(3, height * width, dim, dtype=torch.float64)

    # One key and one value for each square of tokens, square by square and token by token.
    squares = []
    for top in range(0, height, ratio):
        for left in range(0, width, ratio):
            total: Tensor = attention.sr.bias
            for row in range(ratio):
                for column in range(ratio):
                    token_BD = x_BND[:, (top + row) * width + left + column]
                    total = total + token_BD @ attention.sr.weight[:, :, row, column].T
            squares.append(total)
    keys_BMD, values_BMD = attention.kv(attention.norm(torch.stack(squares, dim=1))).split(dim, dim=-1)
    queries_BND = attention.q(x_BND)
    out = []
    for head in torch.arange(dim).split(dim // heads):
        scores_BNM = queries_BND[..., head] @ keys_BMD[..., head].mT / (dim // heads) ** 0.5
        out.append(scores_BNM.softmax(-1) @ values_BMD[..., head])
    expected_BND = attention.proj(torch.cat(out, dim=-1))

    torch.testing.assert_close(attention(x_BND, (height, width)), expected_BND, rtol=0, atol=1e-12)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_blocks_are_given_the_grid_as_their_second_positional_argument(checkpointing: bool) -> None:
    model, seen = small().train(), []

    def record(block: nn.Module, arguments: tuple[Any, ...]) -> None:
        x_BND, grid = arguments
        seen.append((grid, x_BND.shape[1] - grid[0] * grid[1]))

    for module in model.modules():
        if isinstance(module, Block):
            module.register_forward_pre_hook(record)
    model.set_grad_checkpointing(checkpointing)
    model(torch.randn(1, 3, 64, 96))
    assert seen == [((16, 24), 0), ((8, 12), 0), ((4, 6), 0), ((2, 3), 1), ((2, 3), 1)]


def test_gradient_checkpointing_runs_blocks_twice_and_changes_no_gradient() -> None:
    images, gradients, runs = torch.randn(2, 3, 64, 64, dtype=torch.float64), [], []
    for enable in (False, True):
        model = lively(drop_path_rate=0.2, proj_drop_rate=0.1, attn_drop_rate=0.1).double().train()
        model.set_grad_checkpointing(enable)
        count: list[None] = []
        model.stages[0].blocks[0].register_forward_pre_hook(lambda *_, count=count: count.append(None))
        torch.manual_seed(1)
        model(images).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
        runs.append(len(count))
    assert runs == [1, 2]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-9)


def test_intermediates_are_the_maps_of_the_stages_without_the_class_token() -> None:
    model, images = lively().eval(), torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        final, maps = model.forward_intermediates(images)
        normed = model.forward_intermediates(images, indices=[-1], norm=True, intermediates_only=True)
        early, last_two = model.forward_intermediates(images, indices=[0, 2], stop_early=True)
    assert [tuple(feature.shape) for feature in maps] == [(2, 16, 16, 24), (2, 32, 8, 12), (2, 40, 4, 6), (2, 64, 2, 3)]
    assert torch.equal(final, model.forward_features(images))
    assert final.shape == (2, 1 + 2 * 3, 64)
    torch.testing.assert_close(model.norm(maps[3].flatten(2).mT), final[:, 1:])
    assert torch.equal(normed[0].flatten(2).mT, final[:, 1:])
    torch.testing.assert_close(last_two, [maps[0], maps[2]], rtol=0, atol=0)
    assert torch.equal(early, maps[2].flatten(2).mT)
    with pytest.raises(ValueError, match=r"output_fmt is 'NLC'; it must be NCHW"):
        model.forward_intermediates(images, output_fmt="NLC")


def test_stopping_early_leaves_later_stages_out() -> None:
    model = small()
    model.stages[3].register_forward_pre_hook(lambda *_: pytest.fail("the last stage ran"))
    model.forward_intermediates(torch.randn(1, 3, 64, 64), indices=[2], stop_early=True)


def test_features_only_gives_feature_maps_and_prunes_the_rest() -> None:
    images, full = torch.randn(2, 3, 64, 96), small().eval()
    every: Any = small(features_only=True).eval()
    assert every.feature_info.channels() == list(DIMS)
    assert every.feature_info.reduction() == [4, 8, 16, 32]
    two: Any = small(features_only=True, out_indices=(0, -3)).eval()
    assert two.feature_info.channels() == [16, 32]
    with torch.no_grad():
        maps = full.forward_intermediates(images, intermediates_only=True)
        torch.testing.assert_close(every(images), maps, rtol=0, atol=0)
        torch.testing.assert_close(two(images), maps[:2], rtol=0, atol=0)
    assert len(two.model.stages) == 2
    for features in (every, two):
        assert not any(name.startswith(("norm", "head")) for name, _ in features.model.named_parameters())


def test_a_pruned_model_keeps_its_interface() -> None:
    model = small()
    assert model.prune_intermediate_layers([1]) == [1]
    assert (model.num_features, model.head_hidden_size, model.num_classes) == (32, 32, 0)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 8 * 8, 32)
    model.reset_classifier(5, "avg")
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 5)
    with pytest.raises(ValueError, match=r"global_pool is 'token'; without its last stage the model has none"):
        model.reset_classifier(5, "token")


@pytest.mark.parametrize(
    ("global_pool", "pool"),
    [("token", lambda x_BND: x_BND[:, 0]), ("avg", lambda x_BND: x_BND[:, 1:].mean(1)), ("", lambda x_BND: x_BND)],
)
def test_what_is_classified(global_pool: str, pool: Callable[[Tensor], Tensor]) -> None:
    model, images = lively(global_pool=global_pool).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        pooled = pool(model.forward_features(images))
        torch.testing.assert_close(model.forward_head(model.forward_features(images), pre_logits=True), pooled)
        torch.testing.assert_close(model(images), F.linear(pooled, model.head.weight, model.head.bias))


def test_classifier_can_be_replaced_and_removed() -> None:
    images, model = torch.randn(2, 3, 64, 64).double(), small(drop_rate=0.5).double().eval()
    assert isinstance(model.get_classifier(), nn.Linear)
    model.reset_classifier(3)
    assert (model.num_classes, model.global_pool, model.get_classifier().training) == (3, "token", False)
    assert model(images).shape == (2, 3)
    model.reset_classifier(0, "avg")
    assert model(images).shape == (2, model.num_features)
    assert small(num_classes=0)(images.float()).shape == (2, 64)
    with pytest.raises(ValueError, match=r"global_pool is 'max'; it must be 'token', 'avg' or ''"):
        model.reset_classifier(3, "max")


def test_no_decay_of_embeddings_and_decay_by_layer() -> None:
    model = small()
    embeddings = {f"stages.{stage}.pos_embed" for stage in range(4)} | {"stages.3.cls_token"}
    assert model.no_weight_decay() == embeddings < dict(model.named_parameters()).keys()

    fine, coarse = (group_parameters(model, model.group_matcher(coarse), reverse=True) for coarse in (False, True))
    assert fine.keys() == coarse.keys() == dict(model.named_parameters()).keys()
    order = [
        "stages.0.pos_embed",
        "stages.0.blocks.0.attn.sr.weight",
        "stages.1.blocks.0.mlp.fc1.weight",
        "stages.2.blocks.0.norm1.weight",
        "stages.3.blocks.0.norm1.weight",
        "stages.3.blocks.1.norm1.weight",
        "head.weight",
    ]
    assert [fine[name] for name in order] == list(range(7))
    assert [coarse[name] for name in order] == [0, 1, 2, 3, 4, 4, 5]
    assert fine["stages.3.cls_token"] == fine["stages.3.patch_embed.proj.weight"] == 4
    assert fine["norm.weight"] == 5
    assert coarse["norm.weight"] == 4


@pytest.mark.parametrize("size", [(64, 96), (32, 128), (96, 96), (32, 32)])
def test_an_image_of_another_size_meets_embeddings_resampled_to_its_grid(size: tuple[int, int]) -> None:
    trained, images = lively().eval(), torch.randn(2, 3, *size)
    # 32 x 128 makes as many tokens as the trained 64 x 64, so that a grid taken for square would pass unseen.
    resampled = dict(trained.state_dict())
    for stage, reduction in enumerate((4, 8, 16, 32)):
        prefix, old, new = int(stage == 3), 64 // reduction, [side // reduction for side in size]
        embedding = resampled[f"stages.{stage}.pos_embed"]
        image = embedding[:, prefix:].mT.unflatten(-1, (old, old))
        image = F.interpolate(image, size=new, mode="bicubic", antialias=True)
        resampled[f"stages.{stage}.pos_embed"] = torch.cat([embedding[:, :prefix], image.flatten(2).mT], dim=1)
    built = lively(img_size=size).eval()
    built.load_state_dict(resampled)

    with torch.no_grad():
        expected = built(images)
        torch.testing.assert_close(trained(images), expected, rtol=1e-4, atol=1e-4)
        trained.set_input_size(size)
        assert trained.state_dict().keys() == resampled.keys()
        torch.testing.assert_close(trained(images), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(trained.state_dict(), resampled)


@pytest.mark.parametrize("size", [(64, 80), (50, 64), (16, 16)])
def test_an_image_that_does_not_divide_into_patches_is_refused(size: tuple[int, int]) -> None:
    model, images = small(), torch.randn(1, 3, *size)
    message = rf"the image is {size[0]} x {size[1]}; its height and its width must be multiples of 32, such as"
    for run in (model, model.forward_features, model.forward_intermediates):
        with pytest.raises(ValueError, match=message):
            run(images)
    with pytest.raises(ValueError, match=message):
        model.set_input_size(size)
    with pytest.raises(ValueError, match=message):
        small(img_size=size)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depths": (1, 1, 1)}, r"depths=\(1, 1, 1\).* each must have one value per stage"),
        ({"num_heads": (1, 2, 3, 8)}, r"embed_dims has 40 where num_heads has 3; heads must divide the channels"),
        ({"sr_ratios": (8, 4, 2, 2)}, r"sr_ratios ends with 2; it must end with 1"),
        ({"global_pool": "map"}, r"global_pool is 'map'; it must be 'token', 'avg' or ''"),
    ],
)
def test_stages_that_do_not_fit_together_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**arguments)


@pytest.mark.slow
def test_compiled_without_graph_breaks_it_agrees_with_eager() -> None:
    model: nn.Module = lively(**SHALLOW).eval()
    images = torch.randn(2, 3, 32, 16)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(images), model(images), rtol=1e-4, atol=1e-4)


def test_exported_with_a_dynamic_batch_it_agrees_with_eager() -> None:
    model = lively().eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (torch.randn(2, 3, 64, 96),), dynamic_shapes=({0: batch},)).module()
    for size in (1, 2, 5):
        images = torch.randn(size, 3, 64, 96)
        with torch.no_grad():
            torch.testing.assert_close(exported(images), model(images), rtol=1e-4, atol=1e-4)


def test_training_in_bf16_gives_every_parameter_a_finite_gradient_that_is_not_zero() -> None:
    # Of fewer than 32 channels, oneDNN 3.12 computes wrong strided convolutions in bf16 where the processor has AMX.
    model, images = lively(embed_dims=(32, 64, 80, 128)).train(), torch.randn(4, 3, 64, 96)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(images)
    torch.testing.assert_close(logits.float(), model(images), rtol=0.1, atol=0.2)
    nn.functional.cross_entropy(logits.float(), torch.arange(4)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_a_smaller_first_patch_leaves_more_tokens_in_every_stage() -> None:
    model = small(img_size=32, patch_size=2, sr_ratios=(4, 2, 1, 1))
    maps = model.forward_intermediates(torch.randn(1, 3, 32, 32), intermediates_only=True)
    assert [tuple(map_.shape[-2:]) for map_ in maps] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert [info["reduction"] for info in model.feature_info] == [2, 4, 8, 16]
