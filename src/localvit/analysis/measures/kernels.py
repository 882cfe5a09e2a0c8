"""What depth-wise kernels have become: blur, edge or identity.

Shape suffixes: E kernels (channels), Y x X taps of a kernel, T = Y * X taps, F frequencies a side.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from localvit.analysis.layers import Layer, NotMeasurableError, WatchedModel

Floats = NDArray[np.float64]
Kind = Literal["identity", "blur", "edge"]
KINDS: tuple[Kind, ...] = ("identity", "blur", "edge")
_FREQUENCIES = 16


@dataclass(frozen=True)
class LayerKernels:
    """The depth-wise kernels of one layer.

    Attributes:
        layer: name of the layer.
        index: number of the layer, from 0.
        kernels_EYX: the kernels.
        middle_share: share of the middle tap in the absolute values of a kernel, mean over kernels: 1 for the identity,
            1 / T for a box.
        kinds: share of the kernels of each kind; see :func:`kind_of`.
        components_TYX: principal components of the kernels, scaled to norm 1, in descending order (T, Y, X).
        explained_T: share of the kernels' squares that each component holds (T,).
        spectrum_FF: mean amplitude of the kernels' frequency responses (F, F), frequency 0 in the middle.
    """

    layer: str
    index: int
    kernels_EYX: Floats
    middle_share: float
    kinds: Mapping[Kind, float]
    components_TYX: Floats
    explained_T: Floats
    spectrum_FF: Floats


@dataclass(frozen=True)
class DepthwiseKernels:
    """The depth-wise kernels of a model.

    Attributes:
        layers: names of all layers of the model, with kernels or without.
        found: the layers with kernels.
    """

    layers: tuple[str, ...]
    found: tuple[LayerKernels, ...]

    def series(self) -> Mapping[str, Sequence[float | None]]:
        """By layer: the share of the middle tap and of each kind; None for layers without kernels."""
        by_index = {kernels.index: kernels for kernels in self.found}
        known = [by_index.get(index) for index in range(len(self.layers))]
        kinds = {f"{kind} kernels": [None if one is None else one.kinds[kind] for one in known] for kind in KINDS}
        return {"middle tap": [None if one is None else one.middle_share for one in known], **kinds}


def depthwise_kernels(model: nn.Module, images: Tensor | Iterable[Tensor] | None = None) -> DepthwiseKernels:
    """The depth-wise kernels in the feed-forward networks of a transformer, and what they do.

    This measure is our own (``docs/analysis.md``). Batch norms after a convolution scale whole kernels, so they change
    none of it but the spectrum's height.

    Args:
        model: a transformer; it is not changed.
        images: not needed; every measure accepts images.

    Raises:
        NotMeasurableError: if no feed-forward network of the model has a depth-wise convolution larger than 1 x 1.
    """
    watched = WatchedModel(model)
    found = []
    for index, layer in enumerate(watched.layers):
        kernels = _kernels(layer, watched.layout.mlp)
        if kernels is not None:
            found.append(describe(layer.name, index, kernels))
    if not found:
        raise NotMeasurableError("its feed-forward networks have no depth-wise convolution larger than 1 x 1")
    return DepthwiseKernels(tuple(layer.name for layer in watched.layers), tuple(found))


def describe(layer: str, index: int, kernels_EYX: Floats) -> LayerKernels:
    """What the kernels of a layer do; see :class:`LayerKernels`."""
    sides = kernels_EYX.shape[1:]
    absolute_EYX = np.abs(kernels_EYX)
    middle_E = absolute_EYX[:, sides[0] // 2, sides[1] // 2]
    total_E = absolute_EYX.sum(axis=(1, 2))
    shares_E = np.divide(middle_E, total_E, out=np.full(len(total_E), np.nan), where=total_E > 0)
    norms_E = np.linalg.norm(kernels_EYX, axis=(1, 2), keepdims=True)
    unit_EYX = np.divide(kernels_EYX, norms_E, out=np.zeros_like(kernels_EYX), where=norms_E > 0)
    _, singular_T, components_TT = np.linalg.svd(unit_EYX.reshape(len(unit_EYX), -1), full_matrices=False)
    squares_T = singular_T**2
    spectrum_EFF = np.abs(np.fft.fft2(kernels_EYX, s=(_FREQUENCIES, _FREQUENCIES)))
    kinds = [kind_of(kernel_YX) for kernel_YX in kernels_EYX]
    return LayerKernels(
        layer,
        index,
        kernels_EYX,
        float(np.nanmean(shares_E)) if total_E.any() else float("nan"),
        {kind: kinds.count(kind) / len(kinds) for kind in KINDS},
        components_TT.reshape(-1, *sides),
        squares_T / squares_T.sum() if squares_T.any() else squares_T,
        np.fft.fftshift(spectrum_EFF.mean(axis=0)),
    )


def kind_of(kernel_YX: Floats) -> Kind:
    """What a kernel does to a map, by the sums of its taps and of their absolute values.

    Edge: taps cancel, so that less than half of the absolute sum is left of a constant map; differences between
    neighbors do this, and so does a token minus its neighbors. Identity: the middle tap is at least half of the
    absolute sum. Blur: everything else, a mean over several tokens.
    """
    total = np.abs(kernel_YX).sum()
    if abs(kernel_YX.sum()) < total / 2:
        return "edge"
    middle = abs(kernel_YX[kernel_YX.shape[0] // 2, kernel_YX.shape[1] // 2])
    return "identity" if middle >= total / 2 else "blur"


def _kernels(layer: Layer, mlp: str) -> Floats | None:
    """The kernels (E, Y, X) in the feed-forward network of a layer; None if there are none."""
    for module in getattr(layer.block, mlp, nn.Identity()).modules():
        if isinstance(module, nn.Conv2d) and module.weight.shape[1] == 1 and max(module.kernel_size) > 1:
            kernels_EYX: Floats = module.weight.detach().double().squeeze(1).cpu().numpy()
            return kernels_EYX
    return None
