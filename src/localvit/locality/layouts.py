"""How transformers hold their image tokens: which blocks they have, and where a block's token grid can be read.

A family is a row of ``_FAMILIES``; :func:`register_layout` adds another. A grid is read while the model runs, by hooks
on modules that see it: the patch embedding sees the image, a block of a hierarchical model sees its feature map.

Shape suffixes: B images, N tokens, D channels, H x W the token grid.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.models import (
    beit,
    cait,
    checkpoint,
    davit,
    deit,
    eva,
    gcvit,
    hiera,
    mvitv2,
    pvt_v2,
    swin_transformer,
    swin_transformer_v2,
    tnt,
    twins,
    vision_transformer,
    vision_transformer_relpos,
    vision_transformer_sam,
    volo,
    xcit,
)
from torch import Tensor, nn

Grid = tuple[int, int]


class TokenGrid:
    """The grid that a block's tokens lie on, told before the block needs it.

    Args:
        order: place (H * W,) of each grid position in the sequence, where that is not row by row.
    """

    def __init__(self, order: Tensor | None = None) -> None:
        self.order = order
        self.place_in_order = None if order is None else torch.argsort(order)
        self.checkpointing = False
        self._grid: Grid | None = None

    def tell(self, grid: Grid | None) -> None:
        """Set the grid (H, W); None when the block that needs it has run."""
        self._grid = grid

    def __call__(self) -> Grid:
        """The grid (H, W) told last."""
        if self._grid is None:
            raise ValueError("a localized block ran before its token grid was told; call the model, not the block")
        return self._grid


@dataclass(frozen=True)
class TokenLayout:
    """What :func:`localvit.localize` must know of a family of transformers.

    Attributes:
        blocks: the blocks of a model that can be localized, in order of depth.
        watch: makes a model tell the grids of given blocks, and returns where each is told. See
            :func:`grid_from_image`, :func:`grid_from_block`.
        num_prefix_tokens: tokens in front of the grid of a model's block, which skip the mechanism.
        norm: name of the norm of a block's MLP branch.
        mlp: name of its MLP, which must end in a linear layer ``fc2``.
        scale: names under which its layer scale may be found, a module or a parameter.
        drop_path: name of its stochastic depth.
        shares_drop_path: modules of a block that use the same stochastic depth, and keep it.
    """

    blocks: Callable[[Any], Iterable[nn.Module]]
    watch: Callable[[Any, list[nn.Module]], list[TokenGrid]]
    num_prefix_tokens: Callable[[Any, Any], int] = lambda model, block: 0
    norm: str = "norm2"
    mlp: str = "mlp"
    scale: tuple[str, ...] = ("ls2", "gamma_2", "gamma2")
    drop_path: str = "drop_path2"
    shares_drop_path: tuple[str, ...] = ()


def register_layout(model_class: type[nn.Module], layout: TokenLayout) -> None:
    """Let :func:`localvit.localize` work on ``model_class`` and what is derived from it."""
    _FAMILIES[model_class] = layout


def layout_of(model: nn.Module) -> TokenLayout:
    """The layout registered for a model's class or the nearest it derives from; ValueError where there is none."""
    for model_class in type(model).__mro__:
        if model_class in _FAMILIES:
            return _FAMILIES[model_class]
    raise ValueError(
        f"cannot localize a {type(model).__name__}: no token layout is known for it. Known are "
        f"{', '.join(supported_families())}; localvit.register_layout adds another transformer"
    )


def supported_families() -> list[str]:
    """Class names of the models with a registered layout."""
    return sorted(model_class.__name__ for model_class in _FAMILIES)


# Where grids are read.


def grid_from_image(embed: str = "patch_embed") -> Callable[[Any, list[nn.Module]], list[TokenGrid]]:
    """For flat sequences: the module ``embed`` of the model sees the image, from which all blocks have their grid."""

    def watch(model: Any, blocks: list[nn.Module]) -> list[TokenGrid]:
        if not hasattr(model, "token_grid"):
            model.token_grid = TokenGrid()  # one for the model, however often it is localized
            model.get_submodule(embed).register_forward_pre_hook(partial(_tell_from_image, model.token_grid))
            if getattr(model, "dynamic_img_size", False):
                _checkpoint_with_grid(model, model.token_grid)
        return [model.token_grid] * len(blocks)

    return watch


def grid_from_block(read: Callable[..., Grid]) -> Callable[[Any, list[nn.Module]], list[TokenGrid]]:
    """For hierarchies: ``read`` gets the arguments of a block's call and returns its grid (H, W)."""

    def watch(model: Any, blocks: list[nn.Module]) -> list[TokenGrid]:
        grids = [TokenGrid() for _ in blocks]
        for grid, block in zip(grids, blocks, strict=True):
            block.register_forward_pre_hook(partial(_tell_from_block, grid, read), with_kwargs=True)
            block.register_forward_hook(partial(_forget, grid))
        return grids

    return watch


def _grid_from_pooling_attention(model: Any, blocks: list[nn.Module]) -> list[TokenGrid]:
    """MViT pools inside of a block: its attention returns tokens and their new grid."""
    grids = [TokenGrid() for _ in blocks]
    for grid, block in zip(grids, blocks, strict=True):
        block.get_submodule("attn").register_forward_hook(partial(_tell_from_attention, grid))
        block.register_forward_hook(partial(_forget, grid))
    return grids


def _grid_from_reroll(model: Any, blocks: list[nn.Module]) -> list[TokenGrid]:
    """Hiera keeps the tokens of a window together; its ``reroll`` knows where each belongs."""
    depth_of = {id(block): depth for depth, block in enumerate(model.blocks)}
    grids = []
    for block in blocks:
        depth = depth_of[id(block)]
        _, size = model.reroll.schedule[depth]
        tokens = torch.arange(size[0] * size[1])[None, :, None]
        grids.append(TokenGrid(order=model.reroll(tokens, depth).flatten()))
        grids[-1].tell((size[0], size[1]))
    return grids


def _checkpoint_with_grid(model: Any, grid: TokenGrid) -> None:
    """Let blocks checkpoint themselves together with their grid.

    timm's checkpointing runs a block again with its tokens alone. By then the model may have seen an image of another
    size, and two grids may have as many tokens.
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
        if torch.compiler.is_compiling():  # the graph has one grid, and may not tell another inside of a checkpoint
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


def _tell_from_attention(grid: TokenGrid, attention: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    height, width = output[1]
    grid.tell((height, width))


def _forget(grid: TokenGrid, block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """Leave nothing behind, which the compiler demands of a block that is checkpointed."""
    grid.tell(None)


def channels_last_grid(x_BHWD: Tensor, *args: Any, **kwargs: Any) -> Grid:
    """Grid of a block that is called with a map (B, H, W, D)."""
    return x_BHWD.shape[1], x_BHWD.shape[2]


def channels_first_grid(x_BDHW: Tensor, *args: Any, **kwargs: Any) -> Grid:
    """Grid of a block that is called with a map (B, D, H, W)."""
    return x_BDHW.shape[2], x_BDHW.shape[3]


def size_argument(x_BND: Tensor, size: Grid, *args: Any, **kwargs: Any) -> Grid:
    """Grid of a block that is called with tokens (B, N, D) and (H, W)."""
    return size[0], size[1]


def height_width_arguments(x_BND: Tensor, height: int, width: int, *args: Any, **kwargs: Any) -> Grid:
    """Grid of a block that is called with tokens (B, N, D), H and W."""
    return height, width


def _stages(name: str) -> Callable[[Any], list[nn.Module]]:
    return lambda model: [block for stage in getattr(model, name) for block in stage.blocks]


def _prefix(model: Any, block: Any) -> int:
    return int(model.num_prefix_tokens)


def _blocks(model: Any) -> list[nn.Module]:
    return list(model.blocks)


_FLAT = TokenLayout(_blocks, grid_from_image(), _prefix)

_FAMILIES: dict[type[nn.Module], TokenLayout] = {
    vision_transformer.VisionTransformer: _FLAT,
    deit.VisionTransformerDistilled: _FLAT,
    vision_transformer_relpos.VisionTransformerRelPos: _FLAT,
    beit.Beit: _FLAT,
    eva.Eva: _FLAT,
    # The class token joins after these blocks.
    cait.Cait: TokenLayout(_blocks, grid_from_image(), drop_path="drop_path", shares_drop_path=("attn",)),
    xcit.Xcit: TokenLayout(_blocks, grid_from_block(height_width_arguments)),
    tnt.TNT: TokenLayout(
        _blocks,
        grid_from_image("pixel_embed"),
        _prefix,
        norm="norm_mlp",
        drop_path="drop_path",
        shares_drop_path=("attn_in", "mlp_in", "attn_out"),
    ),
    vision_transformer_sam.VisionTransformerSAM: TokenLayout(_blocks, grid_from_block(channels_last_grid)),
    swin_transformer.SwinTransformer: TokenLayout(_stages("layers"), grid_from_block(channels_last_grid)),
    swin_transformer_v2.SwinTransformerV2: TokenLayout(_stages("layers"), grid_from_block(channels_last_grid)),
    pvt_v2.PyramidVisionTransformerV2: TokenLayout(_stages("stages"), grid_from_block(size_argument)),
    twins.Twins: TokenLayout(
        lambda model: [block for stage in model.blocks for block in stage], grid_from_block(size_argument)
    ),
    mvitv2.MultiScaleVit: TokenLayout(
        _stages("stages"),
        _grid_from_pooling_attention,
        lambda model, block: int(block.has_cls_token),
    ),
    hiera.Hiera: TokenLayout(_blocks, _grid_from_reroll),
    davit.DaVit: TokenLayout(
        lambda model: [block for stage in model.stages for pair in stage.blocks for block in pair],
        grid_from_block(channels_first_grid),
    ),
    gcvit.GlobalContextVit: TokenLayout(_stages("stages"), grid_from_block(channels_last_grid)),
    volo.VOLO: TokenLayout(
        lambda model: [block for stage in model.network if isinstance(stage, nn.Sequential) for block in stage],
        grid_from_block(channels_last_grid),
    ),
}
