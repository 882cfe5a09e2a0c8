"""A model to check, and what it is checked against."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gpu_steps.arithmetic import Found, infer, train
from gpu_steps.models import Size, as_trained, create, image_size
from localvit import LocalityFeedForward, use_triton

_BATCH = 4


@dataclass(frozen=True)
class Subject:
    """A model, its images, and what the plain modules compute in float64 on the CPU."""

    name: str
    model: nn.Module
    images_BCHW: Tensor
    trained: Found
    inferred: Found

    @classmethod
    def of(cls, name: str, size: Size) -> "Subject":
        """A model in its first state, the same each time."""
        model = use_triton(as_trained(create(name, size)), enabled=False)
        side = image_size(name, size)
        images_BCHW = torch.randn(_BATCH, 3, side, side, generator=torch.Generator().manual_seed(1))
        return cls(
            name,
            model,
            images_BCHW,
            train(copy.deepcopy(model), images_BCHW, "float64", "cpu"),
            infer(copy.deepcopy(model), images_BCHW, "float64", "cpu"),
        )

    @property
    def networks(self) -> int:
        """Number of its locality feed-forward networks."""
        return sum(isinstance(module, LocalityFeedForward) for module in self.model.modules())
