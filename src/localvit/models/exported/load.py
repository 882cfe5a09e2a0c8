"""Exported files as modules, so that everything that takes a model takes them.

Shape suffixes: B images, C channels, H x W pixels, K classes.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from localvit.models.exported import onnx_file, openvino_file, package_file
from localvit.models.exported.formats import Precision, description_in, format_of, is_exported
from localvit.models.weights.model_description import ModelDescription
from localvit.models.weights.model_file import load_model
from localvit.system.errors import LocalViTError


class ExportedModel(nn.Module):
    """A graph that another runtime computes on the CPU.

    Args:
        run: images (B, C, H, W) to logits (B, K), in float32.
        batch: number of images that the graph takes at a time; None for any number.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], batch: int | None) -> None:
        super().__init__()
        self.run, self.batch = run, batch

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K) on the same device."""
        images = images_BCHW.detach().float().cpu().contiguous()
        if self.batch is None:
            return self.run(images).to(images_BCHW.device)
        answers = [self._fixed(part, self.batch) for part in images.split(self.batch)]
        return torch.cat(answers).to(images_BCHW.device)

    def _fixed(self, images_BCHW: Tensor, batch: int) -> Tensor:
        missing = batch - len(images_BCHW)
        filled = images_BCHW if not missing else torch.cat([images_BCHW, images_BCHW[-1:].expand(missing, -1, -1, -1)])
        return self.run(filled)[: len(images_BCHW)]


def load_any(path: str | Path, *, name: str | None = None, trusted: bool = False) -> tuple[nn.Module, ModelDescription]:
    """Load a checkpoint, a model on the hub, or an exported file.

    Args:
        path: see :func:`localvit.load_model` and :func:`load_exported`.
        name: the timm name of the model, for checkpoints without a description.
        trusted: see :func:`load_exported`.

    Raises:
        FileNotFoundError, LocalViTError, ValueError: see both functions.
    """
    if is_exported(path):
        return load_exported(path, trusted=trusted)
    return load_model(path, name=name)


def load_exported(
    path: str | Path, *, precision: Precision = "fp32", trusted: bool = False
) -> tuple[ExportedModel, ModelDescription]:
    """Load a file of :func:`localvit.models.exported.export_model`, which computes on the CPU.

    Args:
        path: ends in ``.onnx``, ``.xml`` (with the ``.bin`` beside it) or ``.pt2``.
        precision: of OpenVINO's floating-point layers, which would otherwise be bf16 where the processor has it.
        trusted: whether machine code in the file may run, for ``.pt2``.

    Raises:
        FileNotFoundError: if the file does not exist.
        LocalViTError: if the package that runs it is not installed, or if it holds machine code and is not trusted.
        ValueError: if the file is damaged or was not written by this project.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    kind = format_of(path)
    if kind == "pt2":
        if not trusted:
            raise LocalViTError(
                f"{path} holds machine code, which runs when it is loaded; if you trust its author, add --trust"
            )
        compiled, text, batch = package_file.read(path)
        return ExportedModel(partial(package_file.run, compiled), batch), description_in(text, path)
    graph, text, shape = onnx_file.read(path) if kind == "onnx" else openvino_file.read(path, precision)
    description = description_in(text, path)
    expected = [description.input.channels, *description.input.image_size]
    if shape[1:] != expected:
        raise ValueError(f"{path} takes images of the shape {shape[1:]}, and its description says {expected}")
    call = onnx_file.run if kind == "onnx" else openvino_file.run

    def run(images_BCHW: Tensor) -> Tensor:
        return torch.from_numpy(call(graph, images_BCHW.numpy()))

    return ExportedModel(run, shape[0] if isinstance(shape[0], int) else None), description
