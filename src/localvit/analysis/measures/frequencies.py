"""Whether a layer smooths or sharpens: the amplitude of high spatial frequencies in its feature maps.

Shape suffixes: B images, D channels of a token, H x W the token grid, F frequencies.
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
class FrequencyAmplitudes:
    """Relative log amplitudes after the attention branch and after the feed-forward branch of every layer.

    Attributes:
        layers: names of the layers.
        frequencies: for each layer, the frequencies (F,) in units of pi, along the diagonal; a grid with an odd side
            ends below 1. Empty for grids with fewer than 2 x 2 tokens.
        after_attention: for each layer, log amplitude (F,) relative to that of frequency 0, natural logarithm.
        after_feed_forward: the same after the feed-forward branch.
    """

    layers: tuple[str, ...]
    frequencies: tuple[Floats, ...]
    after_attention: tuple[Floats, ...]
    after_feed_forward: tuple[Floats, ...]

    def series(self) -> Mapping[str, Sequence[float | None]]:
        """By layer: the relative log amplitude at the highest frequency, after either branch, and each one's change."""
        attention, feed_forward = (
            [float(curve_F[-1]) if len(curve_F) else None for curve_F in curves]
            for curves in (self.after_attention, self.after_feed_forward)
        )
        pairs = list(zip(attention, feed_forward, strict=True))
        return {
            "after attention": attention,
            "after feed-forward": feed_forward,
            "change by feed-forward": [None if a is None or f is None else f - a for a, f in pairs],
        }


def frequency_amplitudes(model: nn.Module, images: Tensor | Iterable[Tensor]) -> FrequencyAmplitudes:
    """Relative log amplitude of the Fourier transform of feature maps (Park and Kim 2022, arXiv 2202.06709, section 3).

    The amplitude of each frequency is averaged over images and channels; its logarithm is taken relative to that of
    frequency 0, along the diagonal from 0 to (pi, pi). Where the paper averages logarithms, amplitudes are averaged
    here: a single channel that is 0 would make the mean of logarithms infinite. White noise through a 3 x 3 box has
    ln(1/9) at pi. Lower values are smoother maps.

    Args:
        model: a transformer; it is not changed.
        images: normalized images (S, C, height, width), or batches of them.

    Returns:
        Curves by layer. -inf stands for maps without any high frequency, and +inf for maps with a mean of 0.

    Raises:
        NotMeasurableError: if the model's layers cannot be watched, or all of its grids are smaller than 2 x 2.
        ValueError: if there are no images.
    """
    watched = WatchedModel(model)
    sums: list[list[Tensor]] = [[] for _ in watched.layers]
    grids: list[tuple[int, int]] = [(0, 0)] * len(watched.layers)

    def on_layer(tokens: LayerTokens) -> None:
        grids[tokens.index] = tokens.grid
        if min(tokens.grid) < 2:
            return
        both = [diagonal_amplitudes(tokens.maps(x)).cpu() for x in (tokens.between, tokens.after)]
        before = sums[tokens.index]
        sums[tokens.index] = [sum_F + more_F for sum_F, more_F in zip(before, both, strict=True)] if before else both

    for images_BCHW in batches_of(images):
        watched.visit(images_BCHW.to(watched.device), on_layer)
    if not any(sums):
        raise NotMeasurableError("none of its token grids has 2 x 2 tokens, so there are no frequencies to compare")
    curves = [[relative_log(sum_F.numpy()) for sum_F in pair] or [np.empty(0)] * 2 for pair in sums]
    return FrequencyAmplitudes(
        tuple(layer.name for layer in watched.layers),
        tuple(diagonal_frequencies(grid) if pair else np.empty(0) for grid, pair in zip(grids, sums, strict=True)),
        tuple(curve for curve, _ in curves),
        tuple(curve for _, curve in curves),
    )


def diagonal_amplitudes(maps_BDHW: Tensor) -> Tensor:
    """Amplitudes (F,) of the frequencies of :func:`diagonal_frequencies`, summed over images and channels, float64."""
    rows_F, columns_F = _diagonal((maps_BDHW.shape[2], maps_BDHW.shape[3]))
    spectrum_BDHW = torch.fft.fft2(maps_BDHW.double()).abs()
    amplitudes_F: Tensor = spectrum_BDHW[:, :, rows_F, columns_F].sum(dim=(0, 1))
    return amplitudes_F


def diagonal_frequencies(grid: tuple[int, int]) -> Floats:
    """The frequencies (F,) of a grid from 0 along its diagonal, in units of pi: at most 1, which even sides reach."""
    indices = _diagonal(grid)
    frequencies_F: Floats = np.mean(
        [2 * np.array(index) / side for index, side in zip(indices, grid, strict=True)], axis=0
    )
    return frequencies_F


def relative_log(amplitudes_F: Floats) -> Floats:
    """Natural logarithm of amplitudes over the first."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs_F: Floats = np.log(amplitudes_F) - np.log(amplitudes_F[0])
    return logs_F


def _diagonal(grid: tuple[int, int]) -> tuple[list[int], list[int]]:
    """Rows and columns of a spectrum from frequency 0 to the highest one, in as many steps as the shorter side has."""
    steps = min(grid) // 2
    rows, columns = ([round(step * (side // 2) / steps) for step in range(steps + 1)] for side in grid)
    return rows, columns
