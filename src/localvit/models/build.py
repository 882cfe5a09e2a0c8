"""What the model files share: a baseline built, localized and given its weights, the way timm does it."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg
from torch import Tensor, nn

from localvit.official_keys import from_official
from localvit.locality import LocalityConfig
from localvit.localize import Layers, localize

RELEASE = "https://github.com/ofsoundof/LocalViT/releases/download/v1.0.0"
Filter = Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]]
Placements = Sequence[tuple[LocalityConfig, Layers]]


def pretrained_config(**config: Any) -> dict[str, Any]:
    """A model's weights and input as timm describes them: the paper's evaluation, and ``config``."""
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
    model_class: type[nn.Module],
    variant: str,
    pretrained: bool,
    *,
    placements: Placements = (),
    filter_fn: Filter | None = None,
    out_indices: int | Sequence[int] = 3,
    **model_args: Any,
) -> nn.Module:
    """Create ``model_class``, localize it, and load its weights where they are asked for.

    Args:
        model_class: the baseline.
        variant: name that the model is registered under.
        pretrained: whether to load weights, from the release or from what ``pretrained_cfg_overlay`` names.
        placements: mechanisms and the layers each goes to; none for a baseline.
        filter_fn: timm's own adaptation of a state dict to the model, such as another image size.
        out_indices: feature maps of ``features_only``, by default.
        model_args: of the model class and of timm's builder.
    """

    def create(**arguments: Any) -> nn.Module:
        model = model_class(**arguments)
        for config, layers in placements:
            localize(model, config, layers=layers)
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
