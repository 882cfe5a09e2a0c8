"""Pictures to look at: receptive fields, depth-wise kernels, and similarities of layers.

Shape suffixes: Y x X pixels of a picture, R x C rows and columns of a gallery.
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from localvit.analysis.analysis import Analysis
from localvit.analysis.measures.alignment import Alignment
from localvit.analysis.measures.kernels import DepthwiseKernels
from localvit.analysis.measures.receptive_field import ReceptiveField
from localvit.benchmark.look import label, style

Floats = NDArray[np.float64]
Drawn = tuple[go.Figure, str]

MOST_PIXELS = 56  # a side of a receptive field
_MOST_KERNELS = 16  # of a layer
_COMPONENTS = 3
_TILE = 140  # most pixels of the page a side
_WIDTH = 720  # pixels of the page for all columns


def receptive_fields(analysis: Analysis) -> Drawn | None:
    """Receptive fields of a first, a middle and the last layer, and of the last layer before training."""
    names = [name for name in analysis.names if analysis.of("receptive-field", name)]
    rows = []
    for name in names:
        result = analysis.of("receptive-field", name)[0].result
        assert isinstance(result, ReceptiveField)
        maps = [result.maps_LYX[place] for place in (0, len(result.maps_LYX) // 2, -1)]
        before = analysis.of("receptive-field", name, "initial")
        if before and isinstance(before[0].result, ReceptiveField):
            maps.append(before[0].result.maps_LYX[-1])
        rows.append([np.sqrt(coarse(map_YX) / coarse(map_YX).max()) for map_YX in maps])
    if not rows:
        return None
    headers = ["first layer", "middle layer", "last layer", "last, before training"][: max(map(len, rows))]
    return gallery(rows, names, headers, colours="Cividis", lowest=0), (
        "Where the gradient of the middle token reaches. Every map is drawn relative to its highest pixel, as square "
        "roots, so that faint surroundings show. One seed per model."
    )


def kernel_galleries(analysis: Analysis) -> dict[str, Drawn]:
    """For each model with depth-wise kernels: principal components and some kernels of every layer, of one seed."""
    return {
        f"kernels-{place + 1}": _kernels(analysis, name)
        for place, name in enumerate(analysis.names)
        if analysis.of("kernels", name)
    }


def alignment(analysis: Analysis) -> Drawn | None:
    """CKA of all pairs of layers, mean over seeds, one panel per model."""
    shown = {name: found for name in analysis.names if (found := analysis.of("alignment", name))}
    if not shown:
        return None
    figure = make_subplots(rows=len(shown), vertical_spacing=0.3 / len(shown))
    for row, (name, found) in enumerate(shown.items(), start=1):
        other = analysis.isolates.get(name) or analysis.baseline_of(name) or ""
        maps = [one.result.cka_LK for one in found if isinstance(one.result, Alignment)]
        figure.add_heatmap(
            z=np.mean(maps, axis=0).round(4).tolist(),
            x0=1,
            y0=1,
            zmin=0,
            zmax=1,
            colorscale="Cividis",
            showscale=row == 1,
            hovertemplate="layer %{y} and layer %{x} of the reference: %{z:.2f}<extra></extra>",
            row=row,
            col=1,
        )
        figure.update_yaxes(title=label(f"layer of {name}", 34), row=row, col=1)
        figure.update_xaxes(title={"text": label(f"layer of {other}"), "standoff": 2}, row=row, col=1)
    style(figure, height=60 + 260 * len(shown))
    figure.update_xaxes(dtick=1, showgrid=False)
    figure.update_yaxes(dtick=1, showgrid=False)
    return figure, "Linear CKA between layers, mean over seeds: 1 for the same up to rotation and scale."


def coarse(map_YX: Floats, most: int = MOST_PIXELS) -> Floats:
    """A map with at most ``most`` pixels a side, each the sum of a block of pixels."""
    step = max(1, -(-max(map_YX.shape) // most))
    rows, columns = (-(-side // step) * step for side in map_YX.shape)
    padded = np.zeros((rows, columns))
    padded[: map_YX.shape[0], : map_YX.shape[1]] = map_YX
    sums: Floats = padded.reshape(rows // step, step, columns // step, step).sum(axis=(1, 3))
    return sums


def gallery(
    rows: Sequence[Sequence[Floats]], names: Sequence[str], headers: Sequence[str], *, colours: str, lowest: float
) -> go.Figure:
    """Small pictures in rows and columns, drawn as one heat map with gaps.

    Args:
        rows: pictures (Y, X) of each row, with values from ``lowest`` to 1.
        names: of the rows.
        headers: of the columns.
        colours: a color scale of Plotly.
        lowest: value of the first color.
    """
    height, width = (max(tile.shape[axis] for row in rows for tile in row) for axis in (0, 1))
    gap = max(1, max(height, width) // 12)
    down, across = height + gap, width + gap
    columns = max(len(row) for row in rows)
    wall = np.full((len(rows) * down - gap, columns * across - gap), np.nan)
    for r, row in enumerate(rows):
        for c, tile_YX in enumerate(row):
            wall[r * down : r * down + tile_YX.shape[0], c * across : c * across + tile_YX.shape[1]] = tile_YX
    figure = go.Figure()
    figure.add_heatmap(
        z=[[None if np.isnan(value) else round(float(value), 3) for value in line] for line in wall],
        colorscale=colours,
        zmin=lowest,
        zmax=1,
        showscale=False,
        hoverinfo="skip",
    )
    tile = min(_TILE, _WIDTH // columns)
    style(figure, height=round(70 + max(26.0, tile * down / across) * len(rows)))
    figure.update_layout(showlegend=False, margin={"t": 44, "b": 12})
    figure.update_yaxes(
        tickvals=[r * down + (height - 1) / 2 for r in range(len(rows))],
        ticktext=[label(name, 22) for name in names],
        range=[len(wall) - 0.5, -0.5],
        showgrid=False,
        scaleanchor="x",
        constrain="domain",
    )
    figure.update_xaxes(
        tickvals=[c * across + (width - 1) / 2 for c in range(len(headers))],
        ticktext=[label(header, 12) for header in headers],
        side="top",
        showgrid=False,
        constrain="domain",
    )
    return figure


def _kernels(analysis: Analysis, name: str) -> Drawn:
    result = analysis.of("kernels", name)[0].result
    assert isinstance(result, DepthwiseKernels)
    rows = []
    for layer in result.found:
        chosen = np.linspace(0, len(layer.kernels_EYX) - 1, min(_MOST_KERNELS, len(layer.kernels_EYX))).astype(int)
        tiles = [*layer.components_TYX[:_COMPONENTS], *layer.kernels_EYX[chosen]]
        rows.append([tile_YX / max(np.abs(tile_YX).max(), 1e-30) for tile_YX in tiles])
    headers = [f"PC {place + 1}" for place in range(min(_COMPONENTS, len(result.found[0].components_TYX)))]
    names = [f"layer {layer.index + 1}" for layer in result.found]
    return gallery(rows, names, headers, colours="RdBu", lowest=-1), (
        f"{name}: the first principal components (PC) of the kernels of each layer, then up to {_MOST_KERNELS} of its "
        "kernels. Every kernel has its own scale: red is negative, blue positive, and the sign of a component is free."
    )
