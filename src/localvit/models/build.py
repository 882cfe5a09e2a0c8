"""What the model files share: build a baseline, localize it and load its weights, the way timm does it."""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import resample_abs_pos_embed
from timm.models import build_model_with_cfg
from torch import Tensor, nn

from localvit.models.official_keys import from_official

RELEASE = "https://github.com/ofsoundof/LocalViT/releases/download/v1.0.0"
Fields = Mapping[str, Any]  # fields of LocalityConfig that a caller changes in all layers of a model
Filter = Callable[[dict[str, Tensor], Any], dict[str, Tensor]]


def pretrained_config(**config: Any) -> dict[str, Any]:
    """Describe a model's weights and input to timm: the paper's evaluation settings, updated with ``config``."""
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "fixed_input_size": True,
        "crop_pct": 224 / 256,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "license": "apache-2.0",
        **config,
    }


def build(
    model_class: Callable[..., nn.Module],
    variant: str,
    pretrained: bool,
    *,
    place: Callable[[Any], object] | None = None,
    filter_fn: Filter | None = None,
    out_indices: int | Sequence[int] = 3,
    **model_args: Any,
) -> nn.Module:
    """Create ``model_class``, localize it, and load its weights if requested.

    Args:
        model_class: creates the baseline from ``model_args``.
        variant: name under which the model is registered.
        pretrained: whether to load weights, from the release or from what ``pretrained_cfg_overlay`` names.
        place: puts locality into the model; None for a baseline.
        filter_fn: timm's adaptation of a state dict to the model, such as to another image size.
        out_indices: default feature maps of ``features_only``.
        model_args: arguments of the model class and of timm's builder.
    """

    def create(**arguments: Any) -> nn.Module:
        model = model_class(**arguments)
        if place is not None:
            place(model)
        return model

    def adapt(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
        converted = from_official(state_dict.get("model", state_dict), model)
        return filter_fn(converted, model) if filter_fn is not None else converted

    # The authors' files keep their command-line arguments, a class that only holds attributes.
    with torch.serialization.safe_globals([argparse.Namespace]):
        model: nn.Module = build_model_with_cfg(
            create,
            variant,
            pretrained,
            pretrained_filter_fn=adapt,
            feature_cfg={"out_indices": out_indices, "feature_cls": "getter"},
            **model_args,
        )
    return model


def resample_pos_embed(pos_embed_1ND: Tensor, grid: tuple[int, int], num_prefix_tokens: int) -> Tensor:
    """Fit the position embedding (1, P + N, D) of a checkpoint, whose grid is not recorded, to a grid of (H, W).

    Raises:
        ValueError: if it has to be resampled, but was not made for a square grid.
    """
    tokens = pos_embed_1ND.shape[1] - num_prefix_tokens
    side = math.isqrt(tokens)
    if side * side == tokens:
        return resampled_to_grid(pos_embed_1ND, (side, side), grid, num_prefix_tokens)
    if tokens == grid[0] * grid[1]:
        return pos_embed_1ND
    raise ValueError(
        f"the checkpoint's pos_embed has {tokens} tokens and the model's grid is {grid[0]} x {grid[1]}; only the "
        "embedding of a square image can be resampled. Create the model with the checkpoint's img_size: it accepts "
        "images of other sizes"
    )


def resampled_to_grid(
    pos_embed_1ND: Tensor, old_grid: tuple[int, int], grid: tuple[int, int], num_prefix_tokens: int
) -> Tensor:
    """A position embedding (1, P + H * W, D) on another grid of (H, W), by bicubic interpolation."""
    if grid == old_grid:  # timm would interpolate even then when exporting
        return pos_embed_1ND
    resampled: Tensor = resample_abs_pos_embed(
        pos_embed_1ND, new_size=list(grid), old_size=list(old_grid), num_prefix_tokens=num_prefix_tokens
    )
    return resampled
