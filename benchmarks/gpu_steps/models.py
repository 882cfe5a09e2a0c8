"""The models that take part: the nine of the paper and their baselines, in full, of few layers, and tiny."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import timm
import torch
from torch import nn
from twins import BASELINES, FAMILIES, TINY

Size = Literal["full", "few layers", "tiny"]

PAIRS = (TINY, *FAMILIES)  # a twin of each architecture
OTHERS = tuple(twin for twin in BASELINES if twin not in PAIRS)
_FEW: dict[str, dict[str, Any]] = {
    "pvt": {"depths": (1, 1, 1, 1)},
    "swin": {"depths": (1, 1), "num_heads": (3, 6)},
}
_SIDES = {"pvt": 64, "swin": 56, "t2t": 64, "tnt": 48}  # the smallest images that leave a grid


@dataclass(frozen=True)
class Place:
    """Where and how large everything runs.

    Attributes:
        device: cuda or cpu.
        quick: whether it is only a trial with tiny models.
    """

    device: Literal["cuda", "cpu"]
    quick: bool


def with_baselines(twins: tuple[str, ...]) -> list[str]:
    """The twins, each followed by its baseline the first time."""
    return list(dict.fromkeys(name for twin in twins for name in (twin, BASELINES[twin])))


def family(name: str) -> str:
    """The architecture of a model: deit, t2t, pvt, tnt or swin."""
    return next((part for part in ("t2t", "pvt", "tnt", "swin") if part in name), "deit")


def image_size(name: str, size: Size) -> int:
    """Height and width of the images."""
    return _SIDES.get(family(name), 32) if size == "tiny" else 224


def create(name: str, size: Size) -> nn.Module:
    """A model with the same fresh weights each time, for 1000 classes."""
    layers = {} if size == "full" else _FEW.get(family(name), {"depth": 2})
    if size == "tiny" and family(name) == "deit":
        layers = {"depth": 2, "embed_dim": 48}  # the class token passes by the last layer's locality, so one is too few
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, img_size=image_size(name, size), num_classes=1000, **layers)
    return model


def stand_in(size: Size) -> Callable[[str], str | Callable[[], nn.Module]]:
    """What runs for the name of a model in a benchmark: the model itself in full, a smaller one otherwise."""
    return str if size == "full" else lambda name: functools.partial(create, name, size)


def as_trained(model: nn.Module) -> nn.Module:
    """Give the model statistics, norms and convolutions as training does, and take out what is random in it."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
        elif isinstance(module, nn.Conv2d) and module.groups > 1:
            nn.init.normal_(module.weight, 0, 0.3)
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, timm.layers.DropPath):
            module.drop_prob = 0.0
    return model
