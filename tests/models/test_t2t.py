"""T2T-ViT-7: sizes to the digit, the authors' numbers and keys, its layers against plain formulas, timm's interface."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, resolve_model_data_config
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from localvit.models.costs import count_macs, count_parameters
from localvit.models.official_keys import from_official, to_official
from localvit.models.t2t import Block, TokenPerformer, performer_attention

OFFICIAL = json.loads((Path(__file__).parent / "official_state_dicts.json").read_text())
PARITY = safetensors.torch.load_file(Path(__file__).parent.parent / "parity" / "baseline_t2t.safetensors")
WEIGHTS = {key.removeprefix("model."): value for key, value in PARITY.items() if key.startswith("model.")}


def small(**arguments: Any) -> Any:
    """The body of the parity file with fresh weights, in evaluation mode."""
    torch.manual_seed(0)
    body = {"img_size": 64, "embed_dim": 32, "token_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 10}
    return timm.create_model("t2t_vit_7", **(body | arguments)).eval()


def official(**arguments: Any) -> Any:
    """The same with the authors' weights, in which every parameter shows in the output."""
    return small(pretrained=True, pretrained_cfg_overlay={"state_dict": WEIGHTS, "num_classes": 10}, **arguments)


def empty_tensors(name: str) -> dict[str, Tensor]:
    return {key: torch.empty(shape) for key, shape in OFFICIAL[name]["state_dict"].items()}


def shapes(state_dict: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state_dict.items()}


def test_parameters_and_macs_equal_the_authors() -> None:
    model = timm.create_model("t2t_vit_7")
    assert count_parameters(model) == OFFICIAL["T2t_vit_7"]["parameters"] == 4_310_222
    assert count_macs(model, (3, 224, 224)) == OFFICIAL["T2t_vit_7"]["macs"] == 1_146_863_616


def test_position_embedding_and_random_directions_are_not_trained() -> None:
    frozen = {name for name, parameter in small().named_parameters() if not parameter.requires_grad}
    assert frozen == {"pos_embed", "tokens_to_token.attention1.w", "tokens_to_token.attention2.w"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_authors_weights_give_the_authors_logits(dtype: torch.dtype) -> None:
    model = small()
    model.load_state_dict(from_official(WEIGHTS, model))
    with torch.no_grad():
        logits = model.to(dtype)(PARITY["input"].to(dtype))
    assert logits.dtype == dtype
    torch.testing.assert_close(logits, PARITY["logits"].to(dtype), rtol=0, atol=5e-6)


def test_every_official_key_is_consumed_and_given_back() -> None:
    model, theirs = timm.create_model("t2t_vit_7"), empty_tensors("T2t_vit_7")
    ours = from_official(theirs, model)
    assert shapes(ours) == shapes(model.state_dict())
    assert shapes(to_official(ours, model)) == shapes(theirs)
    assert from_official(ours, model).keys() == ours.keys()


def test_position_embedding_is_the_sinusoid_over_class_token_and_rows() -> None:
    pos_embed = small(img_size=(32, 48)).pos_embed
    assert pos_embed.shape == (1, 1 + 2 * 3, 32)
    for position in range(7):
        for channel in range(32):
            angle = position / 10000 ** (2 * (channel // 2) / 32)
            expected = math.cos(angle) if channel % 2 else math.sin(angle)
            assert pos_embed[0, position, channel].item() == pytest.approx(expected, abs=1e-7)


def attention_by_pairs(query: Tensor, key: Tensor, value: Tensor, w: Tensor) -> Tensor:
    """The performer's definition, token by token: the sum of K(q, k) v over the sum of K(q, k) + 1e-8."""

    def features(x: Tensor) -> Tensor:
        return torch.stack([torch.exp(row @ x - x @ x / 2) for row in w.double()]) / math.sqrt(len(w))

    out = torch.empty(value.shape, dtype=torch.float64)
    for image in range(len(value)):
        for n, q in enumerate(query[image].double()):
            kernel = torch.stack([features(q) @ features(k) for k in key[image].double()])
            out[image, n] = kernel @ value[image].double() / (kernel.sum() + 1e-8)
    return out


def performer_inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, values and directions; the longest queries have sums below 1e-8."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 5, 8) for _ in range(3))
    query = query * torch.linspace(0.5, 3.5, 5)[:, None]
    return query.to(dtype), key.to(dtype), value.to(dtype), 2 * torch.eye(8)[:4]


@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-4), (torch.bfloat16, 1e-2)], ids=str
)
def test_performer_attention_is_its_formula(dtype: torch.dtype, rtol: float) -> None:
    inputs = performer_inputs(dtype)
    out = performer_attention(*inputs)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), attention_by_pairs(*inputs), rtol=rtol, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_performer_attention_is_float32_under_autocast(dtype: torch.dtype) -> None:
    inputs = performer_inputs(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = performer_attention(*inputs)
    torch.testing.assert_close(out, performer_attention(*inputs), rtol=0, atol=0)


def windows(image: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """The soft split by slices: windows (B, N, C * kernel * kernel) from left to right, then down."""
    padded = F.pad(image, (padding,) * 4)
    rows = range(0, padded.shape[2] - kernel + 1, stride)
    columns = range(0, padded.shape[3] - kernel + 1, stride)
    slices = [padded[:, :, i : i + kernel, j : j + kernel].flatten(1) for i in rows for j in columns]
    return torch.stack(slices, dim=1)


def test_soft_splits_keep_rows_and_columns_of_a_rectangle_apart() -> None:
    module, image = official().tokens_to_token, torch.randn(2, 3, 32, 64)
    with torch.no_grad():
        x = module.attention1(windows(image, 7, 4, 2), (8, 16))
        x = module.attention2(windows(x.view(2, 8, 16, 16).permute(0, 3, 1, 2), 3, 2, 1), (4, 8))
        x = module.project(windows(x.view(2, 4, 8, 16).permute(0, 3, 1, 2), 3, 2, 1))
        torch.testing.assert_close(module(image), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_performer_and_block_is_told_its_grid_as_second_positional_argument(checkpointing: bool) -> None:
    model = small().train()
    model.set_grad_checkpointing(checkpointing)
    grids: list[tuple[int, int]] = []
    for module in model.modules():
        if isinstance(module, TokenPerformer | Block):
            module.register_forward_pre_hook(lambda _, arguments: grids.append(arguments[1]))
    model(torch.randn(2, 3, 32, 48)).sum().backward()
    forward = [(8, 12), (4, 6), (2, 3), (2, 3)]
    assert grids == (forward + forward[::-1] if checkpointing else forward)


def test_gradients_are_the_same_with_checkpointing() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = official(drop_path_rate=0.5).train()
        model.set_grad_checkpointing(checkpointing)
        torch.manual_seed(1)
        nn.functional.cross_entropy(model(PARITY["input"]), torch.tensor([3, 5])).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients[0].values())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-7)


def test_training_in_bf16_gives_every_trained_parameter_a_finite_gradient() -> None:
    model = small().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.arange(4))
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


def test_initial_weights() -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model("t2t_vit_7")
    for performer in (model.tokens_to_token.attention1, model.tokens_to_token.attention2):
        torch.testing.assert_close(performer.w @ performer.w.T, 32 * torch.eye(32), rtol=0, atol=1e-4)
    model.reset_classifier(100)
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert len(linears) == 2 * 4 + 1 + 7 * 4 + 1
    for linear in linears:
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert linear.bias is None or not linear.bias.any()
    assert model.cls_token.std().item() == pytest.approx(0.02, rel=0.2)


def test_intermediates_are_what_the_blocks_gave() -> None:
    model, image = official(depth=3, pretrained_strict=False), torch.randn(2, 3, 32, 48)
    outputs: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, output: outputs.append(output))
    with torch.no_grad():
        final, maps = model.forward_intermediates(image)
        assert len(maps) == 3
        for feature_map, output in zip(maps, outputs, strict=True):
            rows = [[output[:, 1 + 3 * i + j] for j in range(3)] for i in range(2)]
            expected = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
            torch.testing.assert_close(feature_map, expected, rtol=0, atol=0)
        torch.testing.assert_close(final, model.norm(outputs[2]), rtol=0, atol=0)
        torch.testing.assert_close(final, model.forward_features(image), rtol=0, atol=0)

        outputs.clear()
        taken = model.forward_intermediates(
            image, [1], return_prefix_tokens=True, norm=True, stop_early=True, output_fmt="NLC", intermediates_only=True
        )
        ((tokens, class_token),) = taken
        assert len(outputs) == 2
        torch.testing.assert_close(torch.cat([class_token, tokens], 1), model.norm(outputs[1]), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"output_fmt is 'NHWC'; it must be NCHW or NLC"):
        model.forward_intermediates(image, output_fmt="NHWC")


def test_features_only_gives_feature_maps() -> None:
    model = small(features_only=True, out_indices=[0, 1], depth=4, img_size=(64, 96))
    assert model.feature_info.channels() == [32, 32]
    assert model.feature_info.reduction() == [16, 16]
    assert [tuple(feature.shape) for feature in model(torch.randn(2, 3, 64, 96))] == [(2, 32, 4, 6)] * 2
    assert len(model.model.blocks) == 2
    assert isinstance(model.model.norm, nn.Identity)
    assert isinstance(model.model.head, nn.Identity)
    assert len(timm.create_model("t2t_vit_7", features_only=True)(torch.randn(1, 3, 32, 32))) == 3


def test_head_and_pooling_can_be_chosen_replaced_and_removed() -> None:
    image = torch.randn(2, 3, 64, 64)
    model = official()
    tokens = model.forward_features(image)
    torch.testing.assert_close(model(image), model.get_classifier()(tokens[:, 0]))
    torch.testing.assert_close(model.forward_head(tokens, pre_logits=True), tokens[:, 0])
    torch.testing.assert_close(official(global_pool="avg")(image), model.head(tokens[:, 1:].mean(1)))
    model.double().reset_classifier(3, "avg")
    assert model.head.weight.dtype == torch.float64
    assert (model(image.double()).shape, model.num_classes) == ((2, 3), 3)
    model.reset_classifier(0, "")
    assert model(image.double()).shape == (2, 17, 32)
    assert small(num_classes=0)(image).shape == (2, small().num_features) == (2, small().head_hidden_size)
    assert small(in_chans=1)(torch.randn(2, 1, 64, 64)).shape == (2, 10)
    with pytest.raises(ValueError, match=r"global_pool is 'max'; it must be 'token', 'avg' or ''"):
        small(global_pool="max")


@pytest.mark.parametrize("size", [(16, 16), (32, 96), (80, 48)])
def test_other_image_sizes_than_trained_use_a_resampled_position_embedding(size: tuple[int, int]) -> None:
    trained, made_for_it, image = official(), official(img_size=size), torch.randn(2, 3, *size)
    assert made_for_it.pos_embed.shape == (1, 1 + size[0] * size[1] // 256, 32)
    with torch.no_grad():
        logits = trained(image)
        torch.testing.assert_close(made_for_it(image), logits, rtol=1e-5, atol=1e-6)
        trained.pos_embed[:, 1:] = 0
        assert not torch.allclose(trained(image), logits, rtol=1e-3, atol=1e-4)


def test_position_embedding_of_a_rectangle_is_resampled_by_rows_and_columns() -> None:
    trained, reference, image = official(img_size=(32, 96)), official(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        grid = trained.pos_embed[:, 1:].view(1, 2, 6, 32).permute(0, 3, 1, 2)
        resampled = F.interpolate(grid, size=(4, 4), mode="bicubic", antialias=True)
        reference.pos_embed.copy_(torch.cat([trained.pos_embed[:, :1], resampled.flatten(2).mT], dim=1))
        torch.testing.assert_close(trained(image), reference(image), rtol=1e-5, atol=1e-6)


def test_as_many_tokens_on_another_grid_are_other_positions() -> None:
    model, image = official(), torch.randn(1, 3, 32, 128)
    with torch.no_grad():
        resampled = model(image)
        model.grid_size = (2, 8)
        assert not torch.allclose(model(image), resampled, rtol=1e-3, atol=1e-4)


def test_a_checkpoint_of_a_rectangle_cannot_be_resampled() -> None:
    rectangle = small(img_size=(32, 48)).state_dict()
    with pytest.raises(ValueError, match=r"pos_embed has 6 tokens and the model's grid is 4 x 4"):
        small(pretrained=True, pretrained_cfg_overlay={"state_dict": rectangle, "num_classes": 10})


@pytest.mark.parametrize("size", [(0, 64), (64, 8), (50, 64), (64, 72)])
def test_images_that_cannot_be_split_are_refused(size: tuple[int, int]) -> None:
    message = rf"the image is {size[0]} x {size[1]} pixels; both sides must be multiples of 16, at least 16"
    with pytest.raises(ValueError, match=message):
        small(img_size=size)
    model, image = small(), torch.empty(1, 3, *size)
    for run in (model, model.tokens_to_token, model.forward_intermediates):
        with pytest.raises(ValueError, match=message):
            run(image)


def test_evaluation_transform_is_the_papers() -> None:
    data = resolve_model_data_config(timm.create_model("t2t_vit_7"))
    assert data["input_size"] == (3, 224, 224)
    assert data["crop_pct"] == pytest.approx(224 / 256)
    assert data["interpolation"] == "bicubic"
    assert (data["mean"], data["std"]) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def test_stochastic_depth_rises_to_the_last_block() -> None:
    blocks = small(drop_path_rate=0.3, depth=4).blocks
    assert [getattr(block.drop_path1, "drop_prob", 0) for block in blocks] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert [getattr(block.drop_path2, "drop_prob", 0) for block in blocks] == pytest.approx([0, 0.1, 0.2, 0.3])


def test_stochastic_depth_drops_either_half_of_a_block() -> None:
    block, x = Block(32, 2, drop_path=1.0).train(), torch.randn(2, 5, 32)
    torch.testing.assert_close(block(x, (2, 2)), x, rtol=0, atol=0)


def test_dropout_of_a_performer_leaves_the_value() -> None:
    performer = TokenPerformer(12, 8)
    assert (performer.proj_drop.p, performer.mlp.drop1.p, performer.mlp.drop2.p) == (0.1, 0, 0.1)
    performer, x = TokenPerformer(12, 8, drop_rate=1.0).train(), torch.randn(2, 4, 12)
    value = performer.kqv(performer.norm1(x))[..., 16:]
    torch.testing.assert_close(performer(x, (2, 2)), value, rtol=0, atol=0)


def test_dropout_rates_reach_their_layers() -> None:
    first, second = torch.randn(2, 1, 3, 64, 64)
    model = small(drop_rate=1.0).train()
    torch.testing.assert_close(model(first)[0], model.head.bias)
    model = small(pos_drop_rate=1.0).train()
    torch.testing.assert_close(model(first), model(second))
    block, x = small(proj_drop_rate=1.0).train().blocks[0], torch.randn(1, 17, 32)
    torch.testing.assert_close(block(x, (4, 4)), x)
    attention = small(attn_drop_rate=1.0).train().blocks[0].attn
    torch.testing.assert_close(attention(x), attention.proj.bias.expand(1, 17, 32))


def test_decay_by_layer_knows_every_trained_parameter() -> None:
    model = small()
    by_layer = group_parameters(model, model.group_matcher())
    stem = {name for name in model.state_dict() if not name.startswith(("blocks", "norm", "head"))}
    assert set(by_layer[0]) == stem
    assert [len(by_layer[layer]) for layer in (1, 2, 3)] == [11, 11 + 2, 2]
    groups = param_groups_layer_decay(model, weight_decay=0.05, no_weight_decay_list=model.no_weight_decay())
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    without_decay = {id(parameter) for group in groups if not group["weight_decay"] for parameter in group["params"]}
    assert id(model.cls_token) in without_decay


def test_compiled_without_graph_breaks_it_agrees_with_eager() -> None:
    model = official()
    compiled: Any = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(PARITY["input"]), model(PARITY["input"]), rtol=1e-5, atol=1e-5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(compiled(PARITY["input"]), model(PARITY["input"]), rtol=1e-2, atol=1e-2)


def test_exported_with_a_dynamic_batch_it_agrees_with_eager() -> None:
    model = official()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (PARITY["input"],), dynamic_shapes=({0: batch},)).module()
    for size in (1, 2, 5):
        images = torch.randn(size, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(exported(images), model(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("patch_size", [4, 8, 16])
def test_tokens_lie_a_patch_apart_whatever_its_size(patch_size: int) -> None:
    model = small(img_size=32, patch_size=patch_size, in_chans=1)
    assert model.grid_size == (32 // patch_size, 32 // patch_size)
    image = torch.randn(1, 1, 32, 32)
    before = model.tokens_to_token(image)
    image[..., -1, -1] += 10  # the last pixel belongs to the last token; attention sees it everywhere, most there
    changes = (model.tokens_to_token(image) - before).norm(dim=2)[0]
    assert int(changes.argmax()) == (32 // patch_size) ** 2 - 1
    assert model(image).shape == (1, 10)


@pytest.mark.parametrize("patch_size", [0, 2, 6])
def test_a_patch_that_two_halvings_do_not_leave_whole_is_refused(patch_size: int) -> None:
    with pytest.raises(ValueError, match=f"patch_size is {patch_size}; it must be a multiple of 4"):
        small(patch_size=patch_size)
