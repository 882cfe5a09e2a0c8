"""PVT-Tiny (arXiv 2102.12122), the Pyramid Vision Transformer that LocalViT-PVT is compared with.

Each of the four stages halves the height and width of the token grid. Keys and values of attention come from a grid
that a convolution reduces further, which keeps attention affordable on the large grids of the first stages.

Shape suffixes: B images, C channels of the image, N = P + H * W tokens, P prefix tokens (the class token of the last
stage; none in other stages), D channels of a token, H x W the token grid of a stage.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import (
    DropPath,
    LayerType,
    Mlp,
    PatchEmbed,
    calculate_drop_path_rates,
    get_act_layer,
    get_norm_layer,
    to_2tuple,
    trunc_normal_,
)
from timm.models import checkpoint, generate_default_cfgs, register_model

# timm has no public name for how forward_intermediates reads its ``indices``.
from timm.models._features import feature_take_indices
from timm.models.pvt_v2 import Attention
from torch import Tensor, nn

from localvit.locality.config import LocalityConfig
from localvit.locality.families import register_layout
from localvit.locality.layouts import TokenLayout, grid_from_block, size_argument
from localvit.locality.localize import localize
from localvit.models.build import RELEASE, Fields, build, pretrained_config, resample_pos_embed, resampled_to_grid
from localvit.models.head import TokenClassifier, init_linear
from localvit.models.official_keys import OfficialKeys, register_official_keys

# The norms of blocks and the last norm have an epsilon of 1e-6. Those after a convolution have PyTorch's 1e-5.
_BlockNorm = partial(nn.LayerNorm, eps=1e-6)
_ConvNorm = partial(nn.LayerNorm, eps=1e-5)


class Block(nn.Module):
    """A pre-norm transformer block: spatial-reduction attention (section 3.3), then an MLP.

    Args:
        dim: channels D of a token.
        num_heads: attention heads, which divide ``dim``.
        mlp_ratio: hidden channels of the MLP over ``dim``.
        drop_path: rate of stochastic depth, in either half.
        proj_drop: dropout of the outputs of attention and MLP.
        norm_layer: makes a norm from a number of channels.
        act_layer: activation of the MLP.
        attention: other arguments of timm's attention: ``sr_ratio``, ``qkv_bias`` and ``attn_drop``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        proj_drop: float = 0.0,
        norm_layer: Any = _BlockNorm,
        act_layer: Any = nn.GELU,
        **attention: Any,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = Attention(dim, num_heads, proj_drop=proj_drop, **attention)
        self.drop_path1 = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=act_layer, drop=proj_drop)
        self.drop_path2 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, N, D) on a grid of (H, W) to tokens of the same shape."""
        x_BND = x_BND + self.drop_path1(self.attn(self.norm1(x_BND), grid))
        out_BND: Tensor = x_BND + self.drop_path2(self.mlp(self.norm2(x_BND)))
        return out_BND


class Stage(nn.Module):
    """One level of the pyramid: patch embedding, position embedding, blocks.

    Args:
        img_size: height and width of the feature map that the position embedding is made for.
        patch_size: side of a patch of that map.
        in_chans: channels of that map.
        embed_dim: channels D of a token.
        class_token: whether a class token precedes the grid.
        drop_path: rates of stochastic depth, one per block.
        pos_drop: dropout of embedded tokens.
        block: other arguments of :class:`Block`.
    """

    def __init__(
        self,
        img_size: tuple[int, int],
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        *,
        class_token: bool,
        drop_path: Sequence[float],
        pos_drop: float,
        **block: Any,
    ) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.num_prefix_tokens = int(class_token)
        self.patch_embed = PatchEmbed(
            img_size, patch_size, in_chans, embed_dim, norm_layer=_ConvNorm, strict_img_size=False
        )
        tokens = self.num_prefix_tokens + math.prod(self.patch_embed.grid_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, embed_dim))
        self.pos_drop = nn.Dropout(pos_drop)
        self.blocks = nn.ModuleList(Block(embed_dim, drop_path=rate, **block) for rate in drop_path)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Feature map (B, C, height, width) to tokens (B, P + H * W, D) and their grid (H, W)."""
        height, width = x_BCHW.shape[-2:]
        grid = self.patch_embed.dynamic_feat_size((height, width))
        x_BND = self.patch_embed(x_BCHW)
        if self.cls_token is not None:
            x_BND = torch.cat([self.cls_token.expand(x_BND.shape[0], -1, -1), x_BND], dim=1)
        x_BND = self.pos_drop(x_BND + self._pos_embed(grid))
        for block in self.blocks:
            x_BND = checkpoint(block, x_BND, grid) if self.grad_checkpointing else block(x_BND, grid)
        return x_BND, grid

    def set_input_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Resample the position embedding to feature maps of another size, and return the new grid."""
        grid = self.patch_embed.dynamic_feat_size(img_size)
        pos_embed = self._pos_embed(grid).detach()
        self.pos_embed = nn.Parameter(pos_embed, requires_grad=self.pos_embed.requires_grad)
        self.patch_embed.set_input_size(img_size)
        return grid

    def _pos_embed(self, grid: tuple[int, int]) -> Tensor:
        return resampled_to_grid(self.pos_embed, self.patch_embed.grid_size, grid, self.num_prefix_tokens)


class PyramidVisionTransformer(TokenClassifier):
    """The Pyramid Vision Transformer (PVT v1, arXiv 2102.12122, section 3) with timm's model interface.

    Height and width of an image must be multiples of :attr:`size_multiple` (32 for PVT-Tiny). The learned position
    embeddings are resampled for images of another size than ``img_size``.

    Args:
        img_size: height and width of the images that the position embeddings are made for, or the side of a square.
        patch_size: pixels from one token of the first stage to the next; each later stage doubles it.
        in_chans: channels of an image.
        num_classes: number of classes; 0 for no classifier.
        global_pool: ``"token"`` (class token), ``"avg"`` (mean of the patch tokens) or ``""`` (every token).
        embed_dims: channels of a token in each stage.
        depths: number of blocks in each stage.
        num_heads: attention heads in each stage.
        mlp_ratios: hidden channels of an MLP over those of a token, in each stage.
        sr_ratios: side of the square of tokens that shares a key and a value, in each stage; 1 in the last.
        qkv_bias: whether queries, keys and values have a bias.
        drop_rate: dropout before the classifier.
        pos_drop_rate: dropout of embedded tokens.
        proj_drop_rate: dropout of the outputs of attention and MLPs.
        attn_drop_rate: dropout of attention weights.
        drop_path_rate: stochastic depth of the last block; the rate grows linearly from 0 at the first.
        norm_layer: norm in the blocks and before the classifier. Defaults to layer norm with epsilon 1e-6.
        act_layer: activation of the MLPs. Defaults to GELU.
        device: device of the parameters.
        dtype: type of the parameters.

    Raises:
        ValueError: if the stages do not fit together, for an unknown ``global_pool``, or if height or width of an
            image, in ``img_size`` or in a forward pass, is not a multiple of :attr:`size_multiple`.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_layer: LayerType | None = None,
        act_layer: LayerType | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _require_stages(
            embed_dims=embed_dims, depths=depths, num_heads=num_heads, mlp_ratios=mlp_ratios, sr_ratios=sr_ratios
        )
        norm = get_norm_layer(norm_layer) or _BlockNorm
        reductions = [patch_size * 2**stage for stage in range(len(depths))]
        rates: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.in_chans = in_chans
        self.size_multiple = math.lcm(*(step * ratio for step, ratio in zip(reductions, sr_ratios, strict=True)))
        self.feature_info = [
            {"num_chs": dim, "reduction": reduction, "module": f"stages.{stage}"}
            for stage, (dim, reduction) in enumerate(zip(embed_dims, reductions, strict=True))
        ]

        size, channels = self._require_size(*to_2tuple(img_size)), in_chans
        self.stages = nn.ModuleList()
        for index, embed_dim in enumerate(embed_dims):
            stage = Stage(
                size,
                patch_size=patch_size if index == 0 else 2,
                in_chans=channels,
                embed_dim=embed_dim,
                class_token=index == len(embed_dims) - 1,
                pos_drop=pos_drop_rate,
                drop_path=rates[index],
                num_heads=num_heads[index],
                mlp_ratio=mlp_ratios[index],
                sr_ratio=sr_ratios[index],
                qkv_bias=qkv_bias,
                proj_drop=proj_drop_rate,
                attn_drop=attn_drop_rate,
                norm_layer=norm,
                act_layer=get_act_layer(act_layer) or nn.GELU,
            )
            self.stages.append(stage)
            size, channels = stage.patch_embed.grid_size, embed_dim
        self.num_features = self.head_hidden_size = embed_dims[-1]
        self.num_prefix_tokens = 1
        self.norm = norm(embed_dims[-1])
        self.head_drop = nn.Dropout(drop_rate)
        self.apply(init_linear)
        for parameter in self._embeddings().values():
            trunc_normal_(parameter, std=0.02)
        self.reset_classifier(num_classes, global_pool)
        self.to(device=device, dtype=dtype)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, height, width) to the normalized tokens (B, P + H * W, D) of the last stage."""
        self._require_size(*x.shape[-2:])
        for stage in self.stages:
            x_BND, grid = stage(x)
            x = _feature_map(x_BND, grid)
        normed_BND: Tensor = self.norm(x_BND)
        return normed_BND

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps of the stages, without the class token.

        Args:
            x: images (B, C, height, width).
            indices: indices of the stages, the number of last stages, or None for all.
            norm: whether to normalize the map of the last stage; the norm fits no other.
            stop_early: whether to skip the stages after the last requested one.
            output_fmt: ``"NCHW"``.
            intermediates_only: whether to return only the maps.

        Returns:
            The tokens of the last stage run, normalized if it is the last of the model, and the maps (B, D, H, W).
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}; it must be NCHW")
        take, last = feature_take_indices(len(self.stages), indices)
        self._require_size(*x.shape[-2:])
        intermediates = []
        for index, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x_BND, grid = stage(x)
            x = _feature_map(x_BND, grid)
            final_BND = self.norm(x_BND) if index == len(self.stages) - 1 else x_BND
            if index in take:
                intermediates.append((_feature_map(final_BND, grid) if norm else x).contiguous())
        return intermediates if intermediates_only else (final_BND, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the feature maps of some stages do not need, and return the indices of these stages."""
        take, last = feature_take_indices(len(self.stages), indices)
        prune_end = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        if prune_norm or prune_end:
            self.norm = nn.Identity()
        if prune_end:
            self.num_prefix_tokens = 0
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or prune_end:
            self.reset_classifier(0, "")
        return list(take)

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Resample the position embeddings to images of another height and width."""
        size = self._require_size(*to_2tuple(img_size))
        for stage in self._each_stage():
            size = stage.set_input_size(size)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass, which takes less memory and more time."""
        for stage in self._each_stage():
            stage.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of the position embeddings and the class token."""
        return set(self._embeddings())

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that group parameters by depth: one group per stage if ``coarse``, else one per block."""
        # What precedes the blocks of a later stage joins its first block; the last norm joins the last block.
        blocks = [
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^stages\.(\d+)\.", (0,)),
            (r"^norm", (99999,)),
        ]
        return {
            "stem": r"^stages\.0\.(?:patch_embed|pos_embed)",
            "blocks": [(r"^stages\.(\d+)", None), blocks[-1]] if coarse else blocks,
        }

    def _each_stage(self) -> Iterator[Stage]:
        for stage in self.stages:
            assert isinstance(stage, Stage)
            yield stage

    def _embeddings(self) -> dict[str, nn.Parameter]:
        ends = (".pos_embed", ".cls_token")
        return {name: parameter for name, parameter in self.named_parameters() if name.endswith(ends)}

    def _require_size(self, height: int, width: int) -> tuple[int, int]:
        multiple = self.size_multiple
        if height % multiple or width % multiple:
            raise ValueError(
                f"the image is {height} x {width}; its height and its width must be multiples of {multiple}, "
                f"such as {max(1, height // multiple) * multiple} x {max(1, width // multiple) * multiple}"
            )
        return height, width


def _feature_map(x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
    """The image tokens of (B, P + H * W, D) as a feature map (B, D, H, W)."""
    height, width = grid
    image_BND = x_BND[:, x_BND.shape[1] - height * width :]
    map_BDHW: Tensor = image_BND.unflatten(1, (height, width)).permute(0, 3, 1, 2)
    return map_BDHW


def _require_stages(**by_stage: Sequence[float]) -> None:
    if len({len(values) for values in by_stage.values()}) > 1 or not by_stage["depths"]:
        given = ", ".join(f"{name}={tuple(values)}" for name, values in by_stage.items())
        raise ValueError(f"got {given}; each must have one value per stage")
    for dim, heads in zip(by_stage["embed_dims"], by_stage["num_heads"], strict=True):
        if dim % heads:
            raise ValueError(f"embed_dims has {dim} where num_heads has {heads}; heads must divide the channels")
    if by_stage["sr_ratios"][-1] != 1:
        raise ValueError(
            f"sr_ratios ends with {by_stage['sr_ratios'][-1]}; it must end with 1, because the class token of the "
            "last stage is on no grid that could be reduced"
        )


def _resample(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Fit the position embeddings of a checkpoint to the model's image size."""
    assert isinstance(model, PyramidVisionTransformer)
    for depth, stage in enumerate(model._each_stage()):
        key = f"stages.{depth}.pos_embed"
        if key in state_dict:
            grid = stage.patch_embed.grid_size
            state_dict[key] = resample_pos_embed(state_dict[key], grid, stage.num_prefix_tokens)
    return state_dict


register_layout(
    PyramidVisionTransformer,
    TokenLayout(
        blocks=lambda model: [block for stage in model.stages for block in stage.blocks],
        watch=grid_from_block(size_argument),
        # The class token appears in the last stage.
        num_prefix_tokens=lambda model, block: int(block in model.stages[-1].blocks),
    ),
)

# The authors count stages from 1. Inside patch embeddings and blocks, their names are the names here.
register_official_keys(
    PyramidVisionTransformer,
    OfficialKeys(
        renames=(
            *((f"patch_embed{stage + 1}.", f"stages.{stage}.patch_embed.") for stage in range(4)),
            *((f"pos_embed{stage + 1}", f"stages.{stage}.pos_embed") for stage in range(4)),
            *((f"block{stage + 1}.", f"stages.{stage}.blocks.") for stage in range(4)),
            ("cls_token", "stages.3.cls_token"),
        ),
        marker="block1.",
    ),
)

_KEYS = {"fixed_input_size": False, "first_conv": "stages.0.patch_embed.proj", "classifier": "head"}
default_cfgs = generate_default_cfgs(
    {
        "pvt_tiny": pretrained_config(**_KEYS),
        "localvit_pvt_tiny.in1k": pretrained_config(url=f"{RELEASE}/localvit_pvt.pth", **_KEYS),
    }
)


def _localize(model: Any, locality: Fields | None) -> None:
    """Every stage gets h-swish, its own MLP ratio as gamma, and SE with reduction d."""
    first = 0
    for stage in model.stages:
        hidden, dim = stage.blocks[0].mlp.fc1.weight.shape
        config = LocalityConfig(expansion_ratio=hidden / dim, channel_attention="se", se_reduction=dim)
        localize(model, config.changed(locality), layers=range(first, first + len(stage.blocks)))
        first += len(stage.blocks)


def _create(variant: str, pretrained: bool, place: Callable[[Any], None] | None, **model_args: Any) -> nn.Module:
    body = {"out_indices": (0, 1, 2, 3)} | model_args
    return build(PyramidVisionTransformer, variant, pretrained, place=place, filter_fn=_resample, **body)


@register_model
def pvt_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """PVT-Tiny: two blocks per stage."""
    return _create("pvt_tiny", pretrained, None, **kwargs)


@register_model
def localvit_pvt_tiny(pretrained: bool = False, locality: Fields | None = None, **kwargs: Any) -> nn.Module:
    """LocalViT-PVT: h-swish and SE with reduction d in every layer of PVT-Tiny."""
    return _create("localvit_pvt_tiny", pretrained, partial(_localize, locality=locality), **kwargs)
