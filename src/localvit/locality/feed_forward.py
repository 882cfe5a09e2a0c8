"""The mechanism of LocalViT (arXiv 2104.05707, section 3): a feed-forward network whose tokens meet their neighbours.

The feed-forward network of a transformer is two linear layers applied to every token alone: two 1x1 convolutions
on the token grid. Between them LocalViT puts the depth-wise convolution that makes it an inverted residual block:

    tokens -> grid -> expand 1x1 -> depth-wise k x k -> channel attention -> project 1x1 -> + input -> tokens

Shape suffixes: B images, N = P + H * W tokens, P prefix tokens (class, distillation, registers), D channels of a
token, E = expansion_ratio * D hidden channels, H x W the token grid.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from localvit.locality.channel_attention import attend, channel_attention
from localvit.locality.config import LocalityConfig
from localvit.locality.kernels import norm_act, triton_stage
from localvit.locality.kernels.convolve import convolve

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu6": nn.ReLU6,
    "hswish": nn.Hardswish,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


class GridFeedForward(nn.Module):
    """What is done on the token grid as a step of a transformer: prefix tokens pass by, the input is added.

    Args:
        config: whether the input is added.
        num_prefix_tokens: tokens P in front of the grid, which pass through unchanged.
    """

    def __init__(self, config: LocalityConfig, num_prefix_tokens: int) -> None:
        super().__init__()
        self.config = config
        self.num_prefix_tokens = num_prefix_tokens

    def forward(self, x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """Let each image token exchange information with its neighbours on the grid.

        Args:
            x_BND: tokens (B, P + H * W, D): prefix tokens, then the grid row by row.
            grid: its height and width (H, W) in tokens.

        Returns:
            Tokens (B, P + H * W, D).

        Raises:
            ValueError: where the number of tokens is not P + H * W.
        """
        prefix = self.num_prefix_tokens
        out_BMD = self.branch(x_BND, grid)
        if self.config.residual:
            out_BMD = x_BND[:, prefix:] + out_BMD
        return torch.cat([x_BND[:, :prefix], out_BMD], dim=1) if prefix else out_BMD

    def branch(self, x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """What the network adds to the image tokens (B, H * W, D); arguments and errors as for ``forward``."""
        return on_grid(self._on_grid, x_BND, grid, self.num_prefix_tokens)

    def _on_grid(self, image_BDHW: Tensor) -> Tensor:
        raise NotImplementedError


class LocalityFeedForward(GridFeedForward):
    """The feed-forward network of a LocalViT block, its residual connection included.

    It stands for norm, MLP and residual of a transformer block: no norm comes before it, batch norms are inside.

    Args:
        dim: channels D of a token.
        config: what the network is made of.
        num_prefix_tokens: tokens P in front of the grid, which pass through unchanged.

    Raises:
        ValueError: where ``config`` leaves a layer without channels at this ``dim``, or for a negative prefix.
    """

    def __init__(self, dim: int, config: LocalityConfig | None = None, *, num_prefix_tokens: int = 0) -> None:
        if num_prefix_tokens < 0:
            raise ValueError(f"num_prefix_tokens is {num_prefix_tokens}; it must be 0 or more")
        config = config or LocalityConfig()
        super().__init__(config, num_prefix_tokens)
        hidden = config.hidden_channels(dim)
        activation = ACTIVATIONS[config.activation]

        self.expand = _conv_norm(dim, hidden, 1, activation=activation)
        self.depthwise = (
            _conv_norm(hidden, hidden, config.kernel_size, groups=hidden, activation=activation)
            if config.depthwise
            else nn.Identity()
        )
        self.channel_attention = channel_attention(config.channel_attention, hidden, config.se_reduction)
        self.project = _conv_norm(hidden, dim, 1)
        self.uses_triton = False

    def _on_grid(self, image_BDHW: Tensor) -> Tensor:
        out_BDHW: Tensor
        stages = [stage for stage in (self.expand, self.depthwise) if isinstance(stage, ConvNormAct)]
        if not (torch.is_grad_enabled() and all(norm_act.fits(stage.norm, stage.act) for stage in stages)):
            out_BDHW = self.project(self.channel_attention(self.depthwise(self.expand(image_BDHW))))
            return out_BDHW
        # The same steps, cut where a hidden map is stored: after a convolution, before its norm.
        z_BEHW, statistics = convolve(self.expand.conv, image_BDHW), None
        if isinstance(self.depthwise, ConvNormAct):
            if self.uses_triton:
                z_BEHW, statistics = triton_stage.run(z_BEHW, self.expand, self.depthwise, self.config.activation)
            else:
                mix = partial(convolve, self.depthwise.conv)
                z_BEHW = norm_act.then(mix, z_BEHW, self.expand.norm, self.expand.act)
        z_BDHW = norm_act.then(self._attend_and_project, z_BEHW, stages[-1].norm, stages[-1].act, statistics)
        out_BDHW = self.project.norm(z_BDHW)
        return out_BDHW

    def _attend_and_project(self, image_BEHW: Tensor) -> Tensor:
        return convolve(self.project.conv, attend(self.channel_attention, image_BEHW))


class ConvNormAct(nn.Sequential):
    """A convolution that keeps the grid, its batch norm and its activation."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    act: nn.Module


class HiddenLocality(nn.Module):
    """A depth-wise convolution for the hidden tokens of an MLP that has already learned something.

    It adds ``attention(convolution(x))`` to its input. The convolution starts at zero, so the MLP gives exactly what it
    gave before, and training can only move away from that. There is no norm and no activation of its own.

    Args:
        hidden: channels E of the hidden tokens.
        config: kernel size and channel attention; expansion and activation are those of the MLP.
        num_prefix_tokens: tokens P in front of the grid, which pass through unchanged.
    """

    def __init__(self, hidden: int, config: LocalityConfig, *, num_prefix_tokens: int = 0) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        size = config.kernel_size
        self.depthwise = nn.Conv2d(hidden, hidden, size, padding=size // 2, groups=hidden, bias=False)
        nn.init.zeros_(self.depthwise.weight)
        self.channel_attention = channel_attention(config.channel_attention, hidden, config.se_reduction)

    def forward(self, x_BNE: Tensor, grid: tuple[int, int]) -> Tensor:
        """Hidden tokens (B, P + H * W, E) to the same; ValueError where they do not fill a grid of (H, W)."""
        prefix = self.num_prefix_tokens
        out_BME = x_BNE[:, prefix:] + on_grid(self._on_grid, x_BNE, grid, prefix)
        return torch.cat([x_BNE[:, :prefix], out_BME], dim=1) if prefix else out_BME

    def _on_grid(self, image_BEHW: Tensor) -> Tensor:
        out_BEHW: Tensor = self.channel_attention(self.depthwise(image_BEHW))
        return out_BEHW


def on_grid(
    function: Callable[[Tensor], Tensor], x_BND: Tensor, grid: tuple[int, int], num_prefix_tokens: int
) -> Tensor:
    """Apply ``function`` to the image tokens as a feature map (B, D, H, W), and give them back as (B, H * W, D).

    The map is a view of the tokens: they are channels-last already.
    """
    height, width = grid
    if x_BND.shape[1] != num_prefix_tokens + height * width:
        raise ValueError(
            f"got {x_BND.shape[1]} tokens; num_prefix_tokens={num_prefix_tokens} and a grid of {height} x {width} "
            f"make {num_prefix_tokens + height * width}"
        )
    image_BDHW = x_BND[:, num_prefix_tokens:].unflatten(1, (height, width)).permute(0, 3, 1, 2)
    return function(image_BDHW).permute(0, 2, 3, 1).flatten(1, 2)


def _conv_norm(
    channels_in: int,
    channels_out: int,
    kernel_size: int,
    *,
    groups: int = 1,
    activation: type[nn.Module] | None = None,
) -> ConvNormAct:
    """Convolution that keeps the grid, batch norm and, where given, activation."""
    conv = nn.Conv2d(channels_in, channels_out, kernel_size, padding=kernel_size // 2, groups=groups, bias=False)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv, norm=nn.BatchNorm2d(channels_out))
    if activation is not None:
        layers["act"] = activation()
    return ConvNormAct(layers)
