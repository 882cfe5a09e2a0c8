"""Puts the locality mechanism into a vision transformer: which layers get it, and where their token grid is.

A block is told its token grid as an argument, from the image at hand. Kept as an attribute instead, the grid of one
image size would be wrong for another that runs forward before the first runs backward under gradient checkpointing.
"""

from collections.abc import Collection, Sequence
from typing import Any, Literal

from timm.models import VisionTransformer, checkpoint

# Private to timm and without a public name: how forward_intermediates reads its ``indices``.
from timm.models._features import feature_take_indices
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from localvit.locality import LocalityConfig, LocalityFeedForward

Layers = Literal["all", "low", "middle", "high"] | Sequence[int]


def select_layers(layers: Layers, depth: int) -> tuple[int, ...]:
    """Indices of the layers that ``layers`` names in a transformer of ``depth`` layers, ascending.

    Args:
        layers: ``"all"``; ``"low"``, ``"middle"`` or ``"high"``, the thirds of the depth (paper, section 4.3), where
            lower thirds take what does not divide evenly; or indices from 0, negative ones counting from the end.
        depth: number of layers.

    Raises:
        ValueError: for another name, an index out of range or given twice, or no layer at all.
    """
    if isinstance(layers, str):
        thirds = {"all": (0, 3), "low": (0, 1), "middle": (1, 2), "high": (2, 3)}
        if layers not in thirds:
            raise ValueError(f"layers is {layers!r}; it must be one of {', '.join(thirds)}, or a list of indices")
        first, last = (-(-depth * third // 3) for third in thirds[layers])
        selected = tuple(range(first, last))
    else:
        beyond = [index for index in layers if not -depth <= index < depth]
        if beyond:
            raise ValueError(f"layers has {beyond}; a transformer of {depth} layers has {-depth} to {depth - 1}")
        selected = tuple(sorted(index % depth for index in layers))
        if len(set(selected)) < len(selected):
            raise ValueError(f"layers is {list(layers)}; it names a layer twice")
    if not selected:
        raise ValueError(f"layers is {layers!r}; of {depth} layers that selects none")
    return selected


def localize(model: nn.Module, config: LocalityConfig | None = None, *, layers: Layers = "all") -> nn.Module:
    """Replace norm and MLP of the chosen layers by a freshly initialised locality feed-forward network.

    Everything else of the model, its weights included, stays as it is. In the chosen layers the stochastic depth and
    the layer scale of the MLP branch go with it, as in the paper's models; those of the attention branch stay.

    Args:
        model: a ``VisionTransformer`` of timm, which is changed in place.
        config: the mechanism; the default is a 3x3 depth-wise convolution with h-swish at expansion ratio 4.
        layers: which layers, as for :func:`select_layers`. A second call may localize others, another way.

    Returns:
        The model, with timm's interface unchanged.

    Raises:
        ValueError: for a model without such blocks, layers that are not there, or already localized ones.
    """
    if type(model) in _LOCALIZED:
        localized_class = _LOCALIZED[type(model)]
    elif isinstance(model, _TellsBlocksTheGrid):
        localized_class = type(model)
    else:
        raise ValueError(
            f"cannot localize a {type(model).__name__}; "
            f"it must be one of timm's {', '.join(known.__name__ for known in _LOCALIZED)}"
        )
    assert isinstance(model, VisionTransformer)
    if not isinstance(model.patch_drop, nn.Identity):
        raise ValueError("cannot localize a model with patch_drop_rate > 0: dropped patches leave holes in the grid")

    blocks = {index: model.blocks[index] for index in select_layers(layers, len(model.blocks))}
    for index, block in blocks.items():
        if isinstance(block, LocalityBlock):
            raise ValueError(f"layer {index} is already localized; each layer can be localized once")
        if type(block) is not Block:
            raise ValueError(
                f"layer {index} is a {type(block).__name__}; only timm's pre-norm Block, attention then MLP, "
                "can be localized"
            )
    prefix = model.num_prefix_tokens
    localities = {index: LocalityFeedForward(model.embed_dim, config, num_prefix_tokens=prefix) for index in blocks}
    for index, locality in localities.items():
        model.blocks[index] = LocalityBlock(model.blocks[index], locality)
    # In place, as torch's fully_shard and parametrize do it: what holds the model keeps holding the localized one.
    model.__class__ = localized_class
    return model


class LocalityBlock(nn.Module):
    """A transformer block whose second half is a locality feed-forward network.

    Args:
        block: the block whose attention half is taken over, weights included.
        locality: the feed-forward half.
    """

    def __init__(self, block: nn.Module, locality: LocalityFeedForward) -> None:
        super().__init__()
        assert isinstance(block, Block)
        self.norm1 = block.norm1
        self.attn = block.attn
        self.ls1 = block.ls1
        self.drop_path1 = block.drop_path1
        self.locality = locality
        self.train(block.training)
        parameter = next(block.parameters())
        self.locality.to(device=parameter.device, dtype=parameter.dtype)

    def forward(self, x_BND: Tensor, grid: tuple[int, int], **mask: Any) -> Tensor:
        """Tokens (B, P + H * W, D) to tokens of the same shape, on a grid of (H, W); ``mask`` is for attention."""
        x_BND = x_BND + self.drop_path1(self.ls1(self.attn(self.norm1(x_BND), **mask)))
        out_BND: Tensor = self.locality(x_BND, grid)
        return out_BND


class _TellsBlocksTheGrid(VisionTransformer):
    """timm's forward passes over the blocks, written so that localized blocks receive the token grid.

    ``_pos_embed`` is private to timm, which has no public name for the step between patches and blocks; the parity
    and interface tests fail where it changes.
    """

    def _run_blocks(
        self,
        image_BCHW: Tensor,
        *,
        take: Collection[int] = (),
        depth: int | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """Tokens (B, N, D) after the first ``depth`` blocks, and those after each block in ``take``."""
        grid = self.patch_embed.dynamic_feat_size(image_BCHW.shape[-2:])
        mask = {} if attn_mask is None and not is_causal else {"attn_mask": attn_mask, "is_causal": is_causal}
        x_BND = self.norm_pre(self._pos_embed(self.patch_embed(image_BCHW)))
        taken = []
        for index, block in enumerate(self.blocks[:depth]):
            args = (x_BND, grid) if isinstance(block, LocalityBlock) else (x_BND,)
            # As in timm, a mask rules checkpointing out.
            x_BND = checkpoint(block, *args) if self.grad_checkpointing and not mask else block(*args, **mask)
            if index in take:
                taken.append(x_BND)
        return x_BND, taken

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Images (B, C, height, width) to normalised tokens (B, P + H * W, D)."""
        x_BND, _ = self._run_blocks(x, attn_mask=attn_mask, is_causal=is_causal)
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
        output_dict: bool = False,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]] | dict[str, Any]:
        """As timm's: the tokens after the chosen blocks, as feature maps (NCHW) or sequences (NLC)."""
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt is {output_fmt!r}; it must be NCHW or NLC")
        take, last = feature_take_indices(len(self.blocks), indices)
        depth = last + 1 if stop_early else None
        x_BND, taken = self._run_blocks(x, take=take, depth=depth, attn_mask=attn_mask, is_causal=is_causal)
        if norm:
            taken = [self.norm(y_BND) for y_BND in taken]

        prefix = [y_BND[:, : self.num_prefix_tokens] for y_BND in taken]
        spatial = [y_BND[:, self.num_prefix_tokens :] for y_BND in taken]
        if output_fmt == "NCHW":
            grid = self.patch_embed.dynamic_feat_size(x.shape[-2:])
            spatial = [y_BND.unflatten(1, grid).permute(0, 3, 1, 2).contiguous() for y_BND in spatial]

        with_prefix = return_prefix_tokens and self.num_prefix_tokens > 0
        if output_dict:
            result: dict[str, Any] = {"image_intermediates": spatial}
            if with_prefix:
                result["image_intermediates_prefix"] = prefix
            if not intermediates_only:
                result["image_features"] = self.norm(x_BND)
            return result
        intermediates: list[Any] = list(zip(spatial, prefix, strict=True)) if with_prefix else spatial
        return intermediates if intermediates_only else (self.norm(x_BND), intermediates)


class LocalVisionTransformer(_TellsBlocksTheGrid):
    """A ``VisionTransformer`` of timm with localized layers."""


class LocalVisionTransformerDistilled(_TellsBlocksTheGrid, VisionTransformerDistilled):
    """A ``VisionTransformerDistilled`` of timm (class and distillation token) with localized layers."""


_LOCALIZED: dict[type[nn.Module], type[_TellsBlocksTheGrid]] = {
    VisionTransformer: LocalVisionTransformer,
    VisionTransformerDistilled: LocalVisionTransformerDistilled,
}
