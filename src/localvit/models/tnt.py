"""TNT-T (arXiv 2103.00112) and LocalViT-TNT: timm's TNT in the layout of the paper, with locality in the outer MLPs."""

from typing import Any

from timm.models import TNT, generate_default_cfgs, register_model
from timm.models.tnt import checkpoint_filter_fn
from torch import nn

from localvit.locality.config import LocalityConfig
from localvit.locality.localize import localize
from localvit.models.build import RELEASE, Fields, build, pretrained_config

_KEYS = {"first_conv": "pixel_embed.proj", "classifier": "head"}
default_cfgs = generate_default_cfgs(
    {
        "tnt_tiny_patch16_224": pretrained_config(**_KEYS),
        "localvit_tnt_tiny_patch16_224.in1k": pretrained_config(url=f"{RELEASE}/localvit_tnt.pth", **_KEYS),
        "localvit_tnt_small_patch16_224": pretrained_config(**_KEYS),
    }
)

_TINY = {
    "patch_size": 16,
    "embed_dim": 192,
    "inner_dim": 12,
    "depth": 12,
    "num_heads_outer": 3,
    "num_heads_inner": 3,
    "legacy": True,
}
_SMALL = _TINY | {"embed_dim": 384, "inner_dim": 24, "num_heads_outer": 6, "num_heads_inner": 4}


def _create(variant: str, pretrained: bool, locality: Fields | None, **model_args: Any) -> nn.Module:
    def place(model: Any) -> None:
        """The outer transformer gets h-swish and SE with reduction d, which is a bottleneck of 4 channels."""
        config = LocalityConfig(channel_attention="se", se_reduction=model.embed_dim)
        localize(model, config.changed(locality))

    return build(TNT, variant, pretrained, place=place, filter_fn=checkpoint_filter_fn, **model_args)


@register_model
def tnt_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """TNT-T, the baseline of LocalViT-TNT."""
    return build(TNT, "tnt_tiny_patch16_224", pretrained, filter_fn=checkpoint_filter_fn, **(_TINY | kwargs))


@register_model
def localvit_tnt_tiny_patch16_224(pretrained: bool = False, locality: Fields | None = None, **kwargs: Any) -> nn.Module:
    """LocalViT-TNT: TNT-T with h-swish and SE."""
    return _create("localvit_tnt_tiny_patch16_224", pretrained, locality, **(_TINY | kwargs))


@register_model
def localvit_tnt_small_patch16_224(
    pretrained: bool = False, locality: Fields | None = None, **kwargs: Any
) -> nn.Module:
    """LocalViT-TNT on TNT-S."""
    return _create("localvit_tnt_small_patch16_224", pretrained, locality, **(_SMALL | kwargs))
