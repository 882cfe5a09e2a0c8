"""Token layouts: which blocks a family of transformers has, and where the token grid of a block can be read.

Each family is a row of ``_FAMILIES``; :func:`register_layout` adds another. While the model runs, hooks read the grid
from a module that sees it: the patch embedding of a flat transformer, or each block of a hierarchical one.

Shape suffixes: B images, N tokens, D channels, H x W the token grid.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torchvision
from timm import models
from timm.models.maxxvit import PartitionAttentionCl
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformerBlock

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


def register_layout(model_class: type[nn.Module], layout: TokenLayout) -> None:
    """Make :func:`localvit.localize` support ``model_class`` and its subclasses."""
    _FAMILIES[model_class] = layout


def layout_of(model: nn.Module) -> TokenLayout:
    """The layout registered for a model's class or its nearest base class; ValueError if there is none."""
    for model_class in type(model).__mro__:
        if model_class in _FAMILIES:
            return _FAMILIES[model_class]
    raise ValueError(
        f"cannot localize a {type(model).__name__}: no token layout is known for it. Known are "
        f"{', '.join(supported_families())}; register another with localvit.register_layout"
    )


def supported_families() -> list[str]:
    """Class names of the models with a registered layout."""
    return sorted(model_class.__name__ for model_class in _FAMILIES)


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
            block.register_forward_hook(partial(_forget, grid))
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
                partial(_tell_from_output, model.token_grid, read or _grid_of_map)
            )
        return [model.token_grid] * len(blocks)

    return watch


def _grid_from_pooling_attention(model: Any, blocks: list[nn.Module]) -> list[TokenGrid]:
    """MViT pools inside its blocks: the attention returns tokens and their new grid."""
    grids = [TokenGrid() for _ in blocks]
    for grid, block in zip(grids, blocks, strict=True):
        block.get_submodule("attn").register_forward_hook(partial(_tell_from_attention, grid))
        block.register_forward_hook(partial(_forget, grid))
    return grids


def _grid_from_reroll(model: Any, blocks: list[nn.Module]) -> list[TokenGrid]:
    """Hiera keeps the tokens of a window together; its ``reroll`` puts them back in row order."""
    depth_of = {id(block): depth for depth, block in enumerate(model.blocks)}
    grids = []
    for block in blocks:
        depth = depth_of[id(block)]
        _, size = model.reroll.schedule[depth]
        tokens = torch.arange(size[0] * size[1])[None, :, None]
        grids.append(TokenGrid(order=model.reroll(tokens, depth).flatten()))
        grids[-1].tell((size[0], size[1]))
    return grids


def _grid_from_stage(model: Any, blocks: list[nn.Module]) -> list[TokenGrid]:
    """PiT: a stage gets a map, which it may pool, and shows its blocks the tokens."""
    grids = {id(block): TokenGrid() for block in blocks}
    for stage in model.transformers:
        for block in stage.blocks:
            if (grid := grids.get(id(block))) is None:
                continue
            if stage.pool is None:
                stage.register_forward_pre_hook(partial(_tell_from_stage, grid))
            else:
                stage.pool.register_forward_hook(partial(_tell_from_output, grid, lambda pair: _grid_of_map(pair[0])))
            block.register_forward_hook(partial(_forget, grid))
    return [grids[id(block)] for block in blocks]


def _grid_from_branch(model: Any, blocks: list[nn.Module]) -> list[TokenGrid]:
    """CrossViT: each branch has patches of its own on an image of fixed size."""
    grids = []
    for block in blocks:
        (branch,) = {i for stage in model.blocks for i, part in enumerate(stage.blocks) if block in list(part)}
        embed = model.patch_embed[branch]
        grids.append(TokenGrid())
        grids[-1].tell((embed.img_size[0] // embed.patch_size[0], embed.img_size[1] // embed.patch_size[1]))
    return grids


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
            return models.checkpoint(plain, *args, **kwargs)
        return models.checkpoint(self._forward_on, self.grid(), *args, **kwargs)

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


def _tell_from_stage(grid: TokenGrid, stage: nn.Module, args: tuple[Any, ...]) -> None:
    grid.tell(_grid_of_map(args[0][0]))


def _tell_from_output(
    grid: TokenGrid, read: Callable[[Any], Grid], module: nn.Module, args: tuple[Any, ...], output: Any
) -> None:
    grid.tell(read(output))


def _grid_of_map(map_BDHW: Tensor) -> Grid:
    return map_BDHW.shape[2], map_BDHW.shape[3]


def _tell_from_attention(grid: TokenGrid, attention: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    height, width = output[1]
    grid.tell((height, width))


def _forget(grid: TokenGrid, block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """Clear the grid: the compiler requires that a checkpointed block has no lasting side effects."""
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


def _stages(name: str) -> Callable[[Any], list[nn.Module]]:
    return lambda model: [block for stage in getattr(model, name) for block in stage.blocks]


def _prefix(model: Any, block: Any) -> int:
    return int(model.num_prefix_tokens)


def _blocks(model: Any) -> list[nn.Module]:
    return list(model.blocks)


def _convit_prefix(model: Any, block: Any) -> int:
    """The class token joins the image tokens after the blocks with gated attention."""
    return 0 if block.use_gpsa or model.cls_token is None else 1


_FLAT = TokenLayout(_blocks, grid_from_image(), _prefix)

_FAMILIES: dict[type[nn.Module], TokenLayout] = {
    models.VisionTransformer: _FLAT,
    models.VisionTransformerDistilled: _FLAT,
    models.VisionTransformerRelPos: _FLAT,
    models.Beit: _FLAT,
    models.Eva: _FLAT,
    # The class token appears after these blocks.
    models.Cait: TokenLayout(_blocks, grid_from_image(), drop_path="drop_path", shares_drop_path=("attn",)),
    models.Xcit: TokenLayout(_blocks, grid_from_block(height_width_arguments)),
    models.TNT: TokenLayout(
        _blocks,
        grid_from_image("pixel_embed"),
        _prefix,
        norm="norm_mlp",
        drop_path="drop_path",
        shares_drop_path=("attn_in", "mlp_in", "attn_out"),
    ),
    models.VisionTransformerSAM: TokenLayout(_blocks, grid_from_block(channels_last_grid)),
    models.SwinTransformer: TokenLayout(_stages("layers"), grid_from_block(channels_last_grid)),
    models.SwinTransformerV2: TokenLayout(_stages("layers"), grid_from_block(channels_last_grid)),
    models.PyramidVisionTransformerV2: TokenLayout(_stages("stages"), grid_from_block(size_argument)),
    models.Twins: TokenLayout(
        lambda model: [block for stage in model.blocks for block in stage], grid_from_block(size_argument)
    ),
    models.MultiScaleVit: TokenLayout(
        _stages("stages"),
        _grid_from_pooling_attention,
        lambda model, block: int(block.has_cls_token),
    ),
    models.Hiera: TokenLayout(_blocks, _grid_from_reroll),
    models.DaVit: TokenLayout(
        lambda model: [block for stage in model.stages for pair in stage.blocks for block in pair],
        grid_from_block(channels_first_grid),
    ),
    models.GlobalContextVit: TokenLayout(_stages("stages"), grid_from_block(channels_last_grid)),
    models.VOLO: TokenLayout(
        lambda model: [block for stage in model.network if isinstance(stage, nn.Sequential) for block in stage],
        grid_from_block(channels_last_grid),
    ),
    models.ConVit: TokenLayout(
        _blocks, grid_from_image(), _convit_prefix, drop_path="drop_path", shares_drop_path=("attn",)
    ),
    models.NaFlexVit: TokenLayout(_blocks, grid_from_map("embeds", lambda pair: (pair[1][0], pair[1][1])), _prefix),
    models.PoolingVisionTransformer: TokenLayout(
        lambda model: [block for stage in model.transformers for block in stage.blocks],
        _grid_from_stage,
        lambda model, block: int(model.cls_token.shape[1]),
    ),
    models.MaxxVit: TokenLayout(
        lambda model: [module for module in model.modules() if isinstance(module, PartitionAttentionCl)],
        grid_from_block(channels_last_grid),
    ),
    models.SwinTransformerV2Cr: TokenLayout(_stages("stages"), grid_from_block(channels_last_grid)),
    models.CrossVit: TokenLayout(
        lambda model: [block for stage in model.blocks for part in stage.blocks for block in part],
        _grid_from_branch,
        lambda model, block: 1,
    ),
    models.CoaT: TokenLayout(
        lambda model: [block for i in range(1, 5) for block in getattr(model, f"serial_blocks{i}")],
        grid_from_block(size_argument),
        lambda model, block: 1,
        drop_path="drop_path",
        shares_drop_path=("factoratt_crpe",),
    ),
    torchvision.models.VisionTransformer: TokenLayout(
        lambda model: list(model.encoder.layers),
        grid_from_map("conv_proj"),
        lambda model, block: 1,
        norm="ln_2",
        last="3",
    ),
    torchvision.models.SwinTransformer: TokenLayout(
        lambda model: [module for module in model.modules() if isinstance(module, SwinTransformerBlock)],
        grid_from_block(channels_last_grid),
        last="3",
        drop_path="stochastic_depth",
        shares_drop_path=("attn",),
    ),
}
