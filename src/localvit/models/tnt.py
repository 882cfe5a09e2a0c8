"""TNT-T (arXiv 2103.00112) and LocalViT-TNT: timm's TNT in the layout of the paper, with locality in the outer MLPs."""

from typing import Any

from timm.models import TNT, generate_default_cfgs, register_model
from timm.models.tnt import checkpoint_filter_fn
from torch import nn

from localvit.locality import LocalityConfig
from localvit.models.build import RELEASE, Placements, build, pretrained_config

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


def _create(variant: str, pretrained: bool, placements: Placements, **model_args: Any) -> nn.Module:
    return build(TNT, variant, pretrained, placements=placements, filter_fn=checkpoint_filter_fn, **model_args)


def _everywhere(embed_dim: int) -> Placements:
    return [(LocalityConfig(channel_attention="se", se_reduction=embed_dim), "all")]


@register_model
def tnt_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """TNT-T, the baseline of LocalViT-TNT."""
    return _create("tnt_tiny_patch16_224", pretrained, (), **(_TINY | kwargs))


@register_model
def localvit_tnt_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """LocalViT-TNT: h-swish and SE with reduction 192 (bottleneck of 4 channels) in the outer transformer."""
    return _create("localvit_tnt_tiny_patch16_224", pretrained, _everywhere(192), **(_TINY | kwargs))


@register_model
def localvit_tnt_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """LocalViT-TNT on TNT-S, with SE reduction 384."""
    return _create("localvit_tnt_small_patch16_224", pretrained, _everywhere(384), **(_SMALL | kwargs))
