"""What is known about a step whose loss is infinite or not a number."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from localvit.system.errors import LocalViTError
from localvit.system.files import write_text

REPORT = "non_finite_loss.json"


class NonFiniteLossError(LocalViTError):
    """The loss of a step is infinite or not a number.

    Args:
        epoch: from 0.
        batch: from 0, in the epoch.
        indices: of the images of the batch in their source.
        layers: see :func:`layer_norms`.
    """

    def __init__(self, epoch: int, batch: int, indices: list[int], layers: list[dict[str, Any]]) -> None:
        super().__init__(f"the loss is not finite in epoch {epoch + 1}, step {batch + 1}")
        self.epoch, self.batch, self.indices, self.layers = epoch, batch, indices, layers

    def write(self, folder: Path) -> Path:
        """Write what is known into a run's folder, and return the file's path."""
        path = folder / REPORT
        found = {"epoch": self.epoch + 1, "step": self.batch + 1, "image_indices": self.indices, "layers": self.layers}
        write_text(path, json.dumps(found, indent=1))
        return path


def layer_norms(model: nn.Module, images_BCHW: Tensor) -> list[dict[str, Any]]:
    """Norm of the weights, of the gradients at hand and of the output of every layer, in the order they are computed.

    Numbers that are not finite are written as text (``"nan"``, ``"inf"``), which JSON can hold.
    """
    layers: list[dict[str, Any]] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            weights = list(module.parameters(recurse=False))
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            layers.append(
                {
                    "layer": name,
                    "weights": _norm(weights),
                    "gradients": _norm(gradients) if gradients else None,
                    "output": _norm([output]) if isinstance(output, Tensor) else None,
                }
            )

        return hook

    leaves = [(name, module) for name, module in model.named_modules() if not any(module.children())]
    handles = [module.register_forward_hook(note(name)) for name, module in leaves]
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    try:
        with torch.no_grad():
            model(images_BCHW)
    finally:
        for handle in handles:
            handle.remove()
        for name, value in model.named_buffers():
            value.copy_(statistics[name])
    return layers


def _norm(tensors: list[Any]) -> float | str:
    norm = math.sqrt(sum(float(tensor.detach().double().square().sum()) for tensor in tensors))
    return norm if math.isfinite(norm) else str(norm)
