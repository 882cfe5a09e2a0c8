"""Writes and prints an evaluation: files, a plot and a table."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.table import Table

from localvit.evaluation.evaluate import Evaluation
from localvit.system.files import replacing, write_text

_MOST_NAMES_IN_PICTURE = 60
_MOST_NUMBERS_IN_PICTURE = 20
_MOST_ROWS_IN_TABLE = 20


def write_evaluation(figures: Evaluation, folder: Path) -> None:
    """Write ``metrics.json``, ``per_class.csv``, ``confusion_matrix.csv`` and ``confusion_matrix.png``."""
    metrics = {
        "images": figures.images,
        "top1": figures.top1,
        "top5": figures.top5,
        "loss": figures.loss,
        "broken_images": list(figures.broken_images),
    }
    write_text(folder / "metrics.json", json.dumps(metrics, indent=1))
    write_text(folder / "per_class.csv", figures.per_class().to_csv(index=False))
    matrix = pd.DataFrame(figures.confusion_KK, index=figures.class_names, columns=figures.class_names)
    write_text(folder / "confusion_matrix.csv", matrix.to_csv(index_label="true class"))
    write_confusion_picture(figures, folder)


def write_confusion_picture(figures: Evaluation, folder: Path) -> None:
    """Write ``confusion_matrix.png``."""
    with replacing(folder / "confusion_matrix.png") as file:
        confusion_picture(figures).savefig(file, format="png", dpi=120)


def confusion_picture(figures: Evaluation) -> Figure:
    """A plot of the confusion matrix in percent of each true class; it does not touch pyplot's state."""
    images_K1 = figures.confusion_KK.sum(axis=1, keepdims=True)
    nothing_KK = np.zeros(figures.confusion_KK.shape)
    share_KK = np.divide(100 * figures.confusion_KK, images_K1, out=nothing_KK, where=images_K1 > 0)
    num_classes = len(figures.class_names)
    named = num_classes <= _MOST_NAMES_IN_PICTURE
    side = max(5.0, 0.22 * num_classes + 2.5) if named else 9.0
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(share_KK, cmap="cividis", vmin=0, vmax=100, interpolation="nearest")
    figure.colorbar(picture, ax=axes, label="% of the true class's images", shrink=0.8)
    title = f"top-1 {figures.top1:.2f} %, top-5 {figures.top5:.2f} % of {figures.images:,} images"
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    if named:
        axes.set_xticks(range(num_classes), figures.class_names, rotation=90)
        axes.set_yticks(range(num_classes), figures.class_names)
    if num_classes <= _MOST_NUMBERS_IN_PICTURE:
        for row, column in np.argwhere(share_KK >= 1):
            share = share_KK[row, column]
            colour = "white" if share < 60 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=colour)
    return figure


def evaluation_line(figures: Evaluation) -> str:
    """One line with the main figures."""
    broken = f"; {len(figures.broken_images):,} could not be read" if figures.broken_images else ""
    return (
        f"top-1 {figures.top1:.2f} %, top-5 {figures.top5:.2f} %, loss {figures.loss:.4f} on {figures.images:,} images"
        f"{broken}"
    )


def evaluation_table(figures: Evaluation) -> Table:
    """A table of the classes with the lowest accuracy."""
    table = Table()
    for header in ("class", "images", "top-1 %"):
        table.add_column(header, justify="left" if header == "class" else "right")
    classes = figures.per_class().dropna().sort_values("top1", kind="stable")
    for row in classes.head(_MOST_ROWS_IN_TABLE).itertuples(index=False):
        table.add_row(str(row[0]), f"{row[1]:,}", f"{row[3]:.2f}")
    if len(classes) > _MOST_ROWS_IN_TABLE:
        table.add_row(f"... and {len(classes) - _MOST_ROWS_IN_TABLE} with more", "", "")
    return table
