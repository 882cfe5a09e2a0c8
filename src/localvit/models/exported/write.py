"""Writes a model in the format of another runtime, in full precision or in int8."""

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

from localvit.models.exported import onnx_file, openvino_file, package_file
from localvit.models.exported.formats import Batch, format_of
from localvit.models.exported.program import traced
from localvit.models.exported.quantize import ErrorGoal, quantized
from localvit.models.weights.model_description import ModelDescription
from localvit.system.errors import LocalViTError


def export_model(
    model: nn.Module,
    description: ModelDescription,
    path: str | Path,
    *,
    batch: Batch = "dynamic",
    calibration: Iterable[Tensor] | None = None,
    goal: ErrorGoal | None = None,
) -> None:
    """Write a model for another runtime. The norms of its locality are folded into its layers.

    Args:
        model: images (B, C, H, W) to logits (B, K); it is left unchanged.
        description: its classes and preprocessing, which the file will hold.
        path: ends in ``.onnx``, ``.xml`` for OpenVINO, or ``.pt2`` for PyTorch's ahead-of-time compiler.
        batch: number of images at a time, or ``"dynamic"`` for any number.
        calibration: batches of preprocessed images (B, C, H, W); the ranges of int8 are chosen on them, except for
            ``.pt2``, whose ranges follow each image. None keeps full precision.
        goal: leaves layers of int8 in full precision until so much accuracy is kept; not for ``.pt2``.

    Raises:
        LocalViTError: if a package is missing, the model cannot be exported, or there is no image to calibrate with.
    """
    path = Path(path)
    kind, text = format_of(path), description.to_json()
    try:
        program = traced(model, description, batch, linear_int8=kind == "pt2" and calibration is not None)
    except LocalViTError:
        raise
    except Exception as error:  # whatever the tracer meets in a model
        raise LocalViTError(f"{description.name} cannot be exported: {type(error).__name__}: {error}") from error
    if kind == "pt2":
        package_file.write(program, text, path, batch)
        return
    if kind == "onnx":
        graph = onnx_file.build(program, text)
    else:
        shape = (-1 if batch == "dynamic" else batch, description.input.channels, *description.input.image_size)
        graph = openvino_file.build(program, text, shape)
    if calibration is not None:
        graph = quantized(graph, calibration, text, batch, goal)
    (onnx_file if kind == "onnx" else openvino_file).write(graph, path)
