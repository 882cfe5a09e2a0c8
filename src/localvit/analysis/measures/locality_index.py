"""The locality index: how much of what a layer computes for a token comes from the token's neighbors.

Shape suffixes: B images, M tokens of the grid, D channels of a token, L layers, H x W the token grid.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from localvit.analysis.layers import LayerTokens, WatchedModel, batches_of
from localvit.locality.layouts import Grid
from localvit.system.errors import require

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LocalityIndex:
    """The locality index of every layer, between 0 and 1, and the branches that it comes from.

    Attributes:
        layers: names of the layers.
        radius: distance on the grid within which tokens are neighbors.
        attention_L: part of the index that comes from the attention branch; nan where a block changes its grid or adds
            nothing to its tokens.
        feed_forward_L: part that comes from the feed-forward branch. The index is the sum of both.
        uniform_L: the index of a branch that depends on all tokens alike, for comparison.
        within_attention_L: share of neighbors in what the attention branch alone depends on.
        within_feed_forward_L: share of neighbors in what the feed-forward branch alone depends on.
    """

    layers: tuple[str, ...]
    radius: int
    attention_L: Floats
    feed_forward_L: Floats
    uniform_L: Floats
    within_attention_L: Floats
    within_feed_forward_L: Floats

    @property
    def index(self) -> Floats:
        """The locality index of each layer (L,)."""
        index_L: Floats = self.attention_L + self.feed_forward_L
        return index_L

    def series(self) -> Mapping[str, Sequence[float | None]]:
        """By layer: the index and its two parts, the share of neighbors within each branch, and that of all alike."""
        found = {
            "index": self.index,
            "attention": self.attention_L,
            "feed-forward": self.feed_forward_L,
            "within attention": self.within_attention_L,
            "within feed-forward": self.within_feed_forward_L,
            "uniform": self.uniform_L,
        }
        return {
            name: [None if np.isnan(value) else float(value) for value in values_L] for name, values_L in found.items()
        }


def locality_index(
    model: nn.Module,
    images: Tensor | Iterable[Tensor],
    *,
    radius: int = 1,
    tokens: int = 8,
    seed: int = 0,
) -> LocalityIndex:
    """Share of a layer's derivatives that belongs to neighboring tokens, split into its two branches.

    This measure is our own (``docs/analysis.md`` defines it). A layer adds two things to a token: its attention branch
    and its feed-forward branch. Let g_j be the norm of the derivative of what a branch adds to token i by token j of
    the grid, estimated with random signs. The locality index is the sum of g_j over the neighbors of i, divided by the
    sum over all j, where both sums run over both branches. Neighbors are tokens at a distance of 1 to ``radius``, in
    rows or in columns, whichever is larger: a k x k kernel reaches exactly those within (k - 1) / 2. A token is not its
    own neighbor, so a feed-forward network of 1 x 1 kernels adds nothing. Skip connections do not count.

    Args:
        model: a transformer; it is not changed.
        images: normalized images (S, C, height, width), or batches of them.
        radius: distance within which tokens are neighbors.
        tokens: number of tokens i per batch and layer, drawn at random.
        seed: of the tokens and signs.

    Raises:
        NotMeasurableError: if the model's layers cannot be watched.
        ValueError: if there are no images, or for a radius or a number of tokens below 1.
    """
    require("radius", radius, at_least=1)
    require("tokens", tokens, at_least=1)
    watched = WatchedModel(model)
    generator = torch.Generator().manual_seed(seed)
    depth = len(watched.layers)
    # Of attention and feed-forward: derivatives by the token itself, by its neighbors, and by all tokens.
    sums_L23 = np.zeros((depth, 2, 3))
    uniform_L, drawn_L = np.zeros(depth), np.zeros(depth)
    pooled_L = np.zeros(depth, dtype=bool)

    def on_layer(layer: LayerTokens) -> None:
        place = layer.index
        pooled_L[place] = layer.image_tokens(layer.before) is None
        for token in torch.randint(layer.grid[0] * layer.grid[1], (tokens,), generator=generator).tolist():
            near_M, own_M = neighbors(layer.grid, token, radius)
            uniform_L[place] += near_M.double().mean().item()
            drawn_L[place] += 1
            branches = {0: (layer.between, layer.before), 1: (layer.after, layer.between)}
            if pooled_L[place]:
                del branches[0]
            for branch, (outputs, inputs) in branches.items():
                norms_BM = added_gradient(layer, outputs, inputs, token, generator).double().cpu()
                parts = (norms_BM[:, own_M], norms_BM[:, near_M], norms_BM)
                sums_L23[place, branch] += [part.sum().item() for part in parts]

    for images_BCHW in batches_of(images):
        watched.visit_cut(images_BCHW.to(watched.device), on_layer)
    if not drawn_L.all():
        raise ValueError("there are no images to measure; give at least one")
    with np.errstate(invalid="ignore"):
        parts_L2 = sums_L23[:, :, 1] / sums_L23[:, :, 2].sum(axis=1, keepdims=True)
        within_L2 = sums_L23[:, :, 1] / sums_L23[:, :, 2]
    parts_L2[pooled_L] = np.nan
    return LocalityIndex(
        tuple(layer.name for layer in watched.layers),
        radius,
        parts_L2[:, 0],
        parts_L2[:, 1],
        uniform_L / drawn_L,
        within_L2[:, 0],
        within_L2[:, 1],
    )


def neighbors(grid: Grid, token: int, radius: int) -> tuple[Tensor, Tensor]:
    """Which tokens of a grid are neighbors of a token, and which is the token itself, two masks (M,)."""
    rows_M, columns_M = torch.arange(grid[0] * grid[1]) // grid[1], torch.arange(grid[0] * grid[1]) % grid[1]
    row, column = divmod(token, grid[1])
    distance_M = torch.maximum((rows_M - row).abs(), (columns_M - column).abs())
    return (distance_M > 0) & (distance_M <= radius), distance_M == 0


def added_gradient(
    layer: LayerTokens, outputs: Tensor, inputs: Tensor, token: int, generator: torch.Generator
) -> Tensor:
    """Norm (B, M) of the derivative of what a branch adds to a token, by each token of the grid, for random signs.

    Args:
        layer: the layer.
        outputs: tokens behind the branch and its skip connection.
        inputs: tokens that both start from; outputs have their graph.
        token: place of the token in row order.
        generator: draws the signs, on the CPU.
    """
    out_BMD = layer.image_tokens(outputs)
    assert out_BMD is not None
    token_BD = out_BMD[:, token]
    signs_BD = torch.randint(2, token_BD.shape, generator=generator).to(token_BD) * 2 - 1
    (gradient,) = torch.autograd.grad(token_BD, inputs, signs_BD, retain_graph=True)
    gradient_BMD = layer.image_tokens(gradient)
    assert gradient_BMD is not None
    if gradient_BMD.shape[2] == signs_BD.shape[1]:  # the skip connection passes the token on unchanged
        gradient_BMD = gradient_BMD.clone()
        gradient_BMD[:, token] -= signs_BD
    norms_BM: Tensor = gradient_BMD.norm(dim=2)
    return norms_BM
