"""What every measure sees of a transformer: the tokens of its layers, before, between and after their two branches.

    tokens before -> attention branch -> tokens between -> feed-forward branch -> tokens after

A model is copied before it is watched, so the caller's model keeps its mode, its gradients and its hooks. Blocks, token
grids and prefix tokens come from the token layouts that :func:`localvit.localize` uses.

Shape suffixes: B images, C channels of an image, N tokens, M = H * W tokens of the grid in row order, D channels of a
token, H x W the token grid.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm import models
from torch import Tensor, nn

from localvit.locality.families import layout_of
from localvit.locality.layouts import Grid, TokenGrid, TokenLayout
from localvit.system.errors import LocalViTError


class NotMeasurableError(LocalViTError):
    """A measure that makes no sense for a model, or cannot be taken from it; the message is a sentence for readers."""


@dataclass(frozen=True)
class LayerTokens:
    """The tokens of one layer for a batch of images.

    Attributes:
        index: number of the layer, from 0.
        grid: height and width (H, W) of its token grid.
        image_tokens: takes the tokens of the grid (B, M, D), in row order and without prefix tokens, from a tensor of
            the model. None if the tensor holds another grid.
        before: what the block received, as the model passes it.
        between: what the feed-forward branch received; its skip connection starts here.
        after: what the block returned.
    """

    index: int
    grid: Grid
    image_tokens: Callable[[Tensor], Tensor | None]
    before: Tensor
    between: Tensor
    after: Tensor

    def maps(self, tokens: Tensor) -> Tensor:
        """Feature maps (B, D, H, W) of ``between`` or ``after``."""
        x_BMD = self.image_tokens(tokens)
        assert x_BMD is not None
        x_BDHW: Tensor = x_BMD.unflatten(1, self.grid).permute(0, 3, 1, 2)
        return x_BDHW


OnLayer = Callable[[LayerTokens], None]


@dataclass(frozen=True)
class Layer:
    """One block of a watched model.

    Attributes:
        name: of the block in the model, such as ``blocks.3``.
        block: the block.
        token_grid: tells its grid while the block runs.
        num_prefix_tokens: number of tokens before the grid.
    """

    name: str
    block: Any
    token_grid: TokenGrid
    num_prefix_tokens: int

    def image_tokens(self, grid: Grid, x: Tensor) -> Tensor | None:
        """The tokens (B, M, D) of ``grid`` in row order, from tokens (B, N, D) or a map; None if they do not fit."""
        if x.ndim == 4:
            if x.shape[1:3] != grid:  # channels first
                x = x.permute(0, 2, 3, 1)
            return x.flatten(1, 2) if x.shape[1:3] == grid else None
        if x.shape[1] != self.num_prefix_tokens + grid[0] * grid[1]:
            return None
        if self.token_grid.order is not None:
            return x[:, self.token_grid.order.to(x.device)]
        return x[:, self.num_prefix_tokens :]


class WatchedModel:
    """A copy of a transformer in evaluation mode, without gradients of parameters, whose layers can be watched.

    Args:
        model: a transformer with a token layout (``docs/families.md``, or :func:`localvit.register_layout`).

    Attributes:
        model: the copy.
        layers: its blocks, in order of depth.

    Raises:
        NotMeasurableError: if no token layout is known for the model.
    """

    def __init__(self, model: nn.Module) -> None:
        try:
            self.layout: TokenLayout = layout_of(model)
        except ValueError as error:
            raise NotMeasurableError(
                f"{type(model).__name__} has no token layout, so its layers cannot be watched; register one with "
                "localvit.register_layout"
            ) from error
        self.model: Any = copy.deepcopy(model).eval().requires_grad_(False)
        module: Any
        for module in self.model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # fused attention never forms the matrix of weights
        blocks = list(self.layout.blocks(self.model))
        names = {id(module): name for name, module in self.model.named_modules()}
        grids = self.layout.watch(self.model, blocks)
        self.layers = [
            Layer(names[id(block)], block, grid, self.layout.num_prefix_tokens(self.model, block))
            for block, grid in zip(blocks, grids, strict=True)
        ]
        # TNT passes pixels and patches; every other block passes its tokens first.
        self._place = int(isinstance(self.model, models.TNT))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def visit(self, images_BCHW: Tensor, on_layer: OnLayer) -> Tensor:
        """Run the model without gradients, and show each layer to ``on_layer`` as soon as it has run."""
        with torch.no_grad():
            return self._visit(images_BCHW, on_layer, cut=False)

    def visit_with_gradients(self, images_BCHW: Tensor, on_layer: OnLayer) -> Tensor:
        """Run the model with gradients from the images on, and show each layer to ``on_layer``."""
        with torch.enable_grad():
            return self._visit(images_BCHW, on_layer, cut=False)

    def visit_cut(self, images_BCHW: Tensor, on_layer: OnLayer) -> Tensor:
        """Run the model with gradients inside each layer only: ``before`` is a leaf of the graph.

        The graph of one layer is freed before the next runs, so memory does not grow with depth.
        """
        with torch.enable_grad():
            return self._visit(images_BCHW, on_layer, cut=True)

    def _visit(self, images_BCHW: Tensor, on_layer: OnLayer, *, cut: bool) -> Tensor:
        handles: list[Any] = []
        for index, layer in enumerate(self.layers):
            seen: dict[str, Tensor] = {}
            block = layer.block
            handles.append(block.register_forward_pre_hook(partial(self._enter, seen, cut)))
            for name in (self.layout.norm, self.layout.mlp):
                branch = getattr(block, name, None)
                if isinstance(branch, nn.Module):
                    handles.append(branch.register_forward_pre_hook(partial(_enter_branch, seen)))
            leave = partial(self._leave, index, layer, seen, on_layer, cut)
            # Before the layout's own hook, which makes the token grid forget.
            handles.append(block.register_forward_hook(leave, prepend=True))
        try:
            output: Tensor = self.model(images_BCHW)
        finally:
            for handle in handles:
                handle.remove()
        return output

    def _enter(self, seen: dict[str, Tensor], cut: bool, block: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        seen.clear()
        tokens = args[self._place]
        if cut:
            tokens = tokens.detach().requires_grad_()
            args = (*args[: self._place], tokens, *args[self._place + 1 :])
        seen["before"] = tokens
        return args

    def _leave(
        self,
        index: int,
        layer: Layer,
        seen: dict[str, Tensor],
        on_layer: OnLayer,
        cut: bool,
        block: nn.Module,
        args: tuple[Any, ...],
        output: Any,
    ) -> Any:
        after = output if isinstance(output, Tensor) else output[self._place]
        grid = layer.token_grid()
        tokens = LayerTokens(index, grid, partial(layer.image_tokens, grid), seen["before"], seen["between"], after)
        on_layer(tokens)
        seen.clear()
        if not cut:
            return output
        if isinstance(output, Tensor):
            return output.detach()
        return type(output)(part.detach() if isinstance(part, Tensor) else part for part in output)


def _enter_branch(seen: dict[str, Tensor], module: nn.Module, args: tuple[Any, ...]) -> None:
    """Keep what the feed-forward branch receives: the input of its norm or of its MLP, whichever runs first."""
    seen.setdefault("between", args[0])


def batches_of(images: Tensor | Iterable[Tensor], batch_size: int = 32) -> Iterable[Tensor]:
    """Batches (B, C, H, W) of a tensor of images, or the given batches.

    Raises:
        ValueError: if a tensor of images does not have four dimensions, or has no image.
    """
    if not isinstance(images, Tensor):
        return images
    if images.ndim != 4 or not len(images):
        raise ValueError(
            f"images have the shape {tuple(images.shape)}; it must be (B, C, H, W) with at least one image"
        )
    batches: Iterable[Tensor] = images.split(batch_size)
    return batches
