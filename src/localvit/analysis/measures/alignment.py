"""Which layers of two models compute the same: linear centered kernel alignment.

Shape suffixes: B images of a batch, F features, L layers of the one model, K layers of the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from localvit.analysis.layers import LayerTokens, WatchedModel, batches_of

Floats = NDArray[np.float64]
_FEWEST = 4  # images of a batch that the unbiased estimate needs


@dataclass(frozen=True)
class Alignment:
    """Linear CKA between all layers of two models.

    Attributes:
        layers: names of the layers of the one model.
        other_layers: names of the layers of the other.
        cka_LK: similarity (L, K): 1 for representations that are equal up to rotation and scale, about 0 for unrelated
            ones. The estimate is unbiased, so it may lie a little outside of 0 to 1.
    """

    layers: tuple[str, ...]
    other_layers: tuple[str, ...]
    cka_LK: Floats

    def series(self) -> Mapping[str, Sequence[float | None]]:
        """By layer: the similarity to the layer at the same depth of the other model, and to the most similar one."""
        length, other = self.cka_LK.shape
        same = [round(layer * (other - 1) / max(1, length - 1)) for layer in range(length)]
        return {
            "same depth": [float(self.cka_LK[layer, place]) for layer, place in enumerate(same)],
            "most similar": [float(value) for value in self.cka_LK.max(axis=1)],
        }


def linear_cka(
    model: nn.Module,
    other: nn.Module,
    images: Tensor | Iterable[Tensor],
    *,
    other_images: Tensor | Iterable[Tensor] | None = None,
    batch_size: int = 64,
) -> Alignment:
    """Linear CKA of all layers of two models (Kornblith et al. 2019, arXiv 1905.00414), estimated without bias.

    The features of an image are all values of its image tokens. Gram matrices of each batch give the unbiased estimate
    of HSIC (Song et al. 2012, equation 5); its sums over batches make CKA (Nguyen et al. 2021, arXiv 2010.15327,
    equation 2). Only Gram matrices are kept, never features.

    Args:
        model: a transformer; it is not changed.
        other: the transformer to compare it with; it is not changed.
        images: normalized images (S, C, height, width), or batches of at least 4 of them.
        other_images: the same images in the same batches, as the other model sees them. Defaults to ``images``.
        batch_size: images per batch of a tensor.

    Raises:
        NotMeasurableError: if the layers of a model cannot be watched.
        ValueError: if there are fewer than 4 images.
    """
    ours, theirs = WatchedModel(model), WatchedModel(other)
    shown = batches_of(images if other_images is None else other_images, batch_size)
    between_LK = np.zeros((len(ours.layers), len(theirs.layers)))
    within_L, within_K = np.zeros(len(ours.layers)), np.zeros(len(theirs.layers))
    used = 0
    for images_BCHW, others_BCHW in zip(batches_of(images, batch_size), shown, strict=True):
        if len(images_BCHW) < _FEWEST:
            continue  # the rest of a division into batches
        grams_LBB, grams_KBB = _grams(ours, images_BCHW), _grams(theirs, others_BCHW)
        between_LK += unbiased_hsic(grams_LBB[:, None], grams_KBB[None]).numpy()
        within_L += unbiased_hsic(grams_LBB, grams_LBB).numpy()
        within_K += unbiased_hsic(grams_KBB, grams_KBB).numpy()
        used += len(images_BCHW)
    if not used:
        raise ValueError(f"no batch has {_FEWEST} images, which the unbiased estimate needs; give more images")
    layers, other_layers = (tuple(layer.name for layer in watched.layers) for watched in (ours, theirs))
    return Alignment(layers, other_layers, between_LK / np.sqrt(np.outer(within_L, within_K)))


def unbiased_hsic(gram_BB: Tensor, other_BB: Tensor) -> Tensor:
    """Unbiased estimate of the Hilbert-Schmidt independence criterion (Song et al. 2012, equation 5).

    Args:
        gram_BB: Gram matrices (..., B, B) of at least 4 images.
        other_BB: Gram matrices of the same images, of a shape that broadcasts with it.

    Returns:
        Estimates (...).
    """
    images = gram_BB.shape[-1]
    off = 1 - torch.eye(images, dtype=gram_BB.dtype)
    k_BB, l_BB = gram_BB * off, other_BB * off
    trace = (k_BB * l_BB).sum(dim=(-2, -1))
    sums = k_BB.sum(dim=(-2, -1)) * l_BB.sum(dim=(-2, -1)) / ((images - 1) * (images - 2))
    rows = (k_BB.sum(dim=-1) * l_BB.sum(dim=-1)).sum(dim=-1) * 2 / (images - 2)
    return (trace + sums - rows) / (images * (images - 3))


def _grams(watched: WatchedModel, images_BCHW: Tensor) -> Tensor:
    """Gram matrices (L, B, B) of all layers in float64, of features without their mean over the batch."""
    grams: list[Tensor] = []

    def on_layer(tokens: LayerTokens) -> None:
        x_BMD = tokens.image_tokens(tokens.after)
        assert x_BMD is not None
        x_BF = x_BMD.flatten(1).double()
        x_BF = x_BF - x_BF.mean(dim=0)  # changes no estimate, and keeps products small
        grams.append((x_BF @ x_BF.mT).cpu())

    watched.visit(images_BCHW.to(watched.device), on_layer)
    return torch.stack(grams)
