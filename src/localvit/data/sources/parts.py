"""A part to learn from and a part held out, and what must be true of them before anything is trained.

Shape suffix: M images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from localvit.data.source import DataError, ImageSource
from localvit.system.suggestions import did_you_mean

_MOST_NAMED = 5


@dataclass(frozen=True)
class Parts:
    """The images of a run, with the same classes in the same order.

    Attributes:
        train: the part to learn from.
        val: the part held out.
    """

    train: ImageSource
    val: ImageSource


class Part:
    """Some images of a source: an :class:`~localvit.data.source.ImageSource`.

    Args:
        source: of the images.
        indices_M: which of them, in their order.
        class_names: of other classes than the source's, and then
        class_of_label_K: the number among them of each class of the source.
    """

    def __init__(
        self,
        source: ImageSource,
        indices_M: NDArray[np.int64],
        *,
        class_names: tuple[str, ...] | None = None,
        class_of_label_K: NDArray[np.int64] | None = None,
    ) -> None:
        self.source = source
        self.indices_M = indices_M
        self.class_names = source.class_names if class_names is None else class_names
        labels_M = source.labels_M[indices_M]
        self.labels_M = labels_M if class_of_label_K is None else class_of_label_K[labels_M]

    def __str__(self) -> str:
        return str(self.source)

    def read(self, index: int) -> Image.Image:
        return self.source.read(int(self.indices_M[index]))

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices_M[index]))


def hold_out(
    labels_M: NDArray[np.int64], share: float, class_names: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the images to learn from and of those held out: the last of every class.

    The last ones, because photographs of one series lie next to each other: a random choice would hold out near copies
    of what is learned.

    Args:
        labels_M: class of each image.
        share: of each class that is held out, rounded; at least one image is, and at least one is not.
        class_names: of the classes.

    Raises:
        DataError: for a class of one image.
    """
    counts_K = np.bincount(labels_M, minlength=len(class_names))
    if single := [class_names[label] for label in np.flatnonzero(counts_K == 1).tolist()]:
        raise DataError(
            f"held_out is {share}, and {listed(single)} has only one image; a class needs one to learn from and "
            "one to hold out"
        )
    held_K = np.clip(np.rint(counts_K * share).astype(np.int64), 1, np.maximum(counts_K - 1, 1))
    by_class_M = np.argsort(labels_M, kind="stable")
    starts_K = np.cumsum(counts_K) - counts_K
    rank_M = np.empty(len(labels_M), np.int64)
    rank_M[by_class_M] = np.arange(len(labels_M)) - np.repeat(starts_K, counts_K)
    held_M = rank_M >= (counts_K - held_K)[labels_M]
    return np.flatnonzero(~held_M), np.flatnonzero(held_M)


def first_images(source: ImageSource, count: int, setting: str) -> Part:
    """The first ``count`` images, as ``setting`` asks for; :class:`DataError` where there are fewer."""
    available = len(source.labels_M)
    if count > available:
        raise DataError(f"{setting} is {count:,}, and {source} has {available:,} such images; make it smaller")
    return Part(source, np.arange(count))


def only_classes(source: ImageSource, classes: Sequence[str]) -> Part:
    """The images of ``classes``, whose labels are their places among those, in the order of the source.

    Raises:
        DataError: for a class that the source has not.
    """
    if missing := [name for name in classes if name not in source.class_names]:
        raise DataError(
            f"classes has {listed(missing)}, and {source} has {listed(source.class_names)}."
            f"{did_you_mean(missing[0], source.class_names)}"
        )
    kept = [label for label, name in enumerate(source.class_names) if name in set(classes)]
    class_of_label_K = np.full(len(source.class_names), -1)
    class_of_label_K[kept] = np.arange(len(kept))
    return Part(
        source,
        np.flatnonzero(np.isin(source.labels_M, kept)),
        class_names=tuple(source.class_names[label] for label in kept),
        class_of_label_K=class_of_label_K,
    )


def check(source: ImageSource, called: str) -> None:
    """Raise :class:`DataError` where there is no image, or a label outside the classes."""
    labels_M, classes = source.labels_M, len(source.class_names)
    if not len(labels_M):
        raise DataError(f"{called} has no images")
    wrong_M = labels_M[(labels_M < 0) | (labels_M >= classes)]
    if len(wrong_M):
        labels, counts = np.unique(wrong_M, return_counts=True)
        found = [f"label {label} ({count:,} images)" for label, count in zip(labels, counts, strict=True)]
        hint = "; -1 often marks a part without labels" if -1 in labels else ""
        raise DataError(f"{called} has {listed(found)}; the {classes} classes are 0 to {classes - 1}{hint}")


def check_classes(source: ImageSource, called: str, expected: Sequence[str]) -> None:
    """Raise :class:`DataError` unless the classes of ``source`` are the ``expected`` ones, in that order."""
    if tuple(source.class_names) == tuple(expected):
        return
    missing = [name for name in expected if name not in set(source.class_names)]
    unknown = [name for name in source.class_names if name not in set(expected)]
    differences = [f"lacks {listed(missing)}"] * bool(missing) + [f"has {listed(unknown)} besides"] * bool(unknown)
    raise DataError(
        f"{called} must have the {len(expected)} classes that are learned; it "
        f"{' and '.join(differences) or 'has them in another order'}"
    )


def listed(names: Sequence[str]) -> str:
    """The names, the first few of many."""
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
