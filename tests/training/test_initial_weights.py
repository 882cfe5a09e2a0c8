"""Initial weights: a function of seed, name and shape, with the distributions of the plain construction.

Shape suffixes: M random features, D channels.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from scipy.stats import ks_2samp
from torch import Tensor, nn

import localvit.models  # noqa: F401  # registers the models of the paper
from localvit import LocalityConfig, localize
from localvit.data import InputConfig
from localvit.models.catalog import PUBLISHED
from localvit.models.weights.checkpoints import save_checkpoint
from localvit.studies.compose import compose, read_yaml
from localvit.system.shipped import shipped
from localvit.training import ModelConfig, RunConfig
from localvit.training.initial_model import build_model
from localvit.training.initial_weights import draw_by_name
from localvit.training.overrides import run_config, with_overrides

GREY = InputConfig((8, 8), 1, (0.3,), (0.37,), crop_fraction=1.0)
ARGUMENTS: dict[str, Any] = {"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2}
DEIT = ModelConfig("deit_tiny_patch16_224", ARGUMENTS)


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, those that are not saved included."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def variants_of(study: str, scale: str) -> dict[str, RunConfig]:
    """The runs of a study's variants, by name, without the weights that a run may start from."""
    composed = compose(read_yaml(shipped("study")[study]), scale)
    fresh = {"model.pretrained": False, "model.checkpoint": None}
    return {
        name: with_overrides(run_config(composed["recipe"]), {**overrides, **fresh})
        for name, overrides in composed["variants"].items()
    }


_DIGESTS: dict[str, tuple[str, dict[str, tuple[torch.Size, str]]]] = {}


def digests(config: RunConfig) -> tuple[str, dict[str, tuple[torch.Size, str]]]:
    """Class of the initial model, and shape and digest of every tensor; studies share many of their models."""
    key = json.dumps([asdict(config.model), asdict(config.input)])
    if key not in _DIGESTS:
        model = build_model(config.model, config.input, num_classes=10, seed=3)
        found = {
            name: (value.shape, hashlib.sha256(value.detach().numpy().tobytes()).hexdigest())
            for name, value in tensors(model).items()
        }
        _DIGESTS[key] = type(model).__name__, found
    return _DIGESTS[key]


# Each study at the first scale that its file names; the others are slow.
AT_SCALES = [
    pytest.param(
        study,
        scale,
        id=f"{study}-{scale}",
        marks=[] if scale == next(iter(named)) else pytest.mark.slow,
    )
    for study, path in shipped("study").items()
    for named in [read_yaml(path).get("scales") or {"digits": {}}]
    for scale in shipped("scale")
]


@pytest.mark.parametrize(("study", "scale"), AT_SCALES)
def test_all_variants_of_all_studies_start_from_equal_weights_where_name_and_shape_are_equal(
    study: str, scale: str
) -> None:
    first: dict[tuple[str, str, torch.Size], tuple[str, str]] = {}
    architectures, alone = set(), set()
    for variant, config in variants_of(study, scale).items():
        architecture, drawn = digests(config)  # other architectures may choose other distributions for the same names
        shared = 0
        for name, (shape, digest) in drawn.items():
            before, expected = first.setdefault((architecture, name, shape), (variant, digest))
            assert digest == expected, f"{name} of {variant} and {before}"
            shared += before != variant and len(shape) > 1
        architectures.add(architecture)
        if not shared:
            alone.add(variant)
    assert len(alone) == len(architectures)  # the first of each


# Small forms of the architectures of the paper, which are daily work; the slow tests build every model as it is.
SMALL: dict[str, dict[str, Any]] = {
    "deit_tiny_patch16_224": {"depth": 2},
    "localvit_tiny_patch16_224": {"depth": 2},
    "t2t_vit_7": {"depth": 1},
    "localvit_t2t_7": {"depth": 1},
    "pvt_tiny": {"img_size": 64},
    "localvit_pvt_tiny": {"img_size": 64},
    "tnt_s_legacy_patch16_224": {"depth": 1},
    "localvit_tnt_tiny_patch16_224": {"depth": 1},
    "swin_tiny_patch4_window7_224": {"depths": (1, 2), "num_heads": (3, 6)},
    "localvit_swin_tiny_patch4_window7_224": {"depths": (1, 2), "num_heads": (3, 6)},
}
# Other ways of drawing weights: layer scale, relative positions, stems, pooled attention, weights in slices.
FAMILIES = [
    "beitv2_base_patch16_224",
    "cait_xxs24_224",
    "davit_tiny",
    "eva02_tiny_patch14_224",
    "gcvit_xxtiny",
    "hiera_tiny_224",
    "mvitv2_tiny",
    "pvt_v2_b0",
    "swinv2_tiny_window8_256",
    "twins_svt_small",
    "vit_base_patch16_siglip_224",
    "vit_srelpos_small_patch16_224",
    "vit_tiny_r_s16_p8_224",
    "volo_d1_224",
    "xcit_nano_12_p16_224",
]


def create(name: str, arguments: dict[str, Any], mode: Any = None) -> nn.Module:
    model: nn.Module = timm.create_model(name, num_classes=10, **arguments)
    return model if mode is None else localize(model, LocalityConfig(channel_attention="se"), mode=mode)


BUILDS = [
    *(pytest.param(partial(create, name, arguments), id=name) for name, arguments in SMALL.items()),
    *(
        pytest.param(partial(create, "vit_tiny_patch16_224", {"depth": 3}, mode), id=f"localized, {mode}")
        for mode in ("replace", "residual")
    ),
    *(
        pytest.param(partial(create, published.name, {}), id=f"{published.name}, whole", marks=pytest.mark.slow)
        for published in PUBLISHED
    ),
    *(
        pytest.param(partial(create, name, {}, mode), id=f"{name}, {mode}", marks=pytest.mark.slow)
        for name in FAMILIES
        for mode in (None, "residual")
    ),
]


@pytest.mark.parametrize("build", BUILDS)
def test_drawn_weights_differ_between_seeds_and_names_and_have_the_plain_distribution(
    build: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(1)
    plain = tensors(build())
    torch.manual_seed(2)
    other_plain = tensors(build())
    one, other = tensors(draw_by_name(build, 1)), tensors(draw_by_name(build, 2))
    assert list(one) == list(plain)
    drawn = [name for name, value in plain.items() if not torch.equal(value, other_plain[name])]
    assert len(drawn) > 3
    seen: dict[bytes, str] = {}
    for name, value in plain.items():
        if name not in drawn:
            torch.testing.assert_close(one[name], value, rtol=0, atol=0)
            continue
        assert not torch.equal(one[name], other[name]), name
        same = seen.setdefault(one[name].detach().flatten()[:8].numpy().tobytes(), name)
        assert same == name, f"{same} and {name} begin alike"
        assert_same_distribution(one[name], torch.cat([value, other_plain[name]]), name)


def assert_same_distribution(value: Tensor, expected: Tensor, name: str) -> None:
    ours_N, plain_N = (tensor.detach().double().flatten().numpy() for tensor in (value, expected))
    ours_N, plain_N = (values_N[:: 1 + len(values_N) // 20_000] for values_N in (ours_N, plain_N))
    # One of thousands of tensors may be unlikely.
    assert ks_2samp(ours_N, plain_N).pvalue > 1e-7, name
    if len(ours_N) >= 1000:
        # Without extremes: where float32 rounds to one, timm's truncated normal gives its bound of 100 deviations.
        bounds = [float(np.quantile(np.abs(values_N), 0.998)) for values_N in (ours_N, plain_N)]
        stds = [values_N[np.abs(values_N) <= bounds[1]].std() for values_N in (ours_N, plain_N)]
        assert bounds[0] == pytest.approx(bounds[1], rel=0.25), name
        assert stds[0] == pytest.approx(stds[1], rel=0.1), name


@pytest.mark.parametrize("seed", [0, 1])
def test_the_random_features_of_t2t_stay_orthogonal(seed: int) -> None:
    """Performer's directions are orthogonal, of the same length: w w^T = M I."""
    model = draw_by_name(partial(create, "t2t_vit_7", {"depth": 1}), seed)
    features = {name: value for name, value in tensors(model).items() if name.rpartition(".")[2] == "w"}
    assert features
    for name, w_MD in features.items():
        count = len(w_MD)
        torch.testing.assert_close(w_MD @ w_MD.T, count * torch.eye(count), rtol=0, atol=1e-4 * count, msg=name)


class Ways(nn.Module):
    """The ways in which modules draw their weights."""

    def __init__(self, ways: list[str], width: int = 7) -> None:
        super().__init__()
        for way in ways:
            child = nn.Module()
            self.add_module(way, child)
            child.weight = getattr(self, f"_{way}")(width)

    def _parameter(self, width: int) -> nn.Parameter:
        return nn.Parameter(0.02 * torch.randn(width, width))

    def _filled_twice(self, width: int) -> nn.Parameter:
        layer = nn.Linear(width, width)
        nn.init.trunc_normal_(layer.weight, std=0.02)
        return nn.Parameter(layer.weight.data)

    def _copied(self, width: int) -> nn.Parameter:
        weight = nn.Parameter(torch.zeros(width, width))
        nn.init.orthogonal_(weight)
        return weight

    def _in_slices(self, width: int) -> nn.Parameter:
        weight = nn.Parameter(torch.zeros(width, width))
        with torch.no_grad():
            for row in weight:
                row.copy_(torch.rand(width))
        return weight

    def _assigned(self, width: int) -> nn.Parameter:
        weight = nn.Parameter(torch.zeros(width, width))
        weight.data = torch.rand(width, width).mul(2).double()
        return weight

    def _permuted(self, width: int) -> nn.Parameter:
        return nn.Parameter(torch.randperm(width).float())


WAYS = ["parameter", "filled_twice", "copied", "in_slices", "assigned", "permuted"]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_drawing_is_independent_of_the_other_modules(way: str) -> None:
    alone = draw_by_name(lambda: Ways([way]), 5).get_submodule(way).weight
    for ways in (WAYS, WAYS[::-1]):
        among = draw_by_name(lambda ways=ways: Ways(ways), 5).get_submodule(way).weight  # type: ignore[misc]
        assert torch.equal(alone, among)  # type: ignore[arg-type]
    assert not torch.equal(alone, draw_by_name(lambda: Ways([way]), 6).get_submodule(way).weight)  # type: ignore[arg-type]


def test_what_is_drawn_first_and_replaced_later_does_not_matter() -> None:
    def replaced() -> nn.Module:
        model = Ways(WAYS)
        nn.Linear(30, 30)
        model.parameter = nn.Linear(4, 4)
        return model

    plain, changed = draw_by_name(lambda: Ways(WAYS), 5), draw_by_name(replaced, 5)
    for way in WAYS[1:]:
        assert torch.equal(plain.get_parameter(f"{way}.weight"), changed.get_parameter(f"{way}.weight")), way


def test_a_model_that_is_built_another_way_the_second_time_is_refused() -> None:
    widths = iter([1, 3])
    with pytest.raises(RuntimeError, match="drew 1 times, then 3 times"):
        draw_by_name(lambda: Ways(["in_slices"], next(widths)), 0)


@pytest.mark.parametrize("mode", ["replace", "residual"])
def test_a_checkpoint_gives_its_weights_and_fresh_ones_follow_from_their_names(mode: Any, tmp_path: Path) -> None:
    trained = build_model(DEIT, GREY, num_classes=7, seed=11)
    save_checkpoint(trained, tmp_path / "start.safetensors")
    locality = LocalityConfig()
    start = ModelConfig(
        DEIT.name, ARGUMENTS, checkpoint=str(tmp_path / "start.safetensors"), locality=locality, mode=mode
    )
    fresh = ModelConfig(DEIT.name, ARGUMENTS, locality=locality, mode=mode)
    found = tensors(build_model(start, GREY, num_classes=10, seed=3))
    saved, new = tensors(trained), tensors(build_model(fresh, GREY, num_classes=10, seed=3))
    assert found.keys() == new.keys()
    for name, value in found.items():
        loaded = name in saved and not name.startswith("head")
        assert torch.equal(value, saved[name] if loaded else new[name]), name


def test_a_localized_model_and_its_baseline_share_all_weights_but_the_mlps() -> None:
    plain = tensors(build_model(DEIT, GREY, num_classes=10, seed=3))
    localized = ModelConfig(DEIT.name, ARGUMENTS, locality=LocalityConfig(), layers=[1])
    variant = tensors(build_model(localized, GREY, num_classes=10, seed=3))
    for name in plain.keys() | variant.keys():
        if not name.startswith(("blocks.1.mlp", "blocks.1.norm2")):
            assert torch.equal(plain[name], variant[name]), name
