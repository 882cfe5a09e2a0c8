"""Trained models in the formats of other runtimes: ONNX, OpenVINO and PyTorch's ahead-of-time packages.

A file of any of them holds the description of its model, so that it classifies images on its own.
"""

from localvit.models.exported.formats import ENDINGS, Batch, Format, is_exported
from localvit.models.exported.load import ExportedModel, load_any, load_exported
from localvit.models.exported.quantize import ErrorGoal
from localvit.models.exported.write import export_model

__all__ = [
    "ENDINGS",
    "Batch",
    "ErrorGoal",
    "ExportedModel",
    "Format",
    "export_model",
    "is_exported",
    "load_any",
    "load_exported",
]
