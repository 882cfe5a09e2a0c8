"""The initial model of a run: created, loaded and localized."""

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from timm.layers import resize_rel_pos_bias_table, set_fused_attn, use_fused_attn
from timm.models import adapt_input_conv
from torch import Tensor, nn

from localvit.data.config import InputConfig
from localvit.locality.localize import layers_left, localizations, localize
from localvit.models.build import resample_pos_embed
from localvit.models.official_keys import from_official
from localvit.models.weights.checkpoints import read_localizations, read_state_dict, require_fit
from localvit.models.weights.model_description import require_known
from localvit.models.weights.model_file import create_model
from localvit.training.config import ModelConfig
from localvit.training.initial_weights import draw_by_name

# What models raise for arguments that they do not have or cannot use.
_BAD_ARGUMENTS = (AssertionError, IndexError, RuntimeError, TypeError, ValueError, ZeroDivisionError)


def build_model(config: ModelConfig, shown: InputConfig, *, num_classes: int, seed: int | None = None) -> nn.Module:
    """The initial model of a run; the model without locality is built first, then localized.

    Args:
        config: model, weights and locality.
        shown: image size and channels.
        num_classes: number of classes of its head.
        seed: seed of the initial weights. With a seed, models that have a parameter of the same name and shape start
            from the same values of it (:mod:`localvit.training.initial_weights`). None draws from PyTorch's generator.

    Raises:
        ValueError: for a model that timm does not know, weights that do not fit, or locality that cannot be placed.
        FileNotFoundError: if the checkpoint does not exist.
    """
    require_known(config.name)
    build = functools.partial(_build, config, shown, num_classes)
    return build() if seed is None else draw_by_name(build, seed)


def _build(config: ModelConfig, shown: InputConfig, num_classes: int) -> nn.Module:
    model = _baseline(config, shown, num_classes)
    path = None if config.checkpoint is None else Path(config.checkpoint)
    saved = [] if path is None else read_localizations(path) or []
    if path is not None and saved in ([], localizations(model)):
        start_from(model, path)
        path = None
    if config.locality is not None:
        localize(model, config.locality, layers=config.layers, mode=config.mode)
        if config.other_layers is not None and (left := layers_left(model)):
            localize(model, config.other_layers, layers=left, mode=config.mode)
    if path is not None:
        if not localizations(model):
            for call in saved:
                localize(model, call.config, layers=call.layers, mode=call.mode)
        if localizations(model) != saved:
            raise ValueError(
                f"{path} was saved from a model localized as {saved}, and this one is localized as "
                f"{localizations(model)}; leave model.locality out, or give it as in the file"
            )
        start_from(model, path)
    return model


def _baseline(config: ModelConfig, shown: InputConfig, num_classes: int) -> nn.Module:
    try:
        return create_model(
            config.name, shown, num_classes=num_classes, pretrained=config.pretrained, **config.arguments
        )
    except _BAD_ARGUMENTS as error:
        if not config.arguments:
            raise
        raise ValueError(
            f"model.arguments is {config.arguments}, and {config.name} cannot be built with that for images of "
            f"{shown.image_size} pixels: {type(error).__name__}: {error}"
        ) from error


@contextlib.contextmanager
def attention(*, fused: bool) -> Iterator[None]:
    """A context in which timm builds models with fused attention, or without."""
    before, experimental = use_fused_attn(), use_fused_attn(experimental=True)
    set_fused_attn(before and fused, experimental)
    try:
        yield
    finally:
        set_fused_attn(before, experimental)


def start_from(model: nn.Module, path: Path) -> None:
    """Load a checkpoint for fine-tuning, adapted to the model the way timm does it.

    A head for other classes stays fresh, position embeddings and tables of relative positions are resized (bicubic),
    and the first convolution is adapted from three channels to others.

    Raises:
        ValueError: if anything else does not fit; the message lists keys and shapes.
    """
    ours = model.state_dict()
    state_dict = from_official(read_state_dict(path), model)
    fitted = {key: _fit(key, value, ours, model) for key, value in state_dict.items()}
    require_fit(fitted, model, path)
    model.load_state_dict(fitted)


def _fit(key: str, value: Tensor, ours: Mapping[str, Tensor], model: nn.Module) -> Tensor:
    own = ours.get(key)
    if own is None or own.shape == value.shape:
        return value
    if key.rpartition(".")[0] in _names(model, "classifier"):
        return own
    if key.rpartition(".")[0] in _names(model, "first_conv") and value.shape == (own.shape[0], 3, *own.shape[2:]):
        adapted: Tensor = adapt_input_conv(own.shape[1], value)
        return adapted
    if "pos_embed" in key and value.ndim == 3:
        prefix = int(getattr(model, "num_prefix_tokens", 0)) if key == "pos_embed" else 0
        return resample_pos_embed(value, _grid(model, own.shape[1] - prefix), prefix)
    if key.endswith("relative_position_bias_table"):
        window: Any = model.get_submodule(key.rpartition(".")[0]).window_size
        resized: Tensor = resize_rel_pos_bias_table(value, window, own.shape)
        return resized
    return value


def _names(model: nn.Module, what: str) -> tuple[str, ...]:
    config: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]  # timm's models have it
    names = config.get(what) or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _grid(model: nn.Module, tokens: int) -> tuple[int, int]:
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if grid is not None and grid[0] * grid[1] == tokens:
        return (grid[0], grid[1])
    side = math.isqrt(tokens)
    return (side, tokens // side)
