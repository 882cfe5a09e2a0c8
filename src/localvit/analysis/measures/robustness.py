"""What a decision rests on: accuracy on images that lack order, position, parts or frequencies.

Shape suffixes: B images, C channels, H x W pixels, K classes, S images in all.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from localvit.analysis.corruptions import Corruption, corruptions
from localvit.analysis.layers import batches_of

CLEAN = "unchanged"


@dataclass(frozen=True)
class Robustness:
    """How a classifier answers to corrupted images.

    Attributes:
        conditions: the corruptions; the first is :data:`CLEAN`.
        kept: percent of the images whose predicted class stays that of the unchanged image.
        accuracy: top-1 accuracy in percent; None without labels.
        images: number of images.
    """

    conditions: tuple[str, ...]
    kept: tuple[float, ...]
    accuracy: tuple[float, ...] | None
    images: int

    def series(self) -> Mapping[str, Sequence[float | None]]:
        """By condition: accuracy if there are labels, and the share of predictions kept."""
        known = {} if self.accuracy is None else {"accuracy": self.accuracy}
        return {**known, "predictions kept": self.kept}


def robustness(
    model: nn.Module,
    images: Tensor | Iterable[Tensor],
    labels: Tensor | None = None,
    *,
    seed: int = 0,
) -> Robustness:
    """Accuracy under shuffled patches, shifts, occlusion, low-pass and high-pass images.

    Shuffling and occlusion follow Naseer et al. 2021 (arXiv 2105.10497, section 3), frequencies Park and Kim 2022
    (arXiv 2202.06709, section 3). :func:`localvit.analysis.corruptions.corruptions` lists the conditions.

    Args:
        model: images (B, C, H, W) to logits (B, K); it is returned to its mode afterwards.
        images: normalized images (S, C, H, W), or batches of them.
        labels: classes (S,). Without them, only the share of predictions that stay the same is known.
        seed: of the corruptions; every model sees the same corrupted images.

    Raises:
        ValueError: if there are no images, or not as many labels.
    """
    device, was_training = next(model.parameters()).device, model.training
    found: list[Tensor] = []  # predictions (conditions, B) of each batch
    conditions: list[Corruption] = []
    model.eval()
    try:
        for number, images_BCHW in enumerate(batches_of(images)):
            conditions = corruptions((images_BCHW.shape[2], images_BCHW.shape[3]))
            shown = images_BCHW.to(device)
            predictions = [_classify(model, shown)]
            for place, corruption in enumerate(conditions):
                generator = torch.Generator().manual_seed(_seed(seed, number, place))
                predictions.append(_classify(model, corruption.apply(shown, generator)))
            found.append(torch.stack(predictions))
    finally:
        model.train(was_training)
    if not found:
        raise ValueError("there are no images to measure; give at least one")
    predictions_CS = torch.cat(found, dim=1)
    images_seen = predictions_CS.shape[1]
    if labels is not None and len(labels) != images_seen:
        raise ValueError(f"there are {images_seen} images and {len(labels)} labels; give one label per image")
    return Robustness(
        (CLEAN, *map(str, conditions)),
        _percent(predictions_CS == predictions_CS[0]),
        None if labels is None else _percent(predictions_CS == labels.cpu()),
        images_seen,
    )


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@torch.no_grad()
def _classify(model: nn.Module, images_BCHW: Tensor) -> Tensor:
    logits_BK: Tensor = model(images_BCHW)
    return logits_BK.argmax(dim=1).cpu()


def _percent(right_CS: Tensor) -> tuple[float, ...]:
    return tuple((100 * right_CS.double().mean(dim=1)).tolist())
