"""T2T-ViT-7 (arXiv 2101.11986): tokens made step by step from overlapping windows, then a slim transformer.

    image -> split 7/4 -> performer -> split 3/2 -> performer -> split 3/2 -> project -> blocks -> head

A soft split (section 3.1) unfolds the grid with a window larger than its stride, so neighboring tokens share pixels.
The attention of a performer (arXiv 2009.14794) is linear in the number of tokens, which the large grids of 56 x 56 and
28 x 28 need.

Every performer and block receives its token grid, which only locality in the place of an ``mlp`` uses.

Shape suffixes: B images, C channels of an image, N tokens (1 + H * W with the class token), D channels of a token,
E channels inside the performers (token_dim), M random features, H x W the token grid.
"""

import math
from collections.abc import Collection
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Mlp, calculate_drop_path_rates, get_act_layer, get_norm_layer, to_2tuple, trunc_normal_
from timm.models import checkpoint, generate_default_cfgs, register_model, vision_transformer

# timm has no public name for how forward_intermediates reads its ``indices``.
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from localvit.locality.config import LocalityConfig
from localvit.locality.families import register_layout
from localvit.locality.layouts import TokenLayout, grid_from_block, size_argument
from localvit.locality.localize import localize
from localvit.models.build import Fields, build, pretrained_config, resample_pos_embed, resampled_to_grid
from localvit.models.head import TokenClassifier, init_linear
from localvit.models.official_keys import OfficialKeys, register_official_keys

_PATCH_SIZE = 16
LATER_SPLITS = {"kernel_size": 3, "stride": 2, "padding": 1}
_EPSILON = 1e-8


def token_grid(image_size: tuple[int, int], patch_size: int = _PATCH_SIZE) -> tuple[int, int]:
    """Height and width of the backbone's token grid for an image of (height, width) pixels.

    Raises:
        ValueError: if a side is not a positive multiple of ``patch_size``.
    """
    height, width = image_size
    if min(height, width) < patch_size or height % patch_size or width % patch_size:
        raise ValueError(
            f"the image is {height} x {width} pixels; both sides must be multiples of {patch_size}, "
            f"at least {patch_size}: resize, crop or pad it"
        )
    return height // patch_size, width // patch_size


def first_split(patch_size: int) -> dict[str, int]:
    """The soft split of the image that, followed by two of stride 2, leaves tokens ``patch_size`` pixels apart.

    Raises:
        ValueError: if ``patch_size`` is not a positive multiple of 4.
    """
    if patch_size < 4 or patch_size % 4:
        raise ValueError(f"patch_size is {patch_size}; it must be a multiple of 4, such as 16")
    stride = patch_size // 4
    kernel_size = max(3, 2 * stride - 1)  # overlapping, and never a single value, which a layer norm would erase
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
    phi(query_n) * phi(key). The weights span many orders of magnitude, so half precision is computed in float32, even
    under autocast.

    Args:
        query_BNE: queries (B, N, E).
        key_BNE: keys (B, N, E).
        value_BNE: values (B, N, E).
        w_ME: directions of the random features (M, E).

    Returns:
        Tokens (B, N, E) with the dtype of ``value_BNE``.
    """
    dtype = torch.promote_types(value_BNE.dtype, torch.float32)
    # Costs are counted on the meta device, which autocast does not support.
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
    """A one-head transformer layer with attention linear in the number of tokens, which also narrows the tokens.

    The skip connection of the attention starts from the values, because the input is wider than the output.

    Args:
        dim: channels D of the input tokens.
        token_dim: channels E of the output tokens, twice the number of random features.
        drop_rate: dropout after the projection and after the MLP.
        norm_layer: class of the two norms.
        act_layer: activation of the MLP.
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
        """Tokens (B, H * W, D) on a grid of (H, W) to tokens (B, H * W, E)."""
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
        embed_dim: channels D of the tokens of the backbone.
        patch_size: pixels from one of these tokens to the next, a multiple of 4.
        layers: norm and activation of the performers.
    """

    def __init__(
        self, in_chans: int, token_dim: int, embed_dim: int, *, patch_size: int = _PATCH_SIZE, **layers: Any
    ) -> None:
        super().__init__()
        self.patch_size, self.first_split = patch_size, first_split(patch_size)
        later = LATER_SPLITS["kernel_size"] ** 2 * token_dim
        self.grad_checkpointing = False
        self.attention1 = TokenPerformer(self.first_split["kernel_size"] ** 2 * in_chans, token_dim, **layers)
        self.attention2 = TokenPerformer(later, token_dim, **layers)
        self.project = nn.Linear(later, embed_dim)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Images (B, C, height, width) to tokens (B, height / patch_size * width / patch_size, D), row by row.

        Raises:
            ValueError: if a side is not a positive multiple of the patch size.
        """
        height, width = token_grid((image_BCHW.shape[2], image_BCHW.shape[3]), self.patch_size)
        x_BEHW = self._perform(self.attention1, _soft_split(image_BCHW, self.first_split), (4 * height, 4 * width))
        x_BEHW = self._perform(self.attention2, _soft_split(x_BEHW, LATER_SPLITS), (2 * height, 2 * width))
        x_BND: Tensor = self.project(_soft_split(x_BEHW, LATER_SPLITS))
        return x_BND

    def _perform(self, performer: nn.Module, x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        x_BNE: Tensor = checkpoint(performer, x_BND, grid) if self.grad_checkpointing else performer(x_BND, grid)
        x_BEHW: Tensor = x_BNE.mT.unflatten(2, grid)
        return x_BEHW


def _soft_split(x_BCHW: Tensor, window: dict[str, int]) -> Tensor:
    """A grid (B, C, H, W) to its overlapping windows (B, N, C * kernel_size^2), row by row."""
    windows_BDN: Tensor = F.unfold(x_BCHW, **window)
    return windows_BDN.mT


class Block(vision_transformer.Block):
    """timm's pre-norm transformer block, called with its token grid."""

    def forward(self, x_BND: Tensor, grid: tuple[int, int]) -> Tensor:  # type: ignore[override]
        """Tokens (B, 1 + H * W, D), the class token first, on a grid of (H, W) to tokens of the same shape."""
        out_BND: Tensor = super().forward(x_BND)
        return out_BND


class T2TViT(TokenClassifier):
    """Tokens-to-token vision transformer with timm's model interface.

    Height and width of an image must be multiples of ``patch_size``. The position embedding is resampled for images of
    another size than ``img_size``.

    Args:
        img_size: height and width in pixels, or the side of a square.
        patch_size: pixels from one token of the backbone to the next, a multiple of 4; 16 in the published model.
        in_chans: channels of an image.
        num_classes: number of classes; 0 for no classifier.
        global_pool: ``"token"`` (class token), ``"avg"`` (mean of the patch tokens) or ``""`` (every token).
        embed_dim: channels D of a token in the backbone.
        depth: number of blocks in the backbone.
        num_heads: attention heads of a block.
        mlp_ratio: hidden channels of a block's MLP over D.
        token_dim: channels E inside the performers.
        drop_rate: dropout before the classifier.
        pos_drop_rate: dropout after the position embedding.
        proj_drop_rate: dropout of the outputs of attention and MLPs in the blocks.
        attn_drop_rate: dropout of attention weights.
        drop_path_rate: stochastic depth of the last block; the rate grows linearly from 0 at the first.
        norm_layer: class of the norms, or timm's name of one. Defaults to layer norm with epsilon 1e-5.
        act_layer: class of the activations, or timm's name of one. Defaults to GELU.

    Raises:
        ValueError: if a side of an image, in ``img_size`` or in a forward pass, is not a positive multiple of
            ``patch_size``, if that is not a multiple of 4, or for an unknown ``global_pool``.
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
        layers: dict[str, Any] = {"norm_layer": norm_layer, "act_layer": get_act_layer(act_layer) or nn.GELU}
        drop_path_rates: Any = calculate_drop_path_rates(drop_path_rate, depth)
        self.in_chans = in_chans
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
        trunc_normal_(self.cls_token, std=0.02)
        self.apply(init_linear)
        self.reset_classifier(num_classes, global_pool)

    def no_weight_decay(self) -> set[str]:
        """Names of the position embedding and the class token."""
        return {"pos_embed", "cls_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that group parameters by depth, from the stem to the last block."""
        return {
            "stem": r"^cls_token|pos_embed|tokens_to_token",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute performers and blocks in the backward pass, which takes less memory and more time."""
        self.grad_checkpointing = enable
        self.tokens_to_token.grad_checkpointing = enable

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, height, width) to normalized tokens (B, 1 + H * W, D), the class token first."""
        x_BND, _ = self._run_blocks(x)
        normed_BND: Tensor = self.norm(x_BND)
        return normed_BND

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
            indices: indices of the blocks, the number of last blocks, or None for all.
            return_prefix_tokens: whether to pair each intermediate with its class token (B, 1, D).
            norm: whether to apply the last norm to the intermediates too.
            stop_early: whether to skip the blocks after the last chosen one.
            output_fmt: ``"NCHW"`` for feature maps (B, D, H, W), ``"NLC"`` for tokens (B, H * W, D).
            intermediates_only: whether to return only the intermediates.

        Returns:
            The normalized tokens (B, 1 + H * W, D) and the list of intermediates.

        Raises:
            ValueError: for another ``output_fmt``, or if a side of the images is not a multiple of the patch size.
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
        """Remove what the tokens after some blocks do not need, and return the indices of these blocks."""
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
        """Tokens (B, N, D) after the first ``depth`` blocks, and after each block in ``take``."""
        grid = token_grid((image_BCHW.shape[2], image_BCHW.shape[3]), self.patch_size)
        x_BND = self.tokens_to_token(image_BCHW)
        x_BND = torch.cat([self.cls_token.expand(x_BND.shape[0], -1, -1), x_BND], dim=1)
        pos_embed_1ND = resampled_to_grid(self.pos_embed, self.grid_size, grid, self.num_prefix_tokens)
        x_BND = self.pos_drop(x_BND + pos_embed_1ND)
        taken = []
        for index, block in enumerate(self.blocks[:depth]):
            x_BND = checkpoint(block, x_BND, grid) if self.grad_checkpointing else block(x_BND, grid)
            if index in take:
                taken.append(x_BND)
        return x_BND, taken


def _resample(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Fit the position embedding of a checkpoint to the model's image size."""
    assert isinstance(model, T2TViT)
    if "pos_embed" in state_dict:
        state_dict["pos_embed"] = resample_pos_embed(state_dict["pos_embed"], model.grid_size, model.num_prefix_tokens)
    return state_dict


register_layout(
    T2TViT,
    TokenLayout(
        # The performers are the first two layers. They have no class token.
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

# The first layer is linear, on unfolded windows. timm can only adapt a convolution to other channels.
_KEYS = {"fixed_input_size": False, "first_conv": None, "classifier": "head"}
default_cfgs = generate_default_cfgs(
    {"t2t_vit_7": pretrained_config(**_KEYS), "localvit_t2t_7": pretrained_config(**_KEYS)}
)


class _UnusedNorm(nn.LayerNorm):
    """A norm that is in the authors' files and parameter count, but not in their forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        # A gradient of zero, because distributed training refuses parameters without a gradient.
        return x + 0 * (self.weight + self.bias)


def _localize(model: Any, locality: Fields | None) -> None:
    """Performers get expansion ratio 1 and no channel attention; blocks get SE with a bottleneck of 4 channels."""
    localize(model, LocalityConfig(expansion_ratio=1).changed(locality), layers=[0, 1])
    config = LocalityConfig(expansion_ratio=2, channel_attention="se", se_reduction=model.embed_dim // 2)
    localize(model, config.changed(locality), layers=range(2, 2 + len(model.blocks)))
    for performer in (model.tokens_to_token.attention1, model.tokens_to_token.attention2):
        performer.norm2 = _UnusedNorm(performer.proj.out_features)


@register_model
def t2t_vit_7(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """T2T-ViT-7: 7 blocks of 256 channels, 4 heads and MLP ratio 2."""
    return build(T2TViT, "t2t_vit_7", pretrained, filter_fn=_resample, **kwargs)


@register_model
def localvit_t2t_7(pretrained: bool = False, locality: Fields | None = None, **kwargs: Any) -> nn.Module:
    """LocalViT-T2T: h-swish and SE in the blocks, h-swish alone at expansion ratio 1 in the two performers."""
    place = partial(_localize, locality=locality)
    return build(T2TViT, "localvit_t2t_7", pretrained, place=place, filter_fn=_resample, **kwargs)
