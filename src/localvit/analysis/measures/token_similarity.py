"""Over-smoothing: how similar the tokens of an image become with depth.

Shape suffixes: B images, M tokens of the grid, D channels of a token.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from localvit.analysis.layers import LayerTokens, NotMeasurableError, WatchedModel, batches_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TokenSimilarity:
    """Mean cosine similarity between the tokens of an image.

    Attributes:
        layers: names of the layers.
        similarity_L: of each layer, between -1 and 1; nan for grids of a single token.
    """

    layers: tuple[str, ...]
    similarity_L: Floats

    def series(self) -> Mapping[str, Sequence[float | None]]:
        """By layer: the mean cosine similarity."""
        return {"similarity": [None if np.isnan(value) else float(value) for value in self.similarity_L]}


def token_similarity(model: nn.Module, images: Tensor | Iterable[Tensor]) -> TokenSimilarity:
    """Mean cosine similarity between the tokens that a layer returns (Gong et al. 2021, arXiv 2104.12753, section 3.1).

    Over all pairs of different tokens of the grid, then over images; prefix tokens are left out.

    Args:
        model: a transformer; it is not changed.
        images: normalized images (S, C, height, width), or batches of them.

    Raises:
        NotMeasurableError: if the model's layers cannot be watched, or all of its grids have a single token.
        ValueError: if there are no images.
    """
    watched = WatchedModel(model)
    found: list[list[Tensor]] = [[] for _ in watched.layers]

    def on_layer(tokens: LayerTokens) -> None:
        x_BMD = tokens.image_tokens(tokens.after)
        assert x_BMD is not None
        if x_BMD.shape[1] > 1:
            found[tokens.index].append(mean_cosine(x_BMD).cpu())

    for images_BCHW in batches_of(images):
        watched.visit(images_BCHW.to(watched.device), on_layer)
    if not any(found):
        raise NotMeasurableError("its token grids have a single token, so there is nothing to compare")
    means = [torch.cat(parts).mean().item() if parts else np.nan for parts in found]
    return TokenSimilarity(tuple(layer.name for layer in watched.layers), np.array(means))


def mean_cosine(x_BMD: Tensor) -> Tensor:
    """Mean cosine similarity (B,) of all pairs of different tokens (B, M, D), in float64."""
    unit_BMD = nn.functional.normalize(x_BMD.double(), dim=2)
    tokens = x_BMD.shape[1]
    # The norm of the sum holds all pairs, and each token with itself once.
    pairs_B = unit_BMD.sum(dim=1).square().sum(dim=1) - unit_BMD.square().sum(dim=(1, 2))
    return pairs_B / (tokens * (tokens - 1))
