"""Channel attention (section 3.2 of the paper): scale each channel by a gate computed from the means of all channels.

The modules are timm's. Squeeze-and-excitation is arXiv 1709.01507, efficient channel attention arXiv 1910.03151.
"""

import math

from timm.layers import EcaModule, SqueezeExcite, trunc_normal_
from torch import nn

from localvit.locality.config import ChannelAttention


def channel_attention(kind: ChannelAttention, channels: int, se_reduction: int) -> nn.Module:
    """A channel attention module for feature maps (B, C, H, W).

    Args:
        kind: none, squeeze-and-excitation (se), or efficient channel attention with a sigmoid (eca) or hard sigmoid
            (ecah).
        channels: number of channels C.
        se_reduction: for se, the ratio of channels to bottleneck width.

    Raises:
        ValueError: if the bottleneck would have no channels.
    """
    if kind == "none":
        return nn.Identity()
    if kind == "se":
        return _squeeze_excite(channels, se_reduction)
    gate = "sigmoid" if kind == "eca" else "hard_sigmoid"
    # Pass the kernel size, because timm's own choice never goes below 3 and the authors' does.
    return EcaModule(kernel_size=eca_kernel_size(channels), gate_layer=gate)


def eca_kernel_size(channels: int) -> int:
    """Odd width of ECA's 1-D convolution over ``channels`` channels (arXiv 1910.03151, equation 12)."""
    size = int(abs(math.log2(channels) + 1) / 2)
    return size if size % 2 else size + 1


def _squeeze_excite(channels: int, reduction: int) -> SqueezeExcite:
    width = channels // reduction
    if width < 1:
        raise ValueError(
            f"se_reduction {reduction} of {channels} hidden channels leaves a bottleneck of width 0; "
            f"it must be at most {channels}"
        )
    attention = SqueezeExcite(channels, rd_channels=width, gate_layer="hard_sigmoid")
    # timm's in-place activation would overwrite a tensor that activation checkpointing needs again.
    attention.act = nn.ReLU()
    # timm implements the two linear layers as 1x1 convolutions; initialize them like the paper's linear layers.
    for layer in (attention.fc1, attention.fc2):
        trunc_normal_(layer.weight, std=0.02)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
    return attention
