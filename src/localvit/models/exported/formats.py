"""The formats, their file names, and the packages that they need."""

import importlib
from pathlib import Path
from typing import Any, Literal

from localvit.models.weights.model_description import ModelDescription, description_from
from localvit.system.errors import LocalViTError

Format = Literal["onnx", "openvino", "pt2"]
Precision = Literal["fp32", "bf16"]
Batch = int | Literal["dynamic"]
ENDINGS: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}
METADATA = "localvit_model"
INPUT, OUTPUT = "images", "logits"


def is_exported(path: str | Path) -> bool:
    """Whether a file's name says that it was exported."""
    return Path(path).suffix.lower() in ENDINGS.values()


def format_of(path: str | Path) -> Format:
    """The format of a file by its name."""
    ending = Path(path).suffix.lower()
    return next(name for name, known in ENDINGS.items() if known == ending)


def needed(package: str, extra: str) -> Any:
    """Import an optional package.

    Raises:
        LocalViTError: if it is not installed; names the extra that has it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise LocalViTError(f"this needs {package}, which is not installed: pip install localvit[{extra}]") from error


def description_in(text: str | None, path: Path) -> ModelDescription:
    """The description stored in an exported file.

    Raises:
        ValueError: if there is none, or it is damaged.
    """
    if text is None:
        raise ValueError(f"{path} does not say which classes it knows; only files of `localvit export` can be used")
    return description_from(text, path)


def brief(error: Exception) -> str:
    """Class and message of a runtime's error, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
