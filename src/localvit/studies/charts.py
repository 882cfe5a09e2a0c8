"""The charts of a study, drawn by Plotly in colours that colour-blind people tell apart (Okabe and Ito, 2008)."""

import numpy as np
import plotly.graph_objects as go

from localvit.studies.config import StudyConfig
from localvit.studies.statistics import VariantSummary

COLOURS = ("#666666", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2", "#B8A900")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "star", "x", "cross", "triangle-down")
_TEXT, _GRID = "#888888", "rgba(128, 128, 128, 0.25)"


def learning_curves(study: StudyConfig, summaries: list[VariantSummary]) -> go.Figure:
    """Test accuracy over epochs: the mean over seeds, and a band from the worst to the best of them."""
    figure = go.Figure()
    for index, summary in enumerate(summaries):
        accuracy_SE = np.array([[epoch["val_top1"] for epoch in run.epochs] for run in summary.runs])
        epochs_E = np.arange(1, accuracy_SE.shape[1] + 1)
        colour = COLOURS[index % len(COLOURS)]
        figure.add_scatter(
            x=np.concatenate([epochs_E, epochs_E[::-1]]),
            y=np.concatenate([accuracy_SE.max(axis=0), accuracy_SE.min(axis=0)[::-1]]),
            fill="toself",
            fillcolor=colour,
            opacity=0.2,
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=summary.name,
            name=f"{summary.name}, range over seeds",
        )
        figure.add_scatter(
            x=epochs_E,
            y=accuracy_SE.mean(axis=0),
            line={"color": colour, "width": 2},
            legendgroup=summary.name,
            name=summary.name,
            hovertemplate="%{y:.1f} % after epoch %{x}",
        )
    _style(figure, "epoch", "test accuracy, %")
    # Where it is decided: the first epochs of a network that knows nothing would press the rest together.
    final = [run.accuracy for summary in summaries for run in summary.runs]
    figure.update_yaxes(range=[max(0, 100 - 2.5 * (100 - min(final))), 100])
    return figure


def accuracy_against_macs(study: StudyConfig, summaries: list[VariantSummary]) -> go.Figure:
    """Test accuracy with its 95 % interval against multiply-accumulates of an image, a point a variant."""
    figure = go.Figure()
    for index, summary in enumerate(summaries):
        accuracy = summary.accuracy
        figure.add_scatter(
            x=[summary.macs / 1e6],
            y=[accuracy.mean],
            error_y={
                "symmetric": False,
                "array": [accuracy.high - accuracy.mean],
                "arrayminus": [accuracy.mean - accuracy.low],
            },
            mode="markers",
            marker={
                "color": COLOURS[index % len(COLOURS)],
                "symbol": SYMBOLS[index % len(SYMBOLS)],
                "size": 12,
            },
            name=summary.name,
            hovertemplate="%{y:.2f} % at %{x:.3f} M MACs",
        )
    _style(figure, "multiply-accumulates of an image, millions", "test accuracy, %")
    return figure


def _style(figure: go.Figure, x_title: str, y_title: str) -> None:
    """Transparent, with greys that read on light and dark pages alike."""
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        font={"color": _TEXT, "size": 13},
        margin={"l": 60, "r": 20, "t": 20, "b": 60},
        height=420,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )
    figure.update_xaxes(title=x_title, gridcolor=_GRID, zeroline=False)
    figure.update_yaxes(title=y_title, gridcolor=_GRID, zeroline=False)
