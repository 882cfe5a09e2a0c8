"""Where the tokens of a layer are, on their grid and in the image.

Shape suffixes: W windows of attention, N queries of a window, K keys of a window, H x W the token grid, 2 row and
column.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm import models
from torch import Tensor, nn

from localvit.analysis.layers import Layer, NotMeasurableError, WatchedModel
from localvit.locality.layouts import Grid
from localvit.models.pvt import PyramidVisionTransformer
from localvit.models.t2t import LATER_SPLITS, T2TViT, TokenPerformer

_TOLERANCE = 0.01  # images whose sides are no multiples of a patch


@dataclass(frozen=True)
class AttentionPositions:
    """Rows and columns, in tokens of the grid, of what an attention matrix relates; nan for prefix and padding tokens.

    Attributes:
        queries_WN2: position of each query of each window. Attention over the whole grid has one window.
        keys_WK2: position of each key.
    """

    queries_WN2: Tensor
    keys_WK2: Tensor


def attention_positions(watched: WatchedModel, layer: Layer, grid: Grid) -> AttentionPositions:
    """The positions of queries and keys in the attention of a layer.

    Raises:
        NotMeasurableError: for attention whose weights do not relate tokens to tokens, or are not known.
    """
    model, block = watched.model, layer.block
    for family, reason in _WITHOUT.items():
        if isinstance(model, family):
            raise NotMeasurableError(f"{type(model).__name__}: {reason}")
    if isinstance(block, TokenPerformer):
        raise NotMeasurableError("the attention of a performer is linear in the tokens and never forms weights")
    if isinstance(model, models.SwinTransformer | models.SwinTransformerV2):
        return _windows(grid, block.window_size, block.shift_size)
    if isinstance(model, models.VisionTransformerSAM) and block.window_size:
        return _windows(grid, (block.window_size, block.window_size), (0, 0))
    if isinstance(model, models.Twins) and hasattr(block.attn, "ws"):
        return _windows(grid, (block.attn.ws, block.attn.ws), (0, 0))
    if isinstance(model, models.Twins | models.PyramidVisionTransformerV2 | PyramidVisionTransformer):
        return _reduced(layer, block.attn, grid)
    if isinstance(model, _GLOBAL):
        tokens_1N2 = _with_prefix(_centres(grid), layer.num_prefix_tokens)
        return AttentionPositions(tokens_1N2, tokens_1N2)
    raise NotMeasurableError(f"{type(model).__name__}: how its attention orders tokens is not known")


_GLOBAL = (
    models.VisionTransformer,
    models.VisionTransformerRelPos,
    models.VisionTransformerSAM,
    models.Beit,
    models.Eva,
    models.TNT,
    T2TViT,
)
_WITHOUT: dict[type[nn.Module], str] = {
    models.Cait: "talking heads mix the weights of heads after the softmax, so they are no longer shares of attention",
    models.Xcit: "attention relates channels to channels, not tokens to tokens",
    models.VOLO: "outlook attention predicts the weights of neighbors without comparing tokens",
    models.DaVit: "every second layer attends over channels, and the others do not expose their weights",
    models.MultiScaleVit: "attention with pooled queries does not expose its weights",
    models.Hiera: "attention within mask units does not expose its weights",
    models.GlobalContextVit: "global queries are shared by all windows and have no position of their own",
}


def _centres(grid: Grid) -> Tensor:
    """Rows and columns (H, W, 2) of the tokens of a grid."""
    rows_HW, columns_HW = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    return torch.stack([rows_HW, columns_HW], dim=-1)


def _with_prefix(positions_HW2: Tensor, prefix: int) -> Tensor:
    nowhere_P2 = torch.full((prefix, 2), math.nan, dtype=torch.float64)
    return torch.cat([nowhere_P2, positions_HW2.flatten(0, 1)])[None]


def _windows(grid: Grid, window: Grid, shift: Grid) -> AttentionPositions:
    """Windows as Swin, SAM and Twins cut them: rolled by the shift, then padded at the bottom and on the right."""
    rolled_HW2 = torch.roll(_centres(grid), (-shift[0], -shift[1]), dims=(0, 1))
    height, width = (math.ceil(side / size) * size for side, size in zip(grid, window, strict=True))
    padded_HW2 = torch.full((height, width, 2), math.nan, dtype=torch.float64)
    padded_HW2[: grid[0], : grid[1]] = rolled_HW2
    cut = padded_HW2.unflatten(1, (-1, window[1])).unflatten(0, (-1, window[0]))
    tokens_WN2 = cut.transpose(1, 2).flatten(2, 3).flatten(0, 1)
    return AttentionPositions(tokens_WN2, tokens_WN2)


def _reduced(layer: Layer, attention: Any, grid: Grid) -> AttentionPositions:
    """Keys that each stand for a rectangle of tokens, as in PVT and Twins: a key is in the middle of its rectangle."""
    queries_1N2 = _with_prefix(_centres(grid), layer.num_prefix_tokens)
    pool, reduction = getattr(attention, "pool", None), getattr(attention, "sr", None)
    if pool is not None:
        coarse: Grid = (7, 7)
    elif isinstance(reduction, nn.Conv2d):
        coarse = (grid[0] // reduction.stride[0], grid[1] // reduction.stride[1])
    else:
        return AttentionPositions(queries_1N2, queries_1N2)
    scale_2 = torch.tensor([grid[0] / coarse[0], grid[1] / coarse[1]], dtype=torch.float64)
    keys_HW2 = (_centres(coarse) + 0.5) * scale_2 - 0.5
    return AttentionPositions(queries_1N2, keys_HW2.flatten(0, 1)[None])


@dataclass(frozen=True)
class Spacing:
    """Where a token is in the image along one axis: token i is at ``start + i * step`` pixels from the edge.

    Attributes:
        step: pixels from one token to the next.
        start: pixels from the edge of the image to the middle of the first token.
    """

    step: float = 1.0
    start: float = 0.5  # the middle of a pixel

    def after(self, kernel: int, stride: int, padding: int) -> "Spacing":
        """The spacing after windows of ``kernel`` positions that start at ``-padding`` and are ``stride`` apart."""
        return Spacing(self.step * stride, self.start + self.step * ((kernel - 1) / 2 - padding))

    def parted(self, step: float) -> "Spacing":
        """The spacing after neighbors are put together until tokens are ``step`` pixels apart."""
        return Spacing(step, self.start + (step - self.step) / 2)


class SpacingWatch:
    """Follows the spacing of tokens through convolutions, pooling and unfolding outside of a model's blocks.

    Overlapping windows shift the middle of a token: with a kernel of 7, a stride of 4 and a padding of 2, the first
    token of an image lies at 1.5 pixels, not at 2. Whatever else makes the grid smaller puts whole rectangles together.

    Args:
        watched: the model.

    Raises:
        NotMeasurableError: for a model that moves its tokens inside of blocks.
    """

    def __init__(self, watched: WatchedModel) -> None:
        if isinstance(watched.model, models.MultiScaleVit):
            raise NotMeasurableError(
                f"{type(watched.model).__name__} pools queries inside of its blocks, so the place of a token in the "
                "image is not known exactly"
            )
        self.image: Grid = (0, 0)
        self.axes = (Spacing(), Spacing())
        self._images, self._problem = 0, ""
        inside = {id(module) for layer in watched.layers for module in layer.block.modules()}
        watched.model.register_forward_pre_hook(self._start)
        for module in watched.model.modules():
            if isinstance(module, nn.Conv2d | nn.Unfold | nn.MaxPool2d | nn.AvgPool2d) and id(module) not in inside:
                module.register_forward_hook(self._follow)
        if isinstance(watched.model, T2TViT):
            split: Callable[..., None] = partial(self._unfold, watched.model.tokens_to_token.first_split)
            watched.model.tokens_to_token.attention1.register_forward_pre_hook(split)
            later: Callable[..., None] = partial(self._unfold, LATER_SPLITS)
            watched.model.tokens_to_token.attention2.register_forward_pre_hook(later)
            watched.model.tokens_to_token.project.register_forward_pre_hook(later)

    def at(self, grid: Grid) -> tuple[Spacing, Spacing]:
        """The spacing of tokens on ``grid``, along rows and columns.

        Raises:
            NotMeasurableError: if the convolutions before the grid do not follow one after the other, or pad unevenly.
        """
        steps = [image / side for image, side in zip(self.image, grid, strict=True)]
        if self._problem:
            raise NotMeasurableError(f"{self._problem}, so the place of a token in the image is not known exactly")
        if any(axis.step > step * (1 + _TOLERANCE) for axis, step in zip(self.axes, steps, strict=True)):
            raise NotMeasurableError(
                "convolutions run side by side before its blocks, so the place of a token is not known"
            )
        self.axes = tuple(axis.parted(step) for axis, step in zip(self.axes, steps, strict=True))  # type: ignore[assignment]
        return self.axes

    def _start(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        self.image, self._images, self.axes = tuple(args[0].shape[-2:]), len(args[0]), (Spacing(), Spacing())

    def _follow(self, module: Any, args: tuple[Any, ...], output: Tensor) -> None:
        if args[0].ndim != 4 or len(args[0]) != self._images:
            return
        windows = [_pair(getattr(module, name)) for name in ("kernel_size", "stride", "padding")]
        counts = [
            (side + 2 * padding - kernel) // stride + 1
            for side, kernel, stride, padding in zip(args[0].shape[-2:], *windows, strict=True)
        ]
        if counts[0] * counts[1] != output.shape[2:].numel():
            self._problem = f"{type(module).__name__} pads or dilates on its own"
        self._apply(*windows)

    def _unfold(self, split: dict[str, int], module: nn.Module, args: tuple[Any, ...]) -> None:
        self._apply(*(_pair(split[name]) for name in ("kernel_size", "stride", "padding")))

    def _apply(self, *windows: tuple[int, int]) -> None:
        rows, columns = zip(*windows, strict=True)
        self.axes = (self.axes[0].after(*rows), self.axes[1].after(*columns))


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, str):  # the padding of a convolution, whose output then does not fit
        return (0, 0)
    return (value, value) if isinstance(value, int) else (value[0], value[1])
