"""The families of transformers that :func:`localvit.localize` works on: those of timm, torchvision and transformers.

Each family is a row of a table; :func:`register_layout` adds another.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torchvision
from timm import models
from timm.models.maxxvit import PartitionAttentionCl
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformerBlock

from localvit.locality.layouts import (
    Grid,
    TokenGrid,
    TokenLayout,
    channels_first_grid,
    channels_last_grid,
    forget,
    grid_from_block,
    grid_from_image,
    grid_from_map,
    grid_of_map,
    height_width_arguments,
    size_argument,
    tell_from_output,
)


def register_layout(model_class: type[nn.Module], layout: TokenLayout) -> None:
    """Make :func:`localvit.localize` support ``model_class`` and its subclasses."""
    _FAMILIES[model_class] = layout


def layout_of(model: nn.Module) -> TokenLayout:
    """The layout registered for a model's class or its nearest base class; ValueError if there is none."""
    for model_class in type(model).__mro__:
        if model_class in _FAMILIES:
            return _FAMILIES[model_class]
        if (name := f"{model_class.__module__.partition('.')[0]}.{model_class.__name__}") in _BY_NAME:
            return _BY_NAME[name]
    raise ValueError(
        f"cannot localize a {type(model).__name__}: no token layout is known for it. Known are "
        f"{', '.join(supported_families())}; register another with localvit.register_layout"
    )


def supported_families() -> list[str]:
    """Names of the model classes that have a layout."""
    return sorted(model_class.__name__ for model_class in _FAMILIES) + sorted(_BY_NAME)


def _grid_from_pooling_attention(model: Any, blocks: list[nn.Module]) -> list[TokenGrid]:
    """MViT pools inside its blocks: the attention returns tokens and their new grid."""
    grids = [TokenGrid() for _ in blocks]
    for grid, block in zip(grids, blocks, strict=True):
        block.get_submodule("attn").register_forward_hook(partial(_tell_from_attention, grid))
        block.register_forward_hook(partial(forget, grid))
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
                stage.pool.register_forward_hook(partial(tell_from_output, grid, lambda pair: grid_of_map(pair[0])))
            block.register_forward_hook(partial(forget, grid))
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


def _tell_from_stage(grid: TokenGrid, stage: nn.Module, args: tuple[Any, ...]) -> None:
    grid.tell(grid_of_map(args[0][0]))


def _tell_from_attention(grid: TokenGrid, attention: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    height, width = output[1]
    grid.tell((height, width))


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


def _layers(name: str) -> Callable[[Any], list[nn.Module]]:
    """The modules of a class of transformers, but for those of a text model."""
    return lambda model: [
        module for path, module in model.named_modules() if type(module).__name__ == name and "text_model" not in path
    ]


def _grid_from_patches(model: Any, blocks: list[nn.Module]) -> list[TokenGrid]:
    """Models of transformers: the convolution that makes patches has one of two names, at various depths."""
    ends = ("patch_embeddings.projection", "patch_embedding")
    (name,) = [path for path, module in model.named_modules() if path.endswith(ends) and isinstance(module, nn.Conv2d)]
    return grid_from_map(name)(model, blocks)


def _input_dimensions(x_BND: Tensor, input_dimensions: Grid, *args: Any, **kwargs: Any) -> Grid:
    return input_dimensions[0], input_dimensions[1]


# By name, because importing transformers takes seconds and it is optional.
_BY_NAME: dict[str, TokenLayout] = {
    "transformers.ViTPreTrainedModel": TokenLayout(
        _layers("ViTLayer"), _grid_from_patches, lambda model, block: 1, norm="layernorm_after"
    ),
    "transformers.DeiTPreTrainedModel": TokenLayout(
        _layers("DeiTLayer"), _grid_from_patches, lambda model, block: 2, norm="layernorm_after"
    ),
    "transformers.Dinov2WithRegistersPreTrainedModel": TokenLayout(
        _layers("Dinov2WithRegistersLayer"),
        _grid_from_patches,
        lambda model, block: 1 + int(model.config.num_register_tokens),
        scale=("layer_scale2",),
        drop_path="drop_path",
        shares_drop_path=("layer_scale1",),
    ),
    "transformers.SiglipPreTrainedModel": TokenLayout(
        _layers("SiglipEncoderLayer"), _grid_from_patches, norm="layer_norm2"
    ),
    "transformers.SwinPreTrainedModel": TokenLayout(
        _layers("SwinLayer"), grid_from_block(_input_dimensions), norm="layernorm_after"
    ),
}
