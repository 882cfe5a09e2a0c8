"""The choices that make up a locality feed-forward network, and its place in a transformer.

This module does not import PyTorch, so that the command line can answer help and typos at once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from localvit.system.suggestions import did_you_mean

Activation = Literal["relu6", "hswish", "gelu", "silu"]
ChannelAttention = Literal["none", "se", "eca", "ecah"]

Third = Literal["low", "middle", "high"]
Layers = Literal["all"] | Third | Sequence[int | Third]
Mode = Literal["replace", "residual"]


@dataclass(frozen=True)
class LocalityConfig:
    """The choices that make up a locality feed-forward network: the axes of the paper's ablations (sections 3.2 and 4).

    Attributes:
        expansion_ratio: gamma, hidden channels over token channels.
        kernel_size: side of the depth-wise convolution, odd. Size 1 is a control without neighbors.
        activation: activation after the expansion and after the depth-wise convolution.
        channel_attention: channel attention after the depth-wise step: none, squeeze-and-excitation (se), or efficient
            channel attention with a sigmoid (eca) or a hard sigmoid (ecah).
        se_reduction: hidden channels over the width of the bottleneck of se.
        depthwise: whether there is a depth-wise step. Without it, the network sees one token at a time (control).
        residual: whether the input is added to the output.
        permuted: whether the depth-wise convolution sees the tokens of the grid in a fixed random order (control): same
            parameters and multiply-accumulates, but no locality.

    Raises:
        ValueError: if a field has a value that is not allowed.
    """

    expansion_ratio: float = 4.0
    kernel_size: int = 3
    activation: Activation = "hswish"
    channel_attention: ChannelAttention = "none"
    se_reduction: int = 4
    depthwise: bool = True
    residual: bool = True
    permuted: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.expansion_ratio) and self.expansion_ratio > 0):
            raise ValueError(f"expansion_ratio is {self.expansion_ratio}; it must be a positive number, such as 4")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size is {self.kernel_size}; it must be odd (1, 3, 5, ...), so that a token sits in the middle"
            )
        if self.activation not in get_args(Activation):
            raise ValueError(f"activation is {self.activation!r}; it must be one of {', '.join(get_args(Activation))}")
        if self.channel_attention not in get_args(ChannelAttention):
            raise ValueError(
                f"channel_attention is {self.channel_attention!r}; "
                f"it must be one of {', '.join(get_args(ChannelAttention))}"
            )
        if self.se_reduction < 1:
            raise ValueError(f"se_reduction is {self.se_reduction}; it must be a whole number of at least 1")
        if self.permuted and not self.depthwise:
            raise ValueError(
                "permuted is True and depthwise is False; only the depth-wise convolution depends on the order of the "
                "tokens, so without it there is nothing to permute"
            )

    def changed(self, values: Mapping[str, Any] | None) -> "LocalityConfig":
        """A copy with other values in some fields, given by name.

        Raises:
            ValueError: for an unknown field, or a value of another type or that is not allowed.
        """
        types = {field.name: type(field.default) for field in fields(self)}
        for name, value in (values or {}).items():
            if name not in types:
                hint = did_you_mean(name, types)
                raise ValueError(f"locality has no field {name!r}; its fields are {', '.join(types)}.{hint}")
            if type(value) is not types[name] and (type(value), types[name]) != (int, float):
                raise ValueError(f"locality has {name}={value!r}; it must be of type {types[name].__name__}")
        return replace(self, **(values or {}))

    def hidden_channels(self, dim: int) -> int:
        """Number E of hidden channels for tokens of ``dim`` channels; ValueError if there are none."""
        hidden = int(self.expansion_ratio * dim)
        if hidden < 1:
            raise ValueError(f"expansion_ratio {self.expansion_ratio} of dim {dim} leaves {hidden} hidden channels")
        return hidden
