"""One step of a model in a given precision, as numbers to compare."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gpu_steps.running import Row

Precision = Literal["float64", "float32", "bfloat16", "float16"]
_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_SCALE = 1024.0  # keeps float16 gradients above the smallest number


@dataclass(frozen=True)
class Found:
    """What a step computed, in float64 on the CPU: logits, and the gradients of all parameters one after the other."""

    outputs: Tensor
    gradients: Tensor


def train(model: nn.Module, images_BCHW: Tensor, precision: Precision, device: str) -> Found:
    """Logits and gradients of a training step, in autocast for half precisions.

    The model is moved, and changed as training changes it. Image i has class i.
    """
    model, images_BCHW = _ready(model.train(), images_BCHW, precision, device)
    scale = _SCALE if precision == "float16" else 1.0
    labels_B = torch.arange(len(images_BCHW), device=device)
    with _exact_products(), _autocast(precision, device):
        logits_BK = model(images_BCHW)
        loss = nn.functional.cross_entropy(logits_BK.double(), labels_B)
    with _exact_products():
        (scale * loss).backward()
    gradients = [weight.grad.double().flatten().cpu() for weight in model.parameters() if weight.grad is not None]
    return Found(logits_BK.detach().double().cpu(), torch.cat(gradients) / scale)


def infer(model: nn.Module, images_BCHW: Tensor, precision: Precision, device: str) -> Found:
    """Logits in evaluation mode, and no gradients. The model is moved."""
    model, images_BCHW = _ready(model.eval(), images_BCHW, precision, device)
    with torch.inference_mode(), _exact_products(), _autocast(precision, device):
        logits_BK = model(images_BCHW)
    return Found(logits_BK.double().cpu(), torch.empty(0))


def distance(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference divided by the norm of what is expected; infinite for another number of elements."""
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).norm() / expected.norm())


def compared(
    model: str,
    form: str,
    precision: Precision,
    outputs: tuple[float, float | None],
    gradients: tuple[float | None, float | None],
) -> Row:
    """A line of the table, with a fault for a distance that is larger than allowed, or not a number."""
    row: Row = {"model": model, "form": form, "precision": precision, "fault": ""}
    for what, (off, allowed) in {"outputs": outputs, "gradients": gradients}.items():
        row[what], row[f"{what} at most"] = off, allowed
        if off is not None and allowed is not None and not off <= allowed:
            row["fault"] = f"{model}, {form}, {precision}: {what} are off by {off:.2g}, more than {allowed:.2g}"
    return row


def _ready(model: nn.Module, images_BCHW: Tensor, precision: Precision, device: str) -> tuple[nn.Module, Tensor]:
    dtype = torch.float64 if precision == "float64" else torch.float32
    return model.to(device, dtype), images_BCHW.to(device, dtype)


def _autocast(precision: Precision, device: str) -> contextlib.AbstractContextManager[object]:
    return torch.autocast(device, _HALF[precision]) if precision in _HALF else contextlib.nullcontext()


@contextlib.contextmanager
def _exact_products() -> Iterator[None]:
    """Leave TensorFloat-32 out, which GPUs use in convolutions by default, and which has 10 bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
