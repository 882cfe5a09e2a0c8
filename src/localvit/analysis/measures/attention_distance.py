"""How far a token looks: the mean distance between a query and the keys that it attends to.

Shape suffixes: B images, A heads, W windows, N queries of a window, K keys of a window, S images in all, Q quantiles.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from localvit.analysis.layers import Layer, LayerTokens, NotMeasurableError, WatchedModel, batches_of
from localvit.analysis.positions import AttentionPositions, attention_positions
from localvit.locality.layouts import Grid

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AttentionDistance:
    """Mean attention distance of every layer and head, in pixels of the image that the model sees.

    Attributes:
        layers: names of the layers.
        heads: for each layer, the mean over images of each head (A,); None if the layer has no weights to measure.
        quantiles: for each layer, the :data:`QUANTILES` over images of each head (Q, A).
        notes: why layers are missing, a sentence each.
    """

    layers: tuple[str, ...]
    heads: tuple[Floats | None, ...]
    quantiles: tuple[Floats | None, ...]
    notes: tuple[str, ...] = ()

    def series(self) -> Mapping[str, Sequence[float | None]]:
        """By layer: the mean over heads, and the nearest and the farthest head."""
        found: dict[str, Callable[[Floats], Any]] = {
            "mean": np.mean,
            "nearest head": np.min,
            "farthest head": np.max,
        }
        return {
            name: [None if heads_A is None else float(take(heads_A)) for heads_A in self.heads]
            for name, take in found.items()
        }


def attention_distance(model: nn.Module, images: Tensor | Iterable[Tensor]) -> AttentionDistance:
    """Mean attention distance (Dosovitskiy et al. 2021, arXiv 2010.11929, appendix D.7; Raghu et al. 2021, 2108.08810).

    For every query on the token grid, the distances to all keys on the grid are averaged with the weights of attention,
    then over queries. Prefix and padding tokens are left out, and the weights of the others are normalized. A key that
    stands for a rectangle of tokens (PVT) lies in its middle. In two-level transformers (TNT), the outer tokens are
    measured. Weights are reduced layer by layer, so one layer's weights of one batch are in memory.

    Args:
        model: a transformer; it is not changed.
        images: normalized images (S, C, H, W), or batches of them.

    Returns:
        Distances in pixels.

    Raises:
        NotMeasurableError: if no layer has weights that relate tokens to tokens.
        ValueError: if there are no images.
    """
    watched = WatchedModel(model)
    found: list[list[Floats]] = [[] for _ in watched.layers]
    notes: dict[str, None] = {}
    weights: dict[int, Tensor] = {}
    for index, layer in enumerate(watched.layers):
        attention = getattr(layer.block, "attn_out", getattr(layer.block, "attn", None))
        drop = getattr(attention, "attn_drop", None)
        if isinstance(drop, nn.Module):  # in evaluation mode, it passes the weights on unchanged
            drop.register_forward_hook(partial(_keep, weights, index))

    for images_BCHW in batches_of(images):
        image = (images_BCHW.shape[2], images_BCHW.shape[3])

        def on_layer(tokens: LayerTokens, image: Grid = image) -> None:
            layer = watched.layers[tokens.index]
            try:
                positions = attention_positions(watched, layer, tokens.grid)
                weights_BAWNK = _in_windows(weights.pop(tokens.index, None), positions, layer)
            except NotMeasurableError as error:
                notes[str(error)] = None
                return
            pixels = tuple(side / count for side, count in zip(image, tokens.grid, strict=True))
            found[tokens.index].append(mean_distance(weights_BAWNK, positions, pixels).double().cpu().numpy())

        watched.visit(images_BCHW.to(watched.device), on_layer)
    if not any(found):
        raise NotMeasurableError("; ".join(notes) or "there are no images to measure")
    images_SA = [np.concatenate(parts) if parts else None for parts in found]
    return AttentionDistance(
        tuple(layer.name for layer in watched.layers),
        tuple(None if heads is None else np.nanmean(heads, axis=0) for heads in images_SA),
        tuple(None if heads is None else np.nanquantile(heads, QUANTILES, axis=0) for heads in images_SA),
        tuple(notes),
    )


def mean_distance(weights_BAWNK: Tensor, positions: AttentionPositions, pixels: Sequence[float]) -> Tensor:
    """Mean distance (B, A) in pixels of attention weights (B, A, W, N, K).

    Args:
        weights_BAWNK: weights; those of nowhere are ignored, and the others need not sum to 1.
        positions: of queries and keys, in tokens.
        pixels: height and width of a token in pixels.
    """
    scale_2 = torch.tensor(pixels, dtype=torch.float64)
    distances_WNK = torch.cdist(positions.queries_WN2 * scale_2, positions.keys_WK2 * scale_2)
    somewhere_WNK = ~distances_WNK.isnan()
    device = weights_BAWNK.device
    known_BAWNK = weights_BAWNK * somewhere_WNK.to(device)
    total_BAWN = known_BAWNK.sum(dim=-1)
    weighted_BAWN = (known_BAWNK * distances_WNK.nan_to_num().to(device, weights_BAWNK.dtype)).sum(dim=-1)
    queries_WN = somewhere_WNK.any(dim=-1).to(device)
    distances_BAWN = torch.where(queries_WN, weighted_BAWN / total_BAWN, torch.nan)
    return distances_BAWN.flatten(2).nanmean(dim=2)


def _in_windows(weights: Tensor | None, positions: AttentionPositions, layer: Layer) -> Tensor:
    """The weights of a layer as (B, A, W, N, K): one matrix per image and head, or one per window as well."""
    if weights is None:
        raise NotMeasurableError(f"{type(layer.block).__name__}: its attention does not expose weights")
    windows, queries, keys = *positions.queries_WN2.shape[:2], positions.keys_WK2.shape[1]
    if weights.ndim == 5:  # (B, W, A, N, K), as in Twins
        weights = weights.flatten(0, 1)
    elif weights.ndim == 3:  # (B * W * A, N, K), as in SAM
        weights = weights.unflatten(0, (-1, layer.block.attn.num_heads))
    if weights.ndim != 4 or weights.shape[2:] != (queries, keys) or len(weights) % windows:
        raise NotMeasurableError(
            f"{type(layer.block).__name__}: weights of shape {tuple(weights.shape)} do not fit its {queries} queries "
            f"and {keys} keys"
        )
    weights_BAWNK: Tensor = weights.unflatten(0, (-1, windows)).transpose(1, 2)
    return weights_BAWNK


def _keep(weights: dict[int, Tensor], index: int, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
    weights[index] = output
