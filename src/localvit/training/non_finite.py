"""What to report when the loss of a step is infinite or NaN."""

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from localvit.system.errors import LocalViTError
from localvit.system.files import write_text

REPORT = "non_finite_loss.json"


class NonFiniteLossError(LocalViTError):
    """The loss of a step is infinite or NaN.

    Args:
        epoch: counted from 0.
        batch: counted from 0 within the epoch.
        indices: of the images of the batch in their source.
        layers: the result of :func:`layer_norms`.
    """

    def __init__(self, epoch: int, batch: int, indices: list[int], layers: list[dict[str, Any]]) -> None:
        super().__init__(f"the loss is not finite in epoch {epoch + 1}, step {batch + 1}")
        self.report = {"epoch": epoch + 1, "step": batch + 1, "image_indices": indices, "layers": layers}

    def write(self, folder: Path) -> Path:
        """Write the report into the folder of the run, and return its path."""
        path = folder / REPORT
        write_text(path, json.dumps(self.report, indent=1))
        return path


def layer_norms(model: nn.Module, images_BCHW: Tensor) -> list[dict[str, Any]]:
    """Norms of the weights, the current gradients and the output of every layer, in order of execution.

    Non-finite norms are strings (``"nan"``, ``"inf"``), which JSON can represent. The model stays as it is.
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

    statistics = {name: value.clone() for name, value in model.named_buffers()}  # batch norms update these copies
    with torch.no_grad(), contextlib.ExitStack() as hooks:
        for name, module in model.named_modules():
            if not any(module.children()):
                hooks.callback(module.register_forward_hook(note(name)).remove)
        functional_call(model, statistics, images_BCHW)
    return layers


def _norm(tensors: list[Any]) -> float | str:
    norm = math.sqrt(sum(float(tensor.detach().double().square().sum()) for tensor in tensors))
    return norm if math.isfinite(norm) else str(norm)
