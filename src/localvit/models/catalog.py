"""The models of the paper and their baselines, with their published accuracy on ImageNet-1k."""

from collections.abc import Iterator
from dataclasses import dataclass

import timm
import torch

from localvit.models.costs import count_macs, count_parameters


@dataclass(frozen=True)
class Published:
    """A model and its accuracy in the paper or the model zoo.

    Attributes:
        name: name in timm's registry.
        baseline: name of the baseline that was localized; None for a baseline.
        top1: accuracy on ImageNet-1k in percent; None if unpublished.
    """

    name: str
    baseline: str | None = None
    top1: float | None = None


PUBLISHED = (
    Published("deit_tiny_patch16_224", None, 72.2),
    Published("localvit_tiny_patch16_224", "deit_tiny_patch16_224", 74.84),
    Published("localvit_tiny_se4_patch16_224", "deit_tiny_patch16_224", 75.74),
    Published("localvit_tiny_relu6_mlp6_patch16_224", "deit_tiny_patch16_224"),
    Published("deit_small_patch16_224", None, 79.8),
    Published("localvit_small_patch16_224", "deit_small_patch16_224", 80.78),
    Published("t2t_vit_7", None, 71.7),
    Published("localvit_t2t_7", "t2t_vit_7", 72.5),
    Published("pvt_tiny", None, 75.1),
    Published("localvit_pvt_tiny", "pvt_tiny", 78.14),
    Published("tnt_tiny_patch16_224", None, 73.6),
    Published("localvit_tnt_tiny_patch16_224", "tnt_tiny_patch16_224", 75.90),
    Published("tnt_s_legacy_patch16_224"),
    Published("localvit_tnt_small_patch16_224", "tnt_s_legacy_patch16_224"),
    Published("swin_tiny_patch4_window7_224"),
    Published("localvit_swin_tiny_patch4_window7_224", "swin_tiny_patch4_window7_224", 81.86),
)


@dataclass(frozen=True)
class CatalogEntry:
    """A model with its costs for one 3 x 224 x 224 image and 1000 classes."""

    name: str
    parameters: int
    macs: int
    baseline: str | None
    top1: float | None


def catalog() -> Iterator[CatalogEntry]:
    """Build each model of the paper, without weights, and count its costs."""
    for published in PUBLISHED:
        with torch.device("meta"):
            model = timm.create_model(published.name)
        yield CatalogEntry(
            published.name,
            count_parameters(model),
            count_macs(model, (3, 224, 224)),
            published.baseline,
            published.top1,
        )
