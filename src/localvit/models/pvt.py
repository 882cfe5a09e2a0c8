"""PVT-Tiny (arXiv 2102.12122), the Pyramid Vision Transformer that LocalViT-PVT is compared with.

Four stages, each on a grid of half the height and width of the one before. The keys and values of attention come from
a grid made smaller still, by a convolution, so that attention stays affordable on the large grids of the first stages.

Shape suffixes: B images, C channels of the image, N = P + H * W tokens, P prefix tokens (the class token of the last
stage, none before), D channels of a token, H x W the token grid of a stage, M <= N tokens that give keys and values,
A attention heads, K = D / A channels of a head.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import (
    DropPath,
    LayerType,
    Mlp,
    PatchEmbed,
    calculate_drop_path_rates,
    get_act_layer,
    get_norm_layer,
    global_pool_nlc,
    resample_abs_pos_embed,
    to_2tuple,
    trunc_normal_,
)
from timm.models import checkpoint, generate_default_cfgs, register_model

# Private to timm and without a public name: how forward_intermediates reads its ``indices``.
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from localvit.locality.config import LocalityConfig
from localvit.locality.layouts import TokenLayout, grid_from_block, register_layout, size_argument
from localvit.locality.localize import localize
from localvit.models.build import RELEASE, build, pretrained_config, resample_pos_embed
from localvit.models.official_keys import OfficialKeys, register_official_keys

# The paper's layers disagree: those after a convolution have PyTorch's 1e-5, those of blocks and the last one 1e-6.
_BlockNorm = partial(nn.LayerNorm, eps=1e-6)
_ConvNorm = partial(nn.LayerNorm, eps=1e-5)


class Attention(nn.Module):
    """Spatial-reduction attention (section 3.3): every token asks, the tokens of a smaller grid answer.

    Args:
        dim: channels D of a token.
        num_heads: attention heads A, which divide ``dim``.
        sr_ratio: side of the square of tokens that gives one key and one value; 1 is ordinary attention, and the only
            ratio that takes prefix tokens.
        qkv_bias: whether queries, keys and values have a bias.
        attn_drop: dropout of attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        sr_ratio: int = 1,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attn_drop = attn_drop
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self.sr = nn.Conv2d(dim, dim, sr_ratio, stride=sr_ratio) if sr_ratio > 1 else None
        self.norm = _ConvNorm(dim) if sr_ratio > 1 else None

    def forward(self, x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, N, D) to tokens of the same shape, on a grid of (H, W)."""
        source_BMD = x_BND
        if self.sr is not None and self.norm is not None:
            source_BMD = self.norm(self.sr(_feature_map(x_BND, grid)).flatten(2).transpose(1, 2))
        q_BANK = self.q(x_BND).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        kv_BMAK = self.kv(source_BMD).unflatten(-1, (2, self.num_heads, -1)).unbind(2)
        k_BAMK, v_BAMK = (part_BMAK.transpose(1, 2) for part_BMAK in kv_BMAK)
        dropout = self.attn_drop if self.training else 0.0
        out_BANK = F.scaled_dot_product_attention(q_BANK, k_BAMK, v_BAMK, dropout_p=dropout)
        out_BND: Tensor = self.proj_drop(self.proj(out_BANK.transpose(1, 2).flatten(2)))
        return out_BND


class Block(nn.Module):
    """A pre-norm transformer block: spatial-reduction attention, then an MLP.

    Args:
        dim: channels D of a token.
        num_heads: attention heads A.
        mlp_ratio: hidden channels of the MLP over ``dim``.
        drop_path: rate of stochastic depth of either half.
        proj_drop: dropout of attention's output and of the MLP.
        norm_layer: makes a norm from a number of channels.
        act_layer: activation of the MLP.
        attention: what :class:`Attention` takes besides.
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
        """Tokens (B, N, D) to tokens of the same shape, on a grid of (H, W)."""
        x_BND = x_BND + self.drop_path1(self.attn(self.norm1(x_BND), grid))
        out_BND: Tensor = x_BND + self.drop_path2(self.mlp(self.norm2(x_BND)))
        return out_BND


class Stage(nn.Module):
    """One level of the pyramid: patches, position embedding, blocks.

    Args:
        img_size: height and width of the feature map that the stage is built for.
        patch_size: side of a patch of that map.
        in_chans: channels of that map.
        embed_dim: channels D of a token.
        class_token: whether a class token is put in front of the grid.
        drop_path: rates of stochastic depth, one a block.
        pos_drop: dropout of embedded tokens.
        block: what :class:`Block` takes besides.
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
        """Resample the position embedding, once and for all, to feature maps of another size; returns the grid."""
        grid = self.patch_embed.dynamic_feat_size(img_size)
        pos_embed = self._pos_embed(grid).detach()
        self.pos_embed = nn.Parameter(pos_embed, requires_grad=self.pos_embed.requires_grad)
        self.patch_embed.set_input_size(img_size)
        return grid

    def _pos_embed(self, grid: tuple[int, int]) -> Tensor:
        """The position embedding (1, P + H * W, D) on a grid of (H, W)."""
        if grid == self.patch_embed.grid_size:
            return self.pos_embed
        resampled: Tensor = resample_abs_pos_embed(
            self.pos_embed, list(grid), list(self.patch_embed.grid_size), num_prefix_tokens=self.num_prefix_tokens
        )
        return resampled


class PyramidVisionTransformer(nn.Module):
    """The Pyramid Vision Transformer (PVT v1, arXiv 2102.12122, section 3), with the model interface of timm.

    Images may have any height and width that are multiples of :attr:`size_multiple` (32 for PVT-Tiny): where they are
    not those of ``img_size``, the learned position embeddings are resampled.

    Args:
        img_size: height and width of the images that the position embeddings are made for, or one number for both.
        patch_size: pixels from one token of the first stage to the next; each later stage doubles it.
        in_chans: channels of an image.
        num_classes: classes; 0 for no classifier.
        global_pool: what is classified: the class token (``"token"``), the mean of the last stage's patch tokens
            (``"avg"``) or every token of the last stage (``""``).
        embed_dims: channels of a token, by stage, as all that follows.
        depths: number of blocks.
        num_heads: attention heads.
        mlp_ratios: hidden channels of an MLP over those of a token.
        sr_ratios: side of the square of tokens that gives one key and one value; 1 in the last stage.
        qkv_bias: whether queries, keys and values have a bias.
        drop_rate: dropout before the classifier.
        pos_drop_rate: dropout of embedded tokens.
        proj_drop_rate: dropout of attention's output and of the MLPs.
        attn_drop_rate: dropout of attention weights.
        drop_path_rate: stochastic depth of the last block; the rate grows linearly over all blocks, from 0.
        norm_layer: norm in the blocks and before the classifier; the default is layer norm with eps 1e-6.
        act_layer: activation of the MLPs; the default is GELU.
        device: where parameters are.
        dtype: type of the parameters.

    Raises:
        ValueError: for stages that do not fit together, a ``global_pool`` that is not there, and images, in
            ``img_size`` or in a forward pass, whose height or width is no multiple of :attr:`size_multiple`.
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
        self.norm = norm(embed_dims[-1])
        self.head_drop = nn.Dropout(drop_rate)
        self.apply(_init_linear)
        for parameter in self._embeddings().values():
            trunc_normal_(parameter, std=0.02)
        self.reset_classifier(num_classes, global_pool)
        self.to(device=device, dtype=dtype)

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens in front of the grid in what :meth:`forward_features` returns."""
        *_, last = self._each_stage()
        return last.num_prefix_tokens

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, height, width) to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, height, width) to the normalised tokens (B, P + H * W, D) of the last stage."""
        self._require_size(*x.shape[-2:])
        for stage in self.stages:
            x_BND, grid = stage(x)
            x = _feature_map(x_BND, grid)
        normed_BND: Tensor = self.norm(x_BND)
        return normed_BND

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens (B, P + H * W, D) to logits (B, num_classes), or to what the classifier is given."""
        pooled = global_pool_nlc(x, self.global_pool, num_prefix_tokens=self.num_prefix_tokens)
        pooled = self.head_drop(pooled)
        logits: Tensor = pooled if pre_logits else self.head(pooled)
        return logits

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
            indices: which stages: a list, the last so many, or all.
            norm: whether the last stage's map is normalised; the norm fits no other.
            stop_early: whether stages after the last one asked for are left out.
            output_fmt: ``"NCHW"``.
            intermediates_only: whether the final tokens are left out.

        Returns:
            Final tokens, as :meth:`forward_features` gives them, where ``stop_early`` left the last stage out those of
            the last one run; and maps (B, D, H, W).
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
        """Remove what the feature maps of some stages do not need; returns the indices of these stages."""
        take, last = feature_take_indices(len(self.stages), indices)
        prune_end = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        if prune_norm or prune_end:
            self.norm = nn.Identity()
        if prune_end:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or prune_end:
            self.reset_classifier(0, "")
        return list(take)

    def get_classifier(self) -> nn.Module:
        """The linear layer on top, or an identity."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one, or by none for 0 classes, and the pooling where it is given."""
        if global_pool is not None:
            if global_pool not in ("token", "avg", ""):
                raise ValueError(f"global_pool is {global_pool!r}; it must be 'token', 'avg' or ''")
            if global_pool == "token" and not self.num_prefix_tokens:
                raise ValueError("global_pool is 'token'; without its last stage the model has none, only 'avg' or ''")
            self.global_pool = global_pool
        self.num_classes = num_classes
        head = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()
        _init_linear(head)
        parameter = next(self.parameters())
        self.head = head.to(device=parameter.device, dtype=parameter.dtype).train(self.training)

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Resample the position embeddings, once and for all, to images of another height and width."""
        size = self._require_size(*to_2tuple(img_size))
        for stage in self._each_stage():
            size = stage.set_input_size(size)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether blocks are run again in the backward pass, which takes less memory and more time."""
        for stage in self._each_stage():
            stage.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of the position embeddings and the class token."""
        return set(self._embeddings())

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that sort parameters by depth: a group a stage where ``coarse``, else one a block."""
        # What comes before the blocks of a later stage goes with the first of them, the last norm with the last.
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
        """Position embeddings and class token, by name."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if name.endswith((".pos_embed", ".cls_token"))
        }

    def _require_size(self, height: int, width: int) -> tuple[int, int]:
        multiple = self.size_multiple
        if height % multiple or width % multiple:
            raise ValueError(
                f"the image is {height} x {width}; its height and its width must be multiples of {multiple}, "
                f"such as {max(1, height // multiple) * multiple} x {max(1, width // multiple) * multiple}"
            )
        return height, width


def _feature_map(x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (B, P + H * W, D) as the feature map (B, D, H, W) of those on the grid."""
    height, width = grid
    image_BND = x_BND[:, x_BND.shape[1] - height * width :]
    map_BDHW: Tensor = image_BND.unflatten(1, (height, width)).permute(0, 3, 1, 2)
    return map_BDHW


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _require_stages(**by_stage: Sequence[float]) -> None:
    if len({len(values) for values in by_stage.values()}) > 1 or not by_stage["depths"]:
        given = ", ".join(f"{name}={tuple(values)}" for name, values in by_stage.items())
        raise ValueError(f"got {given}; each must have one value a stage")
    for dim, heads in zip(by_stage["embed_dims"], by_stage["num_heads"], strict=True):
        if dim % heads:
            raise ValueError(f"embed_dims has {dim} where num_heads has {heads}; heads must divide the channels")
    if by_stage["sr_ratios"][-1] != 1:
        raise ValueError(
            f"sr_ratios ends with {by_stage['sr_ratios'][-1]}; it must end with 1, since the class token of the last "
            "stage is on no grid that could be reduced"
        )


def _resample(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Fit the position embeddings of a checkpoint to the model's image size."""
    assert isinstance(model, PyramidVisionTransformer)
    for depth, stage in enumerate(model.stages):
        assert isinstance(stage, Stage)
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
        # The class token joins in the last stage.
        num_prefix_tokens=lambda model, block: int(block in model.stages[-1].blocks),
    ),
)

# The authors count stages from 1. Their names of what is inside patch_embed and block are the names here.
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


def _localize(model: Any) -> None:
    """In each stage h-swish, gamma as the stage's MLP ratio, and SE with reduction d."""
    first = 0
    for stage in model.stages:
        hidden, dim = stage.blocks[0].mlp.fc1.weight.shape
        config = LocalityConfig(expansion_ratio=hidden / dim, channel_attention="se", se_reduction=dim)
        localize(model, config, layers=range(first, first + len(stage.blocks)))
        first += len(stage.blocks)


def _create(variant: str, pretrained: bool, place: Callable[[Any], None] | None, **model_args: Any) -> nn.Module:
    body = {"out_indices": (0, 1, 2, 3)} | model_args
    return build(PyramidVisionTransformer, variant, pretrained, place=place, filter_fn=_resample, **body)


@register_model
def pvt_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """PVT-Tiny: two blocks a stage."""
    return _create("pvt_tiny", pretrained, None, **kwargs)


@register_model
def localvit_pvt_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """LocalViT-PVT: h-swish and SE with reduction d in every layer of PVT-Tiny."""
    return _create("localvit_pvt_tiny", pretrained, _localize, **kwargs)
