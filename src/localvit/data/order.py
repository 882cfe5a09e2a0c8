"""Which image is drawn when, and with which augmentation: a function of seed, epoch and position alone.

Nothing is drawn from a shared generator, so neither the number of loader processes nor an interruption changes what a
run learns from.
"""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from timm.data.distributed_sampler import RepeatAugSampler
from torch.utils.data import DistributedSampler, Sampler


class Draw(NamedTuple):
    """One image to load.

    Attributes:
        place: index of the image in its source.
        seed: seed of its augmentation; None for no augmentation.
        counted: whether it counts; images that only pad the share of a process do not.
    """

    place: int
    seed: int | None = None
    counted: bool = True


class TrainingOrder(Sampler[Draw]):
    """The training images of one process, reshuffled every epoch.

    Args:
        num_images: number of images in the source.
        seed: seed of the run.
        repeats: views of an image per epoch over all processes (repeated augmentation, arXiv 1901.09335). An epoch has
            equally many draws, and thus fewer images, if it is above 1.
        rank: rank of this process.
        world_size: number of processes.
    """

    def __init__(self, num_images: int, *, seed: int, repeats: int = 1, rank: int = 0, world_size: int = 1) -> None:
        images = range(num_images)
        self.indices: Sampler[int] = (
            DistributedSampler(images, world_size, rank, shuffle=True)  # type: ignore[arg-type]  # only its length
            if repeats == 1
            else RepeatAugSampler(images, world_size, rank, num_repeats=repeats)
        )
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch = self.skipped = 0

    def set_epoch(self, epoch: int) -> None:
        """Start ``epoch``, which Lightning announces; an epoch that was resumed keeps its position."""
        if epoch != self.epoch:
            self.epoch, self.skipped = epoch, 0

    def resume(self, epoch: int, draws: int) -> None:
        """Continue in the middle of ``epoch``, after its first ``draws``."""
        self.epoch, self.skipped = epoch, draws

    def __iter__(self) -> Iterator[Draw]:
        order_seed, augmentation_seed = np.random.SeedSequence([self.seed, self.epoch]).generate_state(2)
        self.indices.set_epoch(int(order_seed))  # type: ignore[attr-defined]  # both samplers have it
        seeds = np.random.default_rng(augmentation_seed).integers(2**32, size=len(self) * self.world_size)
        draws = zip(self.indices, seeds[self.rank :: self.world_size].tolist(), strict=False)
        return (Draw(place, seed) for place, seed in islice(draws, self.skipped, None))

    def __len__(self) -> int:
        return len(self.indices)  # type: ignore[arg-type]  # both samplers have a length


class EvaluationOrder(Sampler[Draw]):
    """Every ``world_size``-th image from number ``rank`` on, in the order of the source.

    All processes get equally many draws, because they wait for each other. The draws that pad a share are not counted.

    Args:
        num_images: number of images in the source.
        rank: rank of this process.
        world_size: number of processes.
    """

    def __init__(self, num_images: int, *, rank: int = 0, world_size: int = 1) -> None:
        self.num_images, self.rank, self.world_size = num_images, rank, world_size

    def __iter__(self) -> Iterator[Draw]:
        for place in range(self.rank, len(self) * self.world_size, self.world_size):
            counted = place < self.num_images
            yield Draw(place if counted else 0, counted=counted)

    def __len__(self) -> int:
        return -(-self.num_images // self.world_size)
