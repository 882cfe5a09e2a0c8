"""Locality for pretrained transformers: a depth-wise convolution added to the hidden tokens of an existing MLP.

Shape suffixes: B images, N = P + H * W tokens, P prefix tokens, E hidden channels of the MLP, H x W the token grid.
"""

from functools import partial

import torch
from torch import Tensor, nn

from localvit.locality.channel_attention import channel_attention
from localvit.locality.config import LocalityConfig
from localvit.locality.feed_forward import on_image_tokens, on_map


class HiddenLocality(nn.Module):
    """A depth-wise convolution for the hidden tokens of a pretrained MLP.

    It adds ``attention(convolution(x))`` to its input. The convolution starts at zero, so the MLP initially computes
    exactly what it did before. There is no norm and no activation.

    Args:
        hidden: channels E of the hidden tokens.
        config: kernel size, channel attention and permutation; the MLP keeps its own expansion ratio and activation.
        num_prefix_tokens: number P of tokens before the grid, which pass through unchanged.
    """

    def __init__(self, hidden: int, config: LocalityConfig, *, num_prefix_tokens: int = 0) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.permuted = config.permuted
        size = config.kernel_size
        self.depthwise = nn.Conv2d(hidden, hidden, size, padding=size // 2, groups=hidden, bias=False)
        nn.init.zeros_(self.depthwise.weight)
        self.channel_attention = channel_attention(config.channel_attention, hidden, config.se_reduction)

    def forward(self, x_BNE: Tensor, grid: tuple[int, int]) -> Tensor:
        """Mix hidden tokens (B, P + H * W, E) with their neighbors, or with random tokens if they are permuted.

        Raises:
            ValueError: if the tokens do not fill a grid of (H, W).
        """
        prefix = self.num_prefix_tokens
        mix = partial(on_map, self._on_grid, grid=grid)
        out_BME = x_BNE[:, prefix:] + on_image_tokens(mix, x_BNE, grid, prefix, permuted=self.permuted)
        return torch.cat([x_BNE[:, :prefix], out_BME], dim=1) if prefix else out_BME

    def _on_grid(self, image_BEHW: Tensor) -> Tensor:
        out_BEHW: Tensor = self.channel_attention(self.depthwise(image_BEHW))
        return out_BEHW
