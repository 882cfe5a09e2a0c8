"""The graph of a model, from which all formats are written."""

import torch
from torch import Tensor, nn

from localvit.locality.kernels.fuse import fuse
from localvit.models.exported.formats import INPUT, Batch
from localvit.models.exported.linear_int8 import with_linear_layers_in_int8
from localvit.models.weights.model_description import ModelDescription


def example_of(description: ModelDescription, batch: Batch) -> Tensor:
    """Images (B, C, H, W) of noise; with two images a dynamic batch is not mistaken for a fixed one."""
    size = (2 if batch == "dynamic" else batch, description.input.channels, *description.input.image_size)
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


def traced(
    model: nn.Module, description: ModelDescription, batch: Batch, *, linear_int8: bool = False
) -> torch.export.ExportedProgram:
    """The graph of a model for inference, with the norms of locality folded into its layers.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        description: its description.
        batch: number of images that the graph takes, or ``"dynamic"``.
        linear_int8: round the linear layers to 8 bits.
    """
    inference = fuse(model.cpu())
    if linear_int8:
        with_linear_layers_in_int8(inference)
    dynamic = {0: torch.export.Dim("batch")} if batch == "dynamic" else None
    with torch.no_grad():
        return torch.export.export(
            _Named(inference).eval(), (example_of(description, batch),), dynamic_shapes={INPUT: dynamic}
        )


class _Named(nn.Module):
    """Gives the model's argument the name that the graph's input has."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K)."""
        logits_BK: Tensor = self.model(images)
        return logits_BK
