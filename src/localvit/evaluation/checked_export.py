"""Exports a model, compares the file with it on images, and keeps layers out of int8 if that costs too much.

Shape suffixes: B images, C channels, H x W pixels, K classes.
"""

from functools import partial
from pathlib import Path

from torch import nn

from localvit.evaluation.agreement import Agreement, agreement
from localvit.evaluation.shown_images import ShownImages
from localvit.models.exported import Batch, ErrorGoal, export_model, load_exported
from localvit.models.exported.formats import format_of
from localvit.models.weights.model_description import ModelDescription
from localvit.system.progress import progress_bar
from localvit.system.terminal import ERRORS

# How far int8 may move the logits, relative to their deviation: one after the other, until accuracy is kept.
_ERRORS = (0.01, 0.003)


def checked_export(
    model: nn.Module,
    description: ModelDescription,
    path: Path,
    compared: ShownImages,
    calibration: ShownImages | None,
    *,
    batch: Batch,
    most_drop: float,
) -> tuple[Agreement, nn.Module]:
    """Write a model for another runtime, compare the two, and show progress.

    If int8 costs too much accuracy, the file is written again with those layers in full precision that move the logits
    most. Packages have no such choice.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        description: its classes and preprocessing.
        path: of the new file; its ending says which runtime.
        compared: images to compare on.
        calibration: images that int8 chooses its ranges and layers on; None for full precision.
        batch: number of images that the file takes at a time, or ``"dynamic"``.
        most_drop: points of accuracy that int8 may cost.

    Returns:
        How the two agree, and the exported model.

    Raises:
        LocalViTError: if the model cannot be exported, or the file disagrees with it.
    """

    def write(goal: ErrorGoal | None = None) -> None:
        ranges = None if calibration is None else (images_BCHW for images_BCHW, _ in calibration.pairs())
        export_model(model, description, path, batch=batch, calibration=ranges, goal=goal)

    def compare() -> tuple[Agreement, nn.Module]:
        exported, _ = load_exported(path, trusted=True)
        with progress_bar(ERRORS, "images") as bar:
            watch = partial(bar.advance, bar.add_task(f"Comparing {path.name}", total=compared.count))
            return agreement(model, exported, compared.pairs(), labeled=compared.labels_known, watch=watch), exported

    with ERRORS.status(f"Writing {path.name}"):
        write()
    found, exported = compare()
    if calibration is not None and format_of(path) != "pt2":
        for most_error in _ERRORS:
            if not found.costs_more_than(most_drop):
                break
            ERRORS.print(
                f"int8 costs {found.drop:.2f} points of accuracy; leaving the layers that move the logits most as they "
                f"are, until the error is {100 * most_error:g} % of their deviation",
                highlight=False,
                soft_wrap=True,
            )
            with progress_bar(ERRORS, "images") as bar:
                watch = partial(bar.advance, bar.add_task("Choosing layers", total=None))
                write(ErrorGoal(most_error, watch))
            found, exported = compare()
    found.require(int8=calibration is not None, most_drop=most_drop)
    return found, exported
