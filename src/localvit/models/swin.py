"""LocalViT-Swin: Swin-T (arXiv 2103.14030), as timm builds it, with locality in every layer.

The depth-wise convolution works on the whole feature map of a stage, across the borders of attention windows.
"""

from functools import partial
from typing import Any

from timm.models import SwinTransformer, generate_default_cfgs, register_model
from timm.models.swin_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from localvit.locality.config import LocalityConfig
from localvit.locality.localize import localize
from localvit.models.build import RELEASE, Fields, build, pretrained_config
from localvit.models.official_keys import OfficialKeys, register_official_keys

default_cfgs = generate_default_cfgs(
    {
        "localvit_swin_tiny_patch4_window7_224.in1k": pretrained_config(
            url=f"{RELEASE}/localvit_swin.pth", first_conv="patch_embed.proj", classifier="head.fc"
        )
    }
)

_BODY: dict[str, Any] = {
    "patch_size": 4,
    "window_size": 7,
    "embed_dim": 96,
    "depths": (2, 2, 6, 2),
    "num_heads": (3, 6, 12, 24),
}


def _localize(model: Any, locality: Fields | None) -> None:
    """Every stage gets h-swish and SE with reduction d / 4, which is a bottleneck of 16 channels."""
    first = 0
    for stage in model.layers:
        config = LocalityConfig(channel_attention="se", se_reduction=max(1, stage.blocks[0].dim // 4))
        localize(model, config.changed(locality), layers=range(first, first + len(stage.blocks)))
        first += len(stage.blocks)


@register_model
def localvit_swin_tiny_patch4_window7_224(
    pretrained: bool = False, locality: Fields | None = None, **kwargs: Any
) -> nn.Module:
    """LocalViT-Swin: h-swish and SE with a bottleneck of 16 channels."""
    name = "localvit_swin_tiny_patch4_window7_224"
    body = _BODY | kwargs
    body.setdefault("out_indices", tuple(range(len(body["depths"]))))
    place = partial(_localize, locality=locality)
    return build(SwinTransformer, name, pretrained, place=place, filter_fn=checkpoint_filter_fn, **body)


def _positions_and_masks(model: nn.Module) -> dict[str, Tensor]:
    """Window positions and shift masks, which are in the authors' files; timm computes them."""
    ends = ("attn.relative_position_index", "attn_mask")
    return {name: buffer for name, buffer in model.named_buffers() if name.endswith(ends)}


register_official_keys(
    SwinTransformer,
    OfficialKeys(
        # The authors merge patches at the end of a stage, timm at the start of the next.
        renames=(
            ("layers.0.downsample.", "layers.1.downsample."),
            ("layers.1.downsample.", "layers.2.downsample."),
            ("layers.2.downsample.", "layers.3.downsample."),
            ("head.", "head.fc."),
        ),
        marker="layers.0.downsample.",
        derived=_positions_and_masks,
    ),
)
