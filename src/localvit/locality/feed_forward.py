"""The mechanism of LocalViT (arXiv 2104.05707, section 3): a feed-forward network in which neighboring tokens interact.

The feed-forward network of a transformer is two linear layers applied to each token separately, which is the same as
two 1x1 convolutions on the token grid. LocalViT puts a depth-wise convolution between them. The result is an inverted
residual block:

    tokens -> grid -> expand 1x1 -> depth-wise k x k -> channel attention -> project 1x1 -> + input -> tokens

Shape suffixes: B images, N = P + H * W tokens, P prefix tokens (class, distillation, registers), D channels of a
token, E = expansion_ratio * D hidden channels, H x W the token grid.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from localvit.locality.channel_attention import channel_attention
from localvit.locality.config import LocalityConfig
from localvit.locality.permutation import permute, restore

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu6": nn.ReLU6,
    "hswish": nn.Hardswish,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def on_image_tokens(
    function: Callable[[Tensor], Tensor],
    x_BND: Tensor,
    grid: tuple[int, int],
    num_prefix_tokens: int,
    *,
    permuted: bool = False,
) -> Tensor:
    """Apply ``function`` to the image tokens (B, H * W, D), which it returns in the same order.

    ``permuted`` gives them to it in a random order, and restores their order afterwards.

    Raises:
        ValueError: if the number of tokens is not P + H * W.
    """
    height, width = grid
    if x_BND.shape[1] != num_prefix_tokens + height * width:
        raise ValueError(
            f"got {x_BND.shape[1]} tokens; num_prefix_tokens={num_prefix_tokens} and a grid of {height} x {width} "
            f"make {num_prefix_tokens + height * width}"
        )
    image_BMD = x_BND[:, num_prefix_tokens:]
    return restore(function(permute(image_BMD))) if permuted else function(image_BMD)


def on_map(function: Callable[[Tensor], Tensor], image_BMD: Tensor, grid: tuple[int, int]) -> Tensor:
    """Apply ``function`` to image tokens (B, H * W, D) as a feature map (B, D, H, W), and return tokens.

    These are Seq2Img and Img2Seq of the paper. The map is a channels-last view of the tokens, so nothing is copied.
    """
    image_BDHW = image_BMD.unflatten(1, grid).permute(0, 3, 1, 2)
    return function(image_BDHW).permute(0, 2, 3, 1).flatten(1, 2)


class GridFeedForward(nn.Module):
    """A feed-forward network on the token grid: prefix tokens bypass it, and the input is added to its output.

    Args:
        config: decides whether the input is added, and whether tokens are permuted.
        num_prefix_tokens: number P of tokens before the grid, which pass through unchanged.
    """

    def __init__(self, config: LocalityConfig, num_prefix_tokens: int) -> None:
        super().__init__()
        self.config = config
        self.num_prefix_tokens = num_prefix_tokens

    def forward(self, x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """Mix each image token with its neighbors on the grid, or with random tokens if it is permuted.

        Args:
            x_BND: tokens (B, P + H * W, D): prefix tokens, then the grid row by row.
            grid: height and width (H, W) of the grid in tokens.

        Returns:
            Tokens (B, P + H * W, D).

        Raises:
            ValueError: if the number of tokens is not P + H * W.
        """
        prefix = self.num_prefix_tokens
        out_BMD = self.branch(x_BND, grid)
        if self.config.residual:
            out_BMD = x_BND[:, prefix:] + out_BMD
        return torch.cat([x_BND[:, :prefix], out_BMD], dim=1) if prefix else out_BMD

    def branch(self, x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """The residual branch: what the network adds to the image tokens (B, H * W, D). See :meth:`forward`."""
        mix = partial(self._mix, grid=grid)
        return on_image_tokens(mix, x_BND, grid, self.num_prefix_tokens, permuted=self.config.permuted)

    def addition(self, x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """What the network adds to all tokens (B, P + H * W, D): the branch, and zero for prefix tokens."""
        branch_BMD, prefix = self.branch(x_BND, grid), self.num_prefix_tokens
        if not prefix:
            return branch_BMD
        batch, _, dim = branch_BMD.shape
        return torch.cat([branch_BMD.new_zeros(batch, prefix, dim), branch_BMD], dim=1)

    def _mix(self, image_BMD: Tensor, grid: tuple[int, int]) -> Tensor:
        """The branch of image tokens (B, H * W, D) in the order in which the convolution sees them."""
        raise NotImplementedError


class LocalityFeedForward(GridFeedForward):
    """The feed-forward network of a LocalViT block, including its residual connection.

    It replaces norm, MLP and residual connection of a transformer block: it has batch norms inside and no norm before.

    Args:
        dim: channels D of a token.
        config: the choices that make up the network.
        num_prefix_tokens: number P of tokens before the grid, which pass through unchanged.

    Raises:
        ValueError: if ``config`` leaves a layer without channels at this ``dim``, or if the prefix is negative.
    """

    # A faster way to compute the same, attached by `localvit.locality.kernels`; None runs the modules in order.
    fast_form: "Callable[[LocalityFeedForward, Tensor], Tensor] | None" = None

    def __init__(self, dim: int, config: LocalityConfig | None = None, *, num_prefix_tokens: int = 0) -> None:
        if num_prefix_tokens < 0:
            raise ValueError(f"num_prefix_tokens is {num_prefix_tokens}; it must be 0 or more")
        config = config or LocalityConfig()
        super().__init__(config, num_prefix_tokens)
        hidden, kernel_size = config.hidden_channels(dim), config.kernel_size
        activation = ACTIVATIONS[config.activation]

        self.expand = ConvNormAct(dim, hidden, 1, activation=activation)
        self.depthwise = (
            ConvNormAct(hidden, hidden, kernel_size, groups=hidden, activation=activation)
            if config.depthwise
            else nn.Identity()
        )
        self.channel_attention = channel_attention(config.channel_attention, hidden, config.se_reduction)
        self.project = ConvNormAct(hidden, dim, 1)

    def in_order(self, image_BDHW: Tensor) -> Tensor:
        """Run the modules one after the other on a feature map (B, D, H, W)."""
        hidden_BEHW = self.expand(image_BDHW)
        hidden_BEHW = self.depthwise(hidden_BEHW)
        hidden_BEHW = self.channel_attention(hidden_BEHW)
        out_BDHW: Tensor = self.project(hidden_BEHW)
        return out_BDHW

    def _mix(self, image_BMD: Tensor, grid: tuple[int, int]) -> Tensor:
        form = self.in_order if self.fast_form is None else partial(self.fast_form, self)
        return on_map(form, image_BMD, grid)


class ConvNormAct(nn.Sequential):
    """A convolution that keeps the grid size, a batch norm and, optionally, an activation."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    act: nn.Module

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        groups: int = 1,
        activation: type[nn.Module] | None = None,
    ) -> None:
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=False)
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv, norm=nn.BatchNorm2d(out_channels))
        if activation is not None:
            layers["act"] = activation()
        super().__init__(layers)
