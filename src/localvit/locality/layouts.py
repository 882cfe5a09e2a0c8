"""Token layouts: which blocks a family of transformers has, and where the token grid of a block can be read.

While the model runs, hooks read the grid from a module that sees it: the patch embedding of a flat transformer, or each
block of a hierarchical one. The families are in :mod:`localvit.locality.families`.

Shape suffixes: B images, N tokens, D channels, H x W the token grid.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.models import checkpoint
from torch import Tensor, nn

Grid = tuple[int, int]


class TokenGrid:
    """The token grid of a block, set before the block needs it.

    Args:
        order: place (H * W,) of each grid position in the sequence; None if the tokens are in row order.
    """

    def __init__(self, order: Tensor | None = None) -> None:
        self.order = order
        self.place_in_order = None if order is None else torch.argsort(order)
        self.checkpointing = False
        self._grid: Grid | None = None

    def tell(self, grid: Grid | None) -> None:
        """Set the grid (H, W), or clear it with None."""
        self._grid = grid

    def __call__(self) -> Grid:
        """The grid (H, W)."""
        if self._grid is None:
            raise ValueError("a localized block ran before its token grid was known; call the model, not the block")
        return self._grid


@dataclass(frozen=True)
class TokenLayout:
    """What :func:`localvit.localize` must know about a family of transformers.

    Attributes:
        blocks: returns the blocks of a model that can be localized, in order of depth.
        watch: registers hooks that read the grids of the given blocks, and returns the grid of each. See
            :func:`grid_from_image` and :func:`grid_from_block`.
        num_prefix_tokens: returns the number of tokens before the grid, which bypass the mechanism, given a model and
            a block.
        norm: name of the norm in a block's MLP branch.
        mlp: name of its MLP.
        last: name of the linear layer that the MLP ends in.
        scale: possible names of its layer scale, a module or a parameter.
        drop_path: name of its stochastic depth.
        shares_drop_path: names of modules in a block that share this stochastic depth, and keep it.
    """

    blocks: Callable[[Any], Iterable[nn.Module]]
    watch: Callable[[Any, list[nn.Module]], list[TokenGrid]]
    num_prefix_tokens: Callable[[Any, Any], int] = lambda model, block: 0
    norm: str = "norm2"
    mlp: str = "mlp"
    last: str = "fc2"
    scale: tuple[str, ...] = ("ls2", "gamma_2", "gamma2")
    drop_path: str = "drop_path2"
    shares_drop_path: tuple[str, ...] = ()


def grid_from_image(embed: str = "patch_embed") -> Callable[[Any, list[nn.Module]], list[TokenGrid]]:
    """For flat sequences: all blocks share the grid that the module ``embed`` makes of the image."""

    def watch(model: Any, blocks: list[nn.Module]) -> list[TokenGrid]:
        if not hasattr(model, "token_grid"):
            model.token_grid = TokenGrid()  # one per model, even if it is localized several times
            model.get_submodule(embed).register_forward_pre_hook(partial(_tell_from_image, model.token_grid))
            if getattr(model, "dynamic_img_size", False):
                _checkpoint_with_grid(model, model.token_grid)
        return [model.token_grid] * len(blocks)

    return watch


def grid_from_block(read: Callable[..., Grid]) -> Callable[[Any, list[nn.Module]], list[TokenGrid]]:
    """For hierarchies: ``read`` returns the grid (H, W), given the arguments of a block's forward call."""

    def watch(model: Any, blocks: list[nn.Module]) -> list[TokenGrid]:
        grids = [TokenGrid() for _ in blocks]
        for grid, block in zip(grids, blocks, strict=True):
            block.register_forward_pre_hook(partial(_tell_from_block, grid, read), with_kwargs=True)
            block.register_forward_hook(partial(forget, grid))
        return grids

    return watch


def grid_from_map(module: str, read: Callable[[Any], Grid] | None = None) -> Callable[..., list[TokenGrid]]:
    """For flat sequences: all blocks share the grid of the map (B, D, H, W) that ``module`` returns.

    Args:
        module: its name in the model.
        read: returns the grid, given what the module returns, if that is no map.
    """

    def watch(model: Any, blocks: list[nn.Module]) -> list[TokenGrid]:
        if not hasattr(model, "token_grid"):
            model.token_grid = TokenGrid()
            model.get_submodule(module).register_forward_hook(
                partial(tell_from_output, model.token_grid, read or grid_of_map)
            )
        return [model.token_grid] * len(blocks)

    return watch


def _checkpoint_with_grid(model: Any, grid: TokenGrid) -> None:
    """Make blocks checkpoint themselves together with their grid.

    When timm's checkpointing reruns a block, the model may have seen an image of another size in the meantime, and
    different grids can have equally many tokens.
    """
    for block in model.blocks:
        block.forward = _GridCheckpoint(block, grid).forward
    grid.checkpointing, model.grad_checkpointing = model.grad_checkpointing, False
    model.set_grad_checkpointing = partial(_set_grad_checkpointing, grid)


def _set_grad_checkpointing(grid: TokenGrid, enable: bool = True) -> None:
    grid.checkpointing = enable


class _GridCheckpoint:
    def __init__(self, block: nn.Module, grid: TokenGrid) -> None:
        self.block = block
        self.grid = grid

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        plain = partial(type(self.block).forward, self.block)
        if not (self.grid.checkpointing and torch.is_grad_enabled()):
            return plain(*args, **kwargs)
        if torch.compiler.is_compiling():  # a graph has one grid, and must not set it inside a checkpoint
            return checkpoint(plain, *args, **kwargs)
        return checkpoint(self._forward_on, self.grid(), *args, **kwargs)

    def _forward_on(self, told: Grid, *args: Any, **kwargs: Any) -> Any:
        self.grid.tell(told)
        return type(self.block).forward(self.block, *args, **kwargs)


def _tell_from_image(grid: TokenGrid, embed: Any, args: tuple[Any, ...]) -> None:
    height, width = args[0].shape[-2:]
    if hasattr(embed, "dynamic_feat_size"):
        grid.tell(tuple(embed.dynamic_feat_size((height, width))))
    else:
        grid.tell(embed.grid_size)


def _tell_from_block(
    grid: TokenGrid, read: Callable[..., Grid], block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    height, width = read(*args, **kwargs)
    grid.tell((height, width))


def tell_from_output(
    grid: TokenGrid, read: Callable[[Any], Grid], module: nn.Module, args: tuple[Any, ...], output: Any
) -> None:
    """Forward hook of a module: sets the grid that ``read`` finds in its output."""
    grid.tell(read(output))


def grid_of_map(map_BDHW: Tensor) -> Grid:
    """The grid of a map (B, D, H, W)."""
    return map_BDHW.shape[2], map_BDHW.shape[3]


def forget(grid: TokenGrid, block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """Forward hook of a block: clears the grid. A compiled block under checkpointing must have no lasting effect."""
    grid.tell(None)


def channels_last_grid(x_BHWD: Tensor, *args: Any, **kwargs: Any) -> Grid:
    """The grid of a block that is called with a map (B, H, W, D)."""
    return x_BHWD.shape[1], x_BHWD.shape[2]


def channels_first_grid(x_BDHW: Tensor, *args: Any, **kwargs: Any) -> Grid:
    """The grid of a block that is called with a map (B, D, H, W)."""
    return x_BDHW.shape[2], x_BDHW.shape[3]


def size_argument(x_BND: Tensor, size: Grid, *args: Any, **kwargs: Any) -> Grid:
    """The grid of a block that is called with tokens (B, N, D) and (H, W)."""
    return size[0], size[1]


def height_width_arguments(x_BND: Tensor, height: int, width: int, *args: Any, **kwargs: Any) -> Grid:
    """The grid of a block that is called with tokens (B, N, D), H and W."""
    return height, width
