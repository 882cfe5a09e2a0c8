"""Frequencies, similarity of tokens and alignment of layers against formulas."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from toy_models import MixingModel, OnMap, Zero, convolution, images, tiny

from localvit.analysis import NotMeasurableError, frequency_amplitudes, linear_cka, token_similarity
from localvit.analysis.measures.alignment import unbiased_hsic
from localvit.analysis.measures.frequencies import diagonal_amplitudes, diagonal_frequencies, relative_log
from localvit.analysis.measures.token_similarity import mean_cosine


def curve(map_HW: Tensor) -> NDArray[np.float64]:
    return relative_log(diagonal_amplitudes(map_HW.double()[None, None]).numpy())


def chessboard(rows: int, columns: int) -> Tensor:
    return 1.0 - 2.0 * ((torch.arange(rows)[:, None] + torch.arange(columns)) % 2)


def test_a_constant_map_has_no_high_frequency() -> None:
    assert (curve(torch.full((8, 8), 3.0))[1:] < -30).all()


def test_a_chessboard_is_at_pi() -> None:
    found = curve(2 + 0.5 * chessboard(8, 6))
    assert found[-1] == pytest.approx(math.log(0.5 / 2))
    assert (found[1:-1] < -30).all()
    assert diagonal_frequencies((8, 6))[-1] == 1


def test_a_sinusoid_is_at_its_own_frequency() -> None:
    phase = 2 * math.pi * torch.arange(16) / 16
    found = curve(1 + torch.cos(3 * (phase[:, None] + phase)))
    assert int(found[1:].argmax()) + 1 == 3
    assert found[3] == pytest.approx(math.log(0.5))
    assert diagonal_frequencies((16, 16))[3] == pytest.approx(3 / 8)


def test_an_odd_grid_ends_below_pi() -> None:
    assert diagonal_frequencies((7, 7)).tolist() == pytest.approx([0, 2 / 7, 4 / 7, 6 / 7])


def test_white_noise_through_a_box_loses_ln_9_at_pi() -> None:
    """A box of 3 taps answers with 1/3 at pi along each axis."""
    noise_BDHW = torch.randn(400, 4, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    box = torch.ones(3, 3) / 9
    padded = torch.nn.functional.pad(noise_BDHW.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="circular")
    smooth_BDHW = torch.nn.functional.conv2d(padded, box.double()[None, None]).unflatten(0, (400, 4))[:, :, 0]
    found = relative_log(diagonal_amplitudes(smooth_BDHW).numpy())
    assert found[-1] == pytest.approx(math.log(1 / 9), abs=0.06)


def test_layers_are_read_after_either_branch() -> None:
    sharpen = OnMap(lambda x: x - x.roll(1, 2))
    model = MixingModel((sharpen, convolution(torch.ones(3, 3) / 9, skip=False)))
    noise = 1 + torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = frequency_amplitudes(model, noise)
    before, after = found.after_attention[0], found.after_feed_forward[0]
    attended = noise + noise - noise.roll(1, 2)
    assert before == pytest.approx(relative_log(diagonal_amplitudes(attended).numpy()), rel=1e-5)
    assert list(found.series()["change by feed-forward"]) == [pytest.approx(after[-1] - before[-1])]
    assert after[-1] < before[-1] - 1


def test_grids_of_one_token_have_no_frequencies() -> None:
    with pytest.raises(NotMeasurableError, match="2 x 2"):
        frequency_amplitudes(MixingModel((Zero(), Zero())), torch.randn(1, 1, 1, 5))


def test_equal_tokens_have_similarity_1_and_orthogonal_ones_0() -> None:
    assert mean_cosine(torch.ones(1, 5, 3)).item() == pytest.approx(1)
    assert mean_cosine(torch.eye(4)[None]).item() == pytest.approx(0)
    assert mean_cosine(torch.tensor([[[1.0, 0.0], [-2.0, 0.0]]])).item() == pytest.approx(-1)


def test_similarity_is_the_mean_over_pairs() -> None:
    x_MD = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double()
    pairs = [
        torch.nn.functional.cosine_similarity(x_MD[i], x_MD[j], dim=0).item()
        for i in range(6)
        for j in range(6)
        if i != j
    ]
    assert mean_cosine(x_MD[None]).item() == pytest.approx(np.mean(pairs), rel=1e-12)


def test_prefix_tokens_do_not_count() -> None:
    model = tiny("deit_tiny_patch16_224", depth=1)
    shown = images(model)
    tokens_BND = model.blocks[0](model._pos_embed(model.patch_embed(shown)))
    expected = mean_cosine(tokens_BND[:, 1:]).mean().item()
    assert token_similarity(model, shown).similarity_L[0] == pytest.approx(expected, rel=1e-10)


def features(model: MixingModel, shown: Tensor) -> Tensor:
    """What the only layer of a mixing model returns, flattened."""
    x_BHWD = model.blocks[0](shown.permute(0, 2, 3, 1))
    x_BF: Tensor = x_BHWD.flatten(1)
    return x_BF


def plain_cka(x_BF: Tensor, y_BF: Tensor) -> float:
    """Linear CKA with the unbiased estimate of Song et al., written out with sums over images."""

    def hsic(k: Tensor, m: Tensor) -> float:
        n = len(k)
        k, m = k - torch.diag(k.diag()), m - torch.diag(m.diag())
        one = torch.ones(n, 1).double()
        total = torch.trace(k @ m) + (one.T @ k @ one) * (one.T @ m @ one) / ((n - 1) * (n - 2))
        return float((total - 2 / (n - 2) * (one.T @ k @ m @ one)) / (n * (n - 3)))

    k, m = x_BF @ x_BF.T, y_BF @ y_BF.T
    return hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


def mixing(scale: float = 1.0) -> MixingModel:
    return MixingModel((Zero(), OnMap(lambda x: scale * x.roll(1, 2).sin()))).double()


SHOWN = torch.randn(24, 2, 4, 4, generator=torch.Generator().manual_seed(0)).double()


def test_cka_equals_the_plain_formula_on_a_full_batch() -> None:
    one, other = mixing(), mixing(3)
    found = linear_cka(one, other, SHOWN, batch_size=24)
    assert found.cka_LK[0, 0] == pytest.approx(plain_cka(features(one, SHOWN), features(other, SHOWN)), rel=1e-9)
    assert found.cka_LK[0, 0] < 0.999


def test_cka_does_not_see_rotation_and_scale() -> None:
    generator = torch.Generator().manual_seed(1)
    x_BF = torch.randn(10, 6, generator=generator).double()
    rotation_FF = torch.linalg.qr(torch.randn(6, 6, generator=generator).double()).Q
    y_BF = 7 * x_BF @ rotation_FF
    k, m = x_BF @ x_BF.T, y_BF @ y_BF.T
    cka = unbiased_hsic(k, m) / (unbiased_hsic(k, k) * unbiased_hsic(m, m)).sqrt()
    assert cka.item() == pytest.approx(1, rel=1e-12)


def test_cka_of_independent_features_is_0_on_average() -> None:
    generator = torch.Generator().manual_seed(2)
    x_SBF, y_SBF = (torch.randn(4000, 8, 5, generator=generator).double() for _ in range(2))
    found_S = unbiased_hsic(x_SBF @ x_SBF.mT, y_SBF @ y_SBF.mT)
    assert abs(found_S.mean().item()) < 4 * found_S.std().item() / math.sqrt(4000)


def test_minibatches_add_up() -> None:
    one, other = mixing(), mixing(3)
    sums = np.zeros(3)
    for shown in SHOWN.split(8):
        x_BF, y_BF = features(one, shown), features(other, shown)
        k, m = x_BF @ x_BF.T, y_BF @ y_BF.T
        sums += [unbiased_hsic(k, m).item(), unbiased_hsic(k, k).item(), unbiased_hsic(m, m).item()]
    found = linear_cka(one, other, SHOWN, batch_size=8)
    assert found.cka_LK[0, 0] == pytest.approx(sums[0] / math.sqrt(sums[1] * sums[2]), rel=1e-9)


def test_fewer_than_4_images_are_refused() -> None:
    with pytest.raises(ValueError, match="4 images"):
        linear_cka(mixing(), mixing(), SHOWN[:3])
