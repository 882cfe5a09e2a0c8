"""Attention distance against closed forms, and positions of tokens against what reaches them."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_models import images, tiny

from localvit.analysis import NotMeasurableError, attention_distance
from localvit.analysis.layers import WatchedModel
from localvit.analysis.measures.attention_distance import mean_distance
from localvit.analysis.positions import AttentionPositions, attention_positions

FAMILIES = (
    "deit_tiny_patch16_224",
    "localvit_tiny_patch16_224",
    "localvit_pvt_tiny",
    "localvit_tnt_tiny_patch16_224",
    "localvit_t2t_7",
    "localvit_swin_tiny_patch4_window7_224",
)


def uniform(grid: tuple[int, int], pixels: tuple[float, float]) -> float:
    """Mean distance of all pairs on a grid, pair by pair."""
    places = list(itertools.product(range(grid[0]), range(grid[1])))
    distances = [
        math.hypot((a[0] - b[0]) * pixels[0], (a[1] - b[1]) * pixels[1]) for a, b in itertools.product(places, places)
    ]
    return sum(distances) / len(distances)


def on_grid(grid: tuple[int, int], prefix: int = 0) -> AttentionPositions:
    places = [[math.nan] * 2] * prefix + [list(place) for place in itertools.product(range(grid[0]), range(grid[1]))]
    positions_1N2 = torch.tensor(places, dtype=torch.float64)[None]
    return AttentionPositions(positions_1N2, positions_1N2)


def weights(matrix_NK: Tensor) -> Tensor:
    return matrix_NK[None, None, None].double()


def test_uniform_attention_has_its_closed_form() -> None:
    found = mean_distance(weights(torch.full((196, 196), 1 / 196)), on_grid((14, 14)), (16, 16)).item()
    assert found == pytest.approx(uniform((14, 14), (16, 16)), rel=1e-12)
    assert found == pytest.approx(116.49, abs=0.005)


def test_uniform_attention_within_3_x_3_tokens_is_near() -> None:
    rows, columns = np.divmod(np.arange(196), 14)
    near_NK = (abs(rows[:, None] - rows) <= 1) & (abs(columns[:, None] - columns) <= 1)
    found = mean_distance(weights(torch.from_numpy(near_NK)), on_grid((14, 14)), (16, 16)).item()
    assert found == pytest.approx(16.70, abs=0.005)


def test_rows_and_columns_have_their_own_pixels() -> None:
    found = mean_distance(weights(torch.full((6, 6), 1 / 6)), on_grid((2, 3)), (5, 7)).item()
    assert found == pytest.approx(uniform((2, 3), (5, 7)), rel=1e-12)


def test_attention_to_oneself_is_at_distance_0() -> None:
    assert mean_distance(weights(torch.eye(12)), on_grid((3, 4)), (16, 16)).item() == 0


def test_attention_to_the_right_neighbor_is_one_token_away() -> None:
    right_NK = torch.roll(torch.eye(4), 1, dims=1)
    right_NK[3] = torch.eye(4)[2]  # the last token looks to the left
    assert mean_distance(weights(right_NK), on_grid((1, 4)), (16, 8)).item() == 8


def test_prefix_tokens_are_left_out_and_the_rest_counts_as_before() -> None:
    generator = torch.Generator().manual_seed(0)
    image_NK = torch.rand(6, 6, generator=generator).softmax(dim=1)
    with_prefix_NK = torch.zeros(8, 8)
    with_prefix_NK[2:, 2:] = 0.3 * image_NK  # most attention goes to the prefix
    with_prefix_NK[2:, :2] = 0.35
    with_prefix_NK[:2] = torch.rand(2, 8, generator=generator)
    found = mean_distance(weights(with_prefix_NK), on_grid((2, 3), prefix=2), (16, 16)).item()
    assert found == pytest.approx(mean_distance(weights(image_NK), on_grid((2, 3)), (16, 16)).item(), rel=1e-6)


def test_a_models_weights_are_those_that_queries_and_keys_give() -> None:
    """The plain formula, from the weights of the first layer."""
    model = tiny("deit_tiny_patch16_224", depth=1)
    images_BCHW = images(model, 3)
    block = model.blocks[0]
    tokens_BND = model._pos_embed(model.patch_embed(images_BCHW))
    qkv = block.attn.qkv(block.norm1(tokens_BND)).unflatten(2, (3, 2, 8))
    query_BAND, key_BAND = (qkv[:, :, part].transpose(1, 2) for part in (0, 1))
    matrix_BANK = (query_BAND @ key_BAND.mT / math.sqrt(8)).softmax(dim=-1)[:, :, 1:, 1:]
    matrix_BANK = matrix_BANK / matrix_BANK.sum(dim=-1, keepdim=True)
    rows, columns = np.divmod(np.arange(16), 4)
    distances_NK = 8 * np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    expected_BA = (matrix_BANK.detach().numpy() * distances_NK).sum(axis=-1).mean(axis=-1)

    found = attention_distance(model, images_BCHW)
    assert found.heads[0] == pytest.approx(expected_BA.mean(axis=0), rel=1e-10)
    assert found.quantiles[0] is not None
    assert found.quantiles[0][2] == pytest.approx(np.median(expected_BA, axis=0), rel=1e-10)
    assert list(found.series()["nearest head"]) == [pytest.approx(expected_BA.mean(axis=0).min(), rel=1e-10)]


@pytest.mark.parametrize("name", FAMILIES)
def test_positions_are_those_of_the_tokens_that_attention_depends_on(name: str) -> None:
    """A key at a place must depend on the tokens there: the gradient of attention finds out where it really is."""
    model = tiny(name)
    watched = WatchedModel(model)
    for index, layer in enumerate(watched.layers):
        attention = getattr(layer.block, "attn_out", layer.block.attn if hasattr(layer.block, "attn") else None)
        if attention is None:
            continue  # a performer
        kept: list[Tensor] = []
        attention.attn_drop.register_forward_hook(lambda module, args, output, kept=kept: kept.append(output))
        checked: list[int] = []

        def on_layer(tokens, index=index, layer=layer, kept=kept, checked=checked) -> None:  # type: ignore[no-untyped-def]
            if tokens.index != index:
                return
            positions = attention_positions(watched, layer, tokens.grid)
            queries_WN2, keys_WK2 = positions.queries_WN2, positions.keys_WK2
            for window in {0, len(keys_WK2) - 1}:
                known = keys_WK2[window].isfinite().all(dim=1).nonzero().flatten().tolist()
                query, key, other = -1, known[-1], known[0]
                # The difference of two logarithms depends on the query and on these two keys alone.
                logs_AK = kept[-1][window, :, query].log()
                difference = (logs_AK[:, key] - logs_AK[:, other]).sum()
                (gradient,) = torch.autograd.grad(difference, tokens.before, retain_graph=True)
                reached_M = tokens.image_tokens(gradient).abs().sum(dim=(0, 2))
                half = (tokens.grid[0] // math.isqrt(len(known)) - 1) / 2 if "pvt" in name else 0
                ends = [
                    (queries_WN2[window, query].tolist(), 0.0),
                    (keys_WK2[window, key].tolist(), half),
                    (keys_WK2[window, other].tolist(), half),
                ]
                expected = {
                    row * tokens.grid[1] + column
                    for place, reach in ends
                    for row, column in itertools.product(*map(range, tokens.grid))
                    if max(abs(row - place[0]), abs(column - place[1])) <= reach
                }
                assert set((reached_M > 1e-9 * reached_M.max()).nonzero().flatten().tolist()) == expected
                checked.append(window)

        watched.visit_cut(images(model, 1), on_layer)
        assert checked, layer.name


def test_a_shifted_window_keeps_the_places_of_its_tokens() -> None:
    watched = WatchedModel(tiny("swin_tiny_patch4_window7_224"))
    layer = watched.layers[1]
    assert layer.block.shift_size == (2, 2)
    positions = attention_positions(watched, layer, (16, 16))
    assert positions.queries_WN2.shape == (16, 16, 2)
    assert positions.queries_WN2[0, 0].tolist() == [2, 2]
    assert positions.queries_WN2[0, -1].tolist() == [5, 5]
    assert positions.queries_WN2[-1, -1].tolist() == [1, 1], "the last window wraps around"
    places = {tuple(place) for place in positions.queries_WN2.flatten(0, 1).tolist()}
    assert places == set(itertools.product(range(16), range(16)))


def test_padding_of_windows_is_nowhere() -> None:
    watched = WatchedModel(tiny("swin_tiny_patch4_window7_224"))
    positions = attention_positions(watched, watched.layers[0], (6, 5))
    known_WN2 = positions.queries_WN2[positions.queries_WN2.isfinite().all(dim=2)]
    assert {tuple(place) for place in known_WN2.tolist()} == set(itertools.product(range(6), range(5)))
    assert len(known_WN2) == 30


def test_a_key_of_pvt_lies_in_the_middle_of_its_tokens() -> None:
    watched = WatchedModel(tiny("pvt_tiny"))
    positions = attention_positions(watched, watched.layers[0], (16, 8))
    assert positions.keys_WK2[0].tolist() == [[3.5, 3.5], [11.5, 3.5]]
    assert len(positions.queries_WN2[0]) == 128


def test_windows_look_no_farther_than_their_diagonal() -> None:
    model = tiny("swin_tiny_patch4_window7_224")
    found = attention_distance(model, images(model))
    first = found.heads[0]
    assert first is not None
    assert 0 < first.max() < math.hypot(3, 3) * 4


def test_performers_have_no_weights_and_say_so() -> None:
    model = tiny("t2t_vit_7")
    found = attention_distance(model, images(model))
    assert [heads is None for heads in found.heads] == [True, True, False, False]
    assert "linear" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "reason"), [("xcit_nano_12_p16_224", "channels to channels"), ("resnet10t", "layout")]
)
def test_models_without_attention_between_tokens_are_refused_in_a_sentence(name: str, reason: str) -> None:
    import timm

    model = timm.create_model(name)
    with pytest.raises(NotMeasurableError, match=reason):
        attention_distance(model, torch.randn(1, 3, 64, 64))


def test_batches_change_nothing_and_the_model_stays_as_it_was() -> None:
    model = tiny("localvit_tiny_patch16_224").train()
    shown = images(model, 5)
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    whole, parts = attention_distance(model, shown), attention_distance(model, shown.split(2))
    for one, other in zip(whole.heads, parts.heads, strict=True):
        assert one is not None
        assert one == pytest.approx(other, rel=1e-10)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert hooks == sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("wrong", [torch.zeros(0, 3, 32, 32), torch.zeros(3, 32, 32)])
def test_no_images_are_refused(wrong: Tensor) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        attention_distance(tiny("deit_tiny_patch16_224"), wrong)
