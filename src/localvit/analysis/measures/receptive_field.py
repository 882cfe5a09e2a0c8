"""What really reaches a token: the gradient of its features on the pixels of the image.

Shape suffixes: B images, C channels, D channels of a token, M tokens of the grid, Y x X pixels, L layers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from localvit.analysis.layers import LayerTokens, WatchedModel, batches_of
from localvit.analysis.positions import Spacing, SpacingWatch

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ReceptiveField:
    """The effective receptive field of the token in the middle of the grid, for every layer.

    Attributes:
        layers: names of the layers.
        maps_LYX: share of the gradient that each pixel has (L, Y, X); each map sums to 1.
        centres_L2: row and column of the token in pixels from the edges of the image (L, 2).
        radius_L: radius in pixels around the token that holds half of the gradient (L,).
    """

    layers: tuple[str, ...]
    maps_LYX: Floats
    centres_L2: Floats
    radius_L: Floats

    def series(self) -> Mapping[str, Sequence[float | None]]:
        """By layer: the radius in pixels that holds half of the gradient."""
        return {"radius": [float(radius) for radius in self.radius_L]}


def effective_receptive_field(
    model: nn.Module, images: Tensor | Iterable[Tensor], *, projections: int = 4, seed: int = 0
) -> ReceptiveField:
    """Effective receptive field of the middle token of each layer (Luo et al. 2016, arXiv 1701.04128, section 2).

    For each image, a pixel gets the root mean square of its derivatives: over random projections of the token's
    features, which estimate the norm over all features, and summed over the channels of the image. Maps are averaged
    over images and normalized to shares. Unlike attention rollout, this includes what feed-forward networks mix.

    Args:
        model: a transformer; it is not changed.
        images: normalized images (B, C, Y, X) of one size, or batches of them. The graph of a batch is in memory.
        projections: number of random signs per image, layer and feature.
        seed: of the random signs.

    Returns:
        Maps and radii in pixels.

    Raises:
        NotMeasurableError: if the model's layers cannot be watched, or its tokens cannot be placed in the image.
        ValueError: if there are no images.
    """
    watched = WatchedModel(model)
    spacing = SpacingWatch(watched)
    generator = torch.Generator().manual_seed(seed)
    sums: dict[int, Tensor] = {}
    centres: dict[int, tuple[float, float]] = {}
    for images_BCYX in batches_of(images, 8):
        images_BCYX = images_BCYX.to(watched.device).detach().requires_grad_()
        token_of: dict[int, Tensor] = {}

        def on_layer(tokens: LayerTokens, token_of: dict[int, Tensor] = token_of) -> None:
            height, width = tokens.grid
            x_BMD = tokens.image_tokens(tokens.after)
            assert x_BMD is not None
            token_of[tokens.index] = x_BMD[:, (height // 2) * width + width // 2]
            rows, columns = spacing.at(tokens.grid)
            centres[tokens.index] = (_place(rows, height // 2), _place(columns, width // 2))

        watched.visit_with_gradients(images_BCYX, on_layer)
        for index, token_BD in token_of.items():
            map_BYX = gradient_map(token_BD, images_BCYX, projections, generator)
            total_YX = map_BYX.double().sum(dim=0).cpu()
            sums[index] = total_YX + sums[index] if index in sums else total_YX
    if not sums:
        raise ValueError("there are no images to measure; give at least one")
    maps_LYX = torch.stack([sums[index] / sums[index].sum() for index in sorted(sums)]).numpy()
    centres_L2 = np.array([centres[index] for index in sorted(centres)])
    radii = [half_radius(map_YX, tuple(centre)) for map_YX, centre in zip(maps_LYX, centres_L2, strict=True)]
    return ReceptiveField(tuple(layer.name for layer in watched.layers), maps_LYX, centres_L2, np.array(radii))


def gradient_map(feature_BD: Tensor, images_BCYX: Tensor, projections: int, generator: torch.Generator) -> Tensor:
    """Root mean square (B, Y, X) of the derivatives of features (B, D) by pixels, over random signs and channels.

    Args:
        feature_BD: features in the graph of the images.
        images_BCYX: images that require a gradient.
        projections: number of random signs per feature.
        generator: draws the signs, on the CPU.
    """
    squares_BYX = torch.zeros_like(images_BCYX[:, 0])
    for _ in range(projections):
        signs_BD = torch.randint(2, feature_BD.shape, generator=generator).to(feature_BD) * 2 - 1
        (gradient_BCYX,) = torch.autograd.grad(feature_BD, images_BCYX, signs_BD, retain_graph=True)
        squares_BYX += gradient_BCYX.square().sum(dim=1) / projections
    return squares_BYX.sqrt()


def half_radius(map_YX: Floats, centre: tuple[float, ...]) -> float:
    """The radius in pixels around ``centre`` (row, column) whose circle has half of the sum of a map.

    The share within a circle is interpolated between the distances of pixels.
    """
    rows_Y1, columns_1X = (np.arange(side) + 0.5 for side in map_YX.shape)
    distances_P = np.hypot((rows_Y1 - centre[0])[:, None], (columns_1X - centre[1])[None]).ravel().round(9)
    radii_R, ring_P = np.unique(distances_P, return_inverse=True)
    held_R = np.cumsum(np.bincount(ring_P, weights=map_YX.ravel()))
    return float(np.interp(held_R[-1] / 2, [0.0, *held_R], [0.0, *radii_R]))


def _place(axis: Spacing, token: int) -> float:
    return axis.start + token * axis.step
