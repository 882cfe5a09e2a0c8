"""Compares an exported model with the original on images: largest difference, same class, accuracy.

Shape suffixes: B images of a batch, M images, C channels, H x W pixels, K classes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from localvit.system.errors import LocalViTError

# Of the larger of 1 and the largest logit: rounding in float32, in another order.
_ROUNDING = 1e-4
_SAME_CLASS_INT8 = 90.0  # percent of the images, where accuracy is not known


@dataclass(frozen=True)
class Agreement:
    """What an exported model and the original answer to the same images.

    Attributes:
        images: number of images.
        largest_difference: of two logits.
        largest_logit: of the original, by absolute value.
        same_class: percent of the images with the same most probable class.
        flipped: number of images whose class changed, although the original's two best logits differ by more than
            twice ``largest_difference``'s allowance.
        accuracy: of the original, in percent; None without labels.
        exported_accuracy: of the exported model.
    """

    images: int
    largest_difference: float
    largest_logit: float
    same_class: float
    flipped: int
    accuracy: float | None = None
    exported_accuracy: float | None = None

    @property
    def allowance(self) -> float:
        """The largest difference that rounding explains."""
        return _ROUNDING * max(1.0, self.largest_logit)

    @property
    def drop(self) -> float | None:
        """Points of accuracy that the export costs; None without labels."""
        if self.accuracy is None or self.exported_accuracy is None:
            return None
        return self.accuracy - self.exported_accuracy

    def costs_more_than(self, most_drop: float) -> bool:
        """Whether the export is known to cost more points of accuracy; a NaN does."""
        return self.drop is not None and not self.drop <= most_drop

    def require(self, *, int8: bool, most_drop: float) -> None:
        """Raise unless the exported model may stand for the original.

        Args:
            int8: whether rounding to 8 bits is expected.
            most_drop: points of accuracy that int8 may cost.

        Raises:
            LocalViTError: says what differs, and by how much.
        """
        if not int8:
            if not self.largest_difference <= self.allowance or self.flipped:
                raise LocalViTError(
                    f"the exported model differs from the original: a logit by {self.largest_difference:g}, where "
                    f"{self.allowance:g} is allowed, and the class of {self.flipped} of {self.images} images"
                )
        elif self.costs_more_than(most_drop):
            raise LocalViTError(
                f"int8 costs {self.drop:.2f} points of accuracy ({self.accuracy:.2f} to {self.exported_accuracy:.2f} % "
                f"of {self.images} images), and at most {most_drop:g} are allowed; --max-drop allows more"
            )
        elif self.drop is None and not self.same_class >= _SAME_CLASS_INT8:
            raise LocalViTError(
                f"int8 changes the class of {100 - self.same_class:.1f} % of the {self.images} images, and "
                f"{100 - _SAME_CLASS_INT8:g} % are allowed; with labeled images, --max-drop decides"
            )


def agreement(
    model: nn.Module,
    exported: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    labeled: bool,
    watch: Callable[[int], object] = lambda images: None,
) -> Agreement:
    """Compare two models.

    Args:
        model: the original, images (B, C, H, W) to logits (B, K).
        exported: the other.
        batches: images (B, C, H, W) and classes (B,).
        labeled: whether the classes are known.
        watch: called with the number of images after each batch.

    Raises:
        LocalViTError: if there is no image.
    """
    answers: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.inference_mode():
        for images_BCHW, labels_B in batches:
            answers.append((model(images_BCHW).float(), exported(images_BCHW).float(), labels_B))
            watch(len(images_BCHW))
    if not answers:
        raise LocalViTError("there is no image to compare the exported model on")
    ours_MK, theirs_MK, labels_M = (torch.cat(parts) for parts in zip(*answers, strict=True))
    # A NaN anywhere makes the largest difference NaN, which no comparison accepts.
    difference, largest = float((ours_MK - theirs_MK).abs().max()), float(ours_MK.abs().max())
    same_M = ours_MK.argmax(1) == theirs_MK.argmax(1)
    best_M2 = ours_MK.topk(min(2, ours_MK.shape[1]), dim=1).values
    clear_M = best_M2[:, 0] - best_M2[:, -1] > 2 * _ROUNDING * max(1.0, largest)
    accuracies = [100 * float((logits_MK.argmax(1) == labels_M).float().mean()) for logits_MK in (ours_MK, theirs_MK)]
    return Agreement(
        images=len(labels_M),
        largest_difference=difference,
        largest_logit=largest,
        same_class=100 * float(same_M.float().mean()),
        flipped=int((~same_M & clear_M).sum()),
        accuracy=accuracies[0] if labeled else None,
        exported_accuracy=accuracies[1] if labeled else None,
    )
