"""T2T-ViT-7 (arXiv 2101.11986): tokens made step by step from overlapping windows, then a slim transformer.

    image -> split 7/4 -> performer -> split 3/2 -> performer -> split 3/2 -> project -> blocks -> head

A soft split (section 3.1) unfolds the grid with a window larger than its stride, so neighbouring tokens share pixels.
A performer (arXiv 2009.14794) attends in time linear in the number of tokens, of which there are 56 x 56 and 28 x 28.

Every performer and block is told its token grid. Nothing here needs it; a feed-forward network that mixes neighbours,
put in the place of an ``mlp``, does.

Shape suffixes: B images, C channels of an image, N tokens (1 + H * W with the class token), D channels of a token,
E channels inside the performers (token_dim), M random features, H x W the token grid.
"""

import math
from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import (
    Attention,
    DropPath,
    Mlp,
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
from localvit.models.build import build, pretrained_config, resample_pos_embed
from localvit.models.official_keys import OfficialKeys, register_official_keys

_PATCH_SIZE = 16
_LATER_SPLITS = {"kernel_size": 3, "stride": 2, "padding": 1}
_EPSILON = 1e-8


def token_grid(image_size: tuple[int, int], patch_size: int = _PATCH_SIZE) -> tuple[int, int]:
    """Height and width in tokens of the backbone's grid for an image of (height, width) pixels.

    Raises:
        ValueError: where a side is not a positive multiple of ``patch_size``.
    """
    height, width = image_size
    if min(height, width) < patch_size or height % patch_size or width % patch_size:
        raise ValueError(
            f"the image is {height} x {width} pixels; both sides must be multiples of {patch_size}, "
            f"at least {patch_size}: resize, crop or pad it"
        )
    return height // patch_size, width // patch_size


def first_split(patch_size: int) -> dict[str, int]:
    """The soft split of the image that, with two more of stride 2, leaves tokens ``patch_size`` pixels apart.

    Raises:
        ValueError: where ``patch_size`` is not a positive multiple of 4.
    """
    if patch_size < 4 or patch_size % 4:
        raise ValueError(f"patch_size is {patch_size}; it must be a multiple of 4, such as 16")
    stride = patch_size // 4
    kernel_size = max(3, 2 * stride - 1)  # windows overlap; one pixel of one channel would be lost in a layer norm
    return {"kernel_size": kernel_size, "stride": stride, "padding": (kernel_size - stride + 1) // 2}


def sinusoid(length: int, dim: int) -> Tensor:
    """The fixed position embedding (1, length, dim) of arXiv 1706.03762, section 3.5: sine and cosine in turn."""
    channel = torch.arange(dim)
    wavelength = 10000 ** (2 * (channel // 2).double() / dim)
    angle_ND = torch.arange(length, dtype=torch.float64)[:, None] / wavelength
    return torch.where(channel % 2 == 0, angle_ND.sin(), angle_ND.cos()).float()[None]


def performer_attention(query_BNE: Tensor, key_BNE: Tensor, value_BNE: Tensor, w_ME: Tensor) -> Tensor:
    """Attention whose kernel is a product of positive random features (arXiv 2009.14794, lemma 1).

    With phi(x) = exp(w x - |x|^2 / 2) / sqrt(M), token n becomes the mean of all values, weighted by
    phi(query_n) * phi(key). It is computed in float32, or in float64 where the value is float64, whatever the autocast:
    the weights span many orders of magnitude.

    Args:
        query_BNE: queries (B, N, E).
        key_BNE: keys (B, N, E).
        value_BNE: values (B, N, E).
        w_ME: directions of the random features (M, E).

    Returns:
        Tokens (B, N, E) in the type of ``value_BNE``.
    """
    dtype = torch.promote_types(value_BNE.dtype, torch.float32)
    # Costs are counted on the meta device, which autocast does not know.
    device_type = "cpu" if value_BNE.is_meta else value_BNE.device.type
    with torch.autocast(device_type, enabled=False):
        query_BNM = _random_features(query_BNE.to(dtype), w_ME.to(dtype))
        key_BNM = _random_features(key_BNE.to(dtype), w_ME.to(dtype))
        weighted_BNE = query_BNM @ (key_BNM.mT @ value_BNE.to(dtype))
        weight_BN1 = query_BNM @ key_BNM.sum(dim=1).unsqueeze(-1)
        out_BNE = weighted_BNE / (weight_BN1 + _EPSILON)
    return out_BNE.to(value_BNE.dtype)


def _random_features(x_BNE: Tensor, w_ME: Tensor) -> Tensor:
    half_square_BN1 = x_BNE.square().sum(dim=-1, keepdim=True) / 2
    return torch.exp(x_BNE @ w_ME.mT - half_square_BN1) / math.sqrt(len(w_ME))


class TokenPerformer(nn.Module):
    """A one-head transformer layer whose attention is linear in the number of tokens, and which narrows them.

    The value is the skip connection of the attention, because the tokens that come in are wider.

    Args:
        dim: channels D of the tokens that come in.
        token_dim: channels E of those that go out; half as many random features.
        drop_rate: dropout after the projection and after the MLP.
        norm_layer: the two norms.
        act_layer: inside the MLP.
    """

    def __init__(
        self,
        dim: int,
        token_dim: int,
        *,
        drop_rate: float = 0.1,
        norm_layer: type[nn.Module] = nn.LayerNorm,
        act_layer: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        features = token_dim // 2
        directions_ME = nn.init.orthogonal_(torch.empty(features, token_dim))
        # Fixed, but a parameter: the published parameter count includes it.
        self.w = nn.Parameter(directions_ME * math.sqrt(features), requires_grad=False)
        self.norm1 = norm_layer(dim)
        self.kqv = nn.Linear(dim, 3 * token_dim)
        self.proj = nn.Linear(token_dim, token_dim)
        self.proj_drop = nn.Dropout(drop_rate)
        self.norm2 = norm_layer(token_dim)
        self.mlp = Mlp(token_dim, token_dim, act_layer=act_layer, drop=(0.0, drop_rate))

    def forward(self, x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, H * W, D) to tokens (B, H * W, E), on a grid of (H, W)."""
        key_BNE, query_BNE, value_BNE = self.kqv(self.norm1(x_BND)).chunk(3, dim=-1)
        attended_BNE = performer_attention(query_BNE, key_BNE, value_BNE, self.w)
        x_BNE: Tensor = value_BNE + self.proj_drop(self.proj(attended_BNE))
        out_BNE: Tensor = x_BNE + self.mlp(self.norm2(x_BNE))
        return out_BNE


class TokensToToken(nn.Module):
    """From an image to the tokens of the backbone, ``patch_size`` pixels apart (section 3.1).

    Args:
        in_chans: channels C of the image.
        token_dim: channels E inside the performers.
        embed_dim: channels D of the tokens that go out.
        patch_size: pixels from one of them to the next, a multiple of 4.
        norm_layer: norms of the performers.
        act_layer: inside the MLPs of the performers.
    """

    def __init__(
        self,
        in_chans: int,
        token_dim: int,
        embed_dim: int,
        *,
        patch_size: int = _PATCH_SIZE,
        norm_layer: type[nn.Module] = nn.LayerNorm,
        act_layer: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        layers: dict[str, Any] = {"norm_layer": norm_layer, "act_layer": act_layer}
        self.patch_size, self.first_split = patch_size, first_split(patch_size)
        later = _LATER_SPLITS["kernel_size"] ** 2 * token_dim
        self.grad_checkpointing = False
        self.attention1 = TokenPerformer(self.first_split["kernel_size"] ** 2 * in_chans, token_dim, **layers)
        self.attention2 = TokenPerformer(later, token_dim, **layers)
        self.project = nn.Linear(later, embed_dim)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Images (B, C, height, width) to tokens (B, height / patch_size * width / patch_size, D), row by row.

        Raises:
            ValueError: where a side is not a positive multiple of the patch size.
        """
        height, width = token_grid((image_BCHW.shape[2], image_BCHW.shape[3]), self.patch_size)
        x_BEHW = self._perform(self.attention1, _soft_split(image_BCHW, self.first_split), (4 * height, 4 * width))
        x_BEHW = self._perform(self.attention2, _soft_split(x_BEHW, _LATER_SPLITS), (2 * height, 2 * width))
        x_BND: Tensor = self.project(_soft_split(x_BEHW, _LATER_SPLITS))
        return x_BND

    def _perform(self, performer: nn.Module, x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        x_BNE: Tensor = checkpoint(performer, x_BND, grid) if self.grad_checkpointing else performer(x_BND, grid)
        x_BEHW: Tensor = x_BNE.mT.unflatten(2, grid)
        return x_BEHW


def _soft_split(x_BCHW: Tensor, window: dict[str, int]) -> Tensor:
    """A grid (B, C, H, W) to its overlapping windows (B, N, C * kernel_size^2), row by row."""
    windows_BDN: Tensor = F.unfold(x_BCHW, **window)
    return windows_BDN.mT


class Block(nn.Module):
    """A pre-norm transformer block of the backbone.

    Args:
        dim: channels D of a token.
        num_heads: attention heads.
        mlp_ratio: hidden channels of the MLP over D.
        proj_drop: dropout after the attention's projection and in the MLP.
        attn_drop: dropout of attention weights.
        drop_path: stochastic depth of either half.
        norm_layer: the two norms.
        act_layer: inside the MLP.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 2.0,
        proj_drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        norm_layer: type[nn.Module] = nn.LayerNorm,
        act_layer: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = Attention(dim, num_heads, qkv_bias=False, attn_drop=attn_drop, proj_drop=proj_drop)
        self.drop_path1 = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(mlp_ratio * dim), act_layer=act_layer, drop=proj_drop)
        self.drop_path2 = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, 1 + H * W, D), the class token first, to tokens of the same shape, on a grid of (H, W)."""
        x_BND = x_BND + self.drop_path1(self.attn(self.norm1(x_BND)))
        out_BND: Tensor = x_BND + self.drop_path2(self.mlp(self.norm2(x_BND)))
        return out_BND


class T2TViT(nn.Module):
    """Tokens-to-token vision transformer with timm's model interface.

    Images of any size work, rectangular ones too, if both sides are multiples of the patch size: for a grid other than
    that of ``img_size`` the position embedding is resampled.

    Args:
        img_size: height and width, or the side of a square, in pixels.
        patch_size: pixels from one token of the backbone to the next, a multiple of 4; the published model has 16.
        in_chans: channels of the image.
        num_classes: outputs of the head; 0 for none.
        global_pool: ``"token"`` (class token), ``"avg"`` (mean of the others) or ``""`` (all tokens).
        embed_dim: channels D of a token in the backbone.
        depth: blocks in the backbone.
        num_heads: attention heads of a block.
        mlp_ratio: hidden channels of a block's MLP over D.
        token_dim: channels E inside the performers.
        drop_rate: dropout before the head.
        pos_drop_rate: dropout after the position embedding.
        proj_drop_rate: dropout after the projections and in the MLPs of the blocks.
        attn_drop_rate: dropout of attention weights.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0 at the first.
        norm_layer: a module class or timm's name of one; the default is LayerNorm with eps 1e-5.
        act_layer: a module class or timm's name of one; the default is GELU.

    Raises:
        ValueError: where a side of ``img_size`` is not a positive multiple of ``patch_size``, where that is not one of
            4, or for another ``global_pool``.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = _PATCH_SIZE,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        embed_dim: int = 256,
        depth: int = 7,
        num_heads: int = 4,
        mlp_ratio: float = 2.0,
        token_dim: int = 64,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_layer: str | type[nn.Module] | None = None,
        act_layer: str | type[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        norm_layer = get_norm_layer(norm_layer) or nn.LayerNorm
        act_layer = get_act_layer(act_layer) or nn.GELU
        layers: dict[str, Any] = {"norm_layer": norm_layer, "act_layer": act_layer}
        drop_path_rates: Any = calculate_drop_path_rates(drop_path_rate, depth)
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.global_pool = _known_pool(global_pool)
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dim
        self.num_prefix_tokens = 1
        self.grad_checkpointing = False
        self.tokens_to_token = TokensToToken(in_chans, token_dim, embed_dim, patch_size=patch_size, **layers)
        self.patch_size = patch_size
        self.grid_size = token_grid(to_2tuple(img_size), patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        # Fixed, but a parameter: the published parameter count includes it.
        self.pos_embed = nn.Parameter(sinusoid(1 + math.prod(self.grid_size), embed_dim), requires_grad=False)
        self.pos_drop = nn.Dropout(pos_drop_rate)
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                mlp_ratio=mlp_ratio,
                proj_drop=proj_drop_rate,
                attn_drop=attn_drop_rate,
                drop_path=drop_path,
                **layers,
            )
            for drop_path in drop_path_rates
        )
        self.norm = norm_layer(embed_dim)
        self.feature_info = [
            {"module": f"blocks.{index}", "num_chs": embed_dim, "reduction": patch_size} for index in range(depth)
        ]
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes > 0 else nn.Identity()

        trunc_normal_(self.cls_token, std=0.02)
        self.apply(_init_weights)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that take no weight decay."""
        return {"pos_embed", "cls_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameter names from stem to blocks, by which timm groups layers."""
        return {
            "stem": r"^cls_token|pos_embed|tokens_to_token",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether performers and blocks are computed again in the backward pass instead of kept."""
        self.grad_checkpointing = enable
        self.tokens_to_token.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """The last layer, from features (B, D) to logits."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a fresh one, or by none for 0 classes; ValueError for an unknown ``global_pool``."""
        if global_pool is not None:
            self.global_pool = _known_pool(global_pool)
        self.num_classes = num_classes
        self.head = nn.Linear(self.embed_dim, num_classes) if num_classes > 0 else nn.Identity()
        self.head.to(self.cls_token).train(self.training).apply(_init_weights)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, height, width) to normalised tokens (B, 1 + H * W, D), the class token first.

        Raises:
            ValueError: where a side of the images is not a positive multiple of the patch size.
        """
        x_BND, _ = self._run_blocks(x)
        normed_BND: Tensor = self.norm(x_BND)
        return normed_BND

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Normalised tokens (B, 1 + H * W, D) to logits (B, num_classes), or with ``pre_logits`` to what they are of.

        Without pooling the tokens stay: (B, 1 + H * W, num_classes).
        """
        x = global_pool_nlc(x, pool_type=self.global_pool, num_prefix_tokens=self.num_prefix_tokens)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, height, width) to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Any] | tuple[Tensor, list[Any]]:
        """Tokens after the chosen blocks, without the class token.

        Args:
            x: images (B, C, height, width).
            indices: the last so many blocks, all for None, or their indices.
            return_prefix_tokens: pair each intermediate with its class token (B, 1, D).
            norm: apply the last norm to the intermediates too.
            stop_early: leave out the blocks after the last one chosen.
            output_fmt: ``"NCHW"`` for feature maps (B, D, H, W), ``"NLC"`` for tokens (B, H * W, D).
            intermediates_only: leave out the final features.

        Returns:
            The normalised tokens (B, 1 + H * W, D) and the list of intermediates, or that list alone.

        Raises:
            ValueError: for another ``output_fmt``, or where a side of the images is not a positive multiple of the
                patch size.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt is {output_fmt!r}; it must be NCHW or NLC")
        take, last = feature_take_indices(len(self.blocks), indices)
        x_BND, taken = self._run_blocks(x, take=take, depth=last + 1 if stop_early else None)
        if norm:
            taken = [self.norm(y_BND) for y_BND in taken]

        intermediates: list[Any] = [y_BND[:, self.num_prefix_tokens :] for y_BND in taken]
        if output_fmt == "NCHW":
            grid = token_grid((x.shape[2], x.shape[3]), self.patch_size)
            intermediates = [y_BND.unflatten(1, grid).permute(0, 3, 1, 2).contiguous() for y_BND in intermediates]
        if return_prefix_tokens:
            prefix = [y_BND[:, : self.num_prefix_tokens] for y_BND in taken]
            intermediates = list(zip(intermediates, prefix, strict=True))
        return intermediates if intermediates_only else (self.norm(x_BND), intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the blocks after the last of ``indices``, and norm and head on demand; the indices that were kept."""
        take, last = feature_take_indices(len(self.blocks), indices)
        self.blocks = self.blocks[: last + 1]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return list(take)

    def _run_blocks(
        self, image_BCHW: Tensor, *, take: Collection[int] = (), depth: int | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Tokens (B, N, D) after the first ``depth`` blocks, and those after each block in ``take``."""
        grid = token_grid((image_BCHW.shape[2], image_BCHW.shape[3]), self.patch_size)
        x_BND = self.tokens_to_token(image_BCHW)
        x_BND = torch.cat([self.cls_token.expand(x_BND.shape[0], -1, -1), x_BND], dim=1)
        x_BND = self.pos_drop(x_BND + self._position(grid))
        taken = []
        for index, block in enumerate(self.blocks[:depth]):
            x_BND = checkpoint(block, x_BND, grid) if self.grad_checkpointing else block(x_BND, grid)
            if index in take:
                taken.append(x_BND)
        return x_BND, taken

    def _position(self, grid: tuple[int, int]) -> Tensor:
        if grid == self.grid_size:
            return self.pos_embed
        resampled: Tensor = resample_abs_pos_embed(
            self.pos_embed, new_size=list(grid), old_size=list(self.grid_size), num_prefix_tokens=self.num_prefix_tokens
        )
        return resampled


def _known_pool(global_pool: str) -> str:
    if global_pool not in ("token", "avg", ""):
        raise ValueError(f"global_pool is {global_pool!r}; it must be 'token', 'avg' or '' for none")
    return global_pool


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _resample(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Fit the position embedding of a checkpoint to the model's image size."""
    assert isinstance(model, T2TViT)
    if "pos_embed" in state_dict:
        state_dict["pos_embed"] = resample_pos_embed(state_dict["pos_embed"], model.grid_size, model.num_prefix_tokens)
    return state_dict


register_layout(
    T2TViT,
    TokenLayout(
        # The performers are the first two layers, and have no class token.
        blocks=lambda model: [model.tokens_to_token.attention1, model.tokens_to_token.attention2, *model.blocks],
        watch=grid_from_block(size_argument),
        num_prefix_tokens=lambda model, block: int(isinstance(block, Block)),
    ),
)

_MLP = "tokens_to_token.attention{}.mlp."
register_official_keys(
    T2TViT,
    OfficialKeys(
        renames=tuple(
            (_MLP.format(performer) + theirs, _MLP.format(performer) + ours)
            for performer in (1, 2)
            for theirs, ours in (("0.", "fc1."), ("2.", "fc2."))
        ),
        marker=_MLP.format(1) + "0.",
    ),
)

# The first layer is linear, on unfolded windows; timm can adapt only a convolution to other channels.
_KEYS = {"fixed_input_size": False, "first_conv": None, "classifier": "head"}
default_cfgs = generate_default_cfgs(
    {"t2t_vit_7": pretrained_config(**_KEYS), "localvit_t2t_7": pretrained_config(**_KEYS)}
)


class _UnusedNorm(nn.LayerNorm):
    """A norm that the authors' files and parameter count have, and their forward pass has not."""

    def forward(self, x: Tensor) -> Tensor:
        # Their gradient is zero rather than absent, which distributed training would take for a mistake.
        return x + 0 * (self.weight + self.bias)


def _localize(model: Any) -> None:
    """The performers at expansion ratio 1 without channel attention; the blocks with SE of 4 channels."""
    localize(model, LocalityConfig(expansion_ratio=1), layers=[0, 1])
    config = LocalityConfig(expansion_ratio=2, channel_attention="se", se_reduction=model.embed_dim // 2)
    localize(model, config, layers=range(2, 2 + len(model.blocks)))
    for performer in (model.tokens_to_token.attention1, model.tokens_to_token.attention2):
        performer.norm2 = _UnusedNorm(performer.proj.out_features)


@register_model
def t2t_vit_7(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """T2T-ViT-7: 7 blocks of 256 channels, 4 heads and MLP ratio 2."""
    return build(T2TViT, "t2t_vit_7", pretrained, filter_fn=_resample, **kwargs)


@register_model
def localvit_t2t_7(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """LocalViT-T2T: h-swish and SE in the blocks, h-swish alone at expansion ratio 1 in the two performers."""
    return build(T2TViT, "localvit_t2t_7", pretrained, place=_localize, filter_fn=_resample, **kwargs)
