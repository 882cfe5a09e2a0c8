"""LocalViT-T and LocalViT-S: DeiT (arXiv 2012.12877) with locality in every layer.

The released models have 4 and 8 attention heads, DeiT-T and DeiT-S 3 and 6. For a controlled comparison with timm's
``deit_tiny_patch16_224``, give both the same ``num_heads``.
"""

from typing import Any

from timm.models import VisionTransformer, generate_default_cfgs, register_model
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import nn

from localvit.locality.config import LocalityConfig
from localvit.locality.localize import localize
from localvit.models.build import RELEASE, Fields, build, pretrained_config

_KEYS = {"first_conv": "patch_embed.proj", "classifier": "head"}
default_cfgs = generate_default_cfgs(
    {
        "localvit_tiny_patch16_224.in1k": pretrained_config(url=f"{RELEASE}/localvit_t.pth", **_KEYS),
        "localvit_tiny_se4_patch16_224.in1k": pretrained_config(url=f"{RELEASE}/localvit_t_se4.pth", **_KEYS),
        "localvit_tiny_relu6_mlp6_patch16_224": pretrained_config(**_KEYS),
        "localvit_small_patch16_224.in1k": pretrained_config(url=f"{RELEASE}/localvit_s.pth", **_KEYS),
    }
)

_TINY = {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 4}
_SMALL = {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 8}


def _create(
    variant: str, pretrained: bool, config: LocalityConfig, locality: Fields | None, **model_args: Any
) -> nn.Module:
    return build(
        VisionTransformer,
        variant,
        pretrained,
        place=lambda model: localize(model, config.changed(locality)),
        filter_fn=checkpoint_filter_fn,
        **model_args,
    )


@register_model
def localvit_tiny_patch16_224(pretrained: bool = False, locality: Fields | None = None, **kwargs: Any) -> nn.Module:
    """LocalViT-T: h-swish and SE-192 (bottleneck of 4 channels), the paper's main model."""
    config = LocalityConfig(channel_attention="se", se_reduction=192)
    return _create("localvit_tiny_patch16_224", pretrained, config, locality, **(_TINY | kwargs))


@register_model
def localvit_tiny_se4_patch16_224(pretrained: bool = False, locality: Fields | None = None, **kwargs: Any) -> nn.Module:
    """LocalViT-T with SE-4 (bottleneck of 192 channels): the paper's most accurate tiny model."""
    config = LocalityConfig(channel_attention="se", se_reduction=4)
    return _create("localvit_tiny_se4_patch16_224", pretrained, config, locality, **(_TINY | kwargs))


@register_model
def localvit_tiny_relu6_mlp6_patch16_224(
    pretrained: bool = False, locality: Fields | None = None, **kwargs: Any
) -> nn.Module:
    """LocalViT-T with ReLU6, expansion ratio 6 and no channel attention."""
    config = LocalityConfig(expansion_ratio=6, activation="relu6")
    return _create("localvit_tiny_relu6_mlp6_patch16_224", pretrained, config, locality, **(_TINY | kwargs))


@register_model
def localvit_small_patch16_224(pretrained: bool = False, locality: Fields | None = None, **kwargs: Any) -> nn.Module:
    """LocalViT-S: h-swish and SE-384 (bottleneck of 4 channels)."""
    config = LocalityConfig(channel_attention="se", se_reduction=384)
    return _create("localvit_small_patch16_224", pretrained, config, locality, **(_SMALL | kwargs))
