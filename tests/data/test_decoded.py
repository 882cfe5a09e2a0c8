"""Images decoded once: the same batches as decoding in every epoch, within what a crop of batches may round.

Shape suffixes: M images, H height, W width, C channels.
"""

import logging
import resource
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from localvit.data import NO_AUGMENTATION, AugmentationConfig, BrokenImageError, DataConfig, DataError, InputConfig
from localvit.data.dataset import Batch, ImageDataset
from localvit.data.decoded import DecodedDataset, DecodedImages, decode
from localvit.data.module import ImageData, TrainingLoader
from localvit.data.transforms import evaluation_pixels

SHOWN = InputConfig((8, 8), 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), crop_fraction=0.875)
GRAY = InputConfig((8, 8), 1, (0.3,), (0.37,))
CROPS = AugmentationConfig(policy=None, color_jitter=0.0, repeats=1)
PADDED = replace(CROPS, crop_padding=2)
POLICY = AugmentationConfig(repeats=1)


class Fake:
    """Random images in memory, of which some cannot be read; it counts how often it is read."""

    def __init__(
        self, num_images: int, *, broken: frozenset[int] = frozenset(), size: int = 12, odd: int | None = None
    ) -> None:
        generator = np.random.default_rng(0)
        self.pixels_MHWC = generator.integers(0, 256, (num_images, size, size, 3), dtype=np.uint8)
        self.labels_M = np.arange(num_images) % 7
        self.class_names = tuple("abcdefg")
        self.broken, self.odd, self.reads, self.mode = broken, odd, 0, "RGB"

    def read(self, index: int) -> Image.Image:
        self.reads += 1
        if index in self.broken:
            raise BrokenImageError(self.name(index), "is truncated")
        image = Image.fromarray(self.pixels_MHWC[index]).convert(self.mode)
        return image.resize((13, 12)) if index == self.odd else image

    def name(self, index: int) -> str:
        return f"train/{index:03}.jpg"


def images(
    source: Fake,
    *,
    memory_gib: float = 1.0,
    augmentation: AugmentationConfig = CROPS,
    shown: InputConfig = SHOWN,
    workers: int = 0,
    on_broken: Literal["stop", "skip"] = "skip",
) -> ImageData:
    data = DataConfig(on_broken=on_broken, memory_gib=memory_gib)
    return ImageData(
        source, data, shown, batch_size=4, workers=workers, train=source, augmentation=augmentation, seed=3
    )


def epoch(loader: TrainingLoader, number: int) -> list[Batch]:
    loader.order.set_epoch(number)
    return list(loader)


def same(a: Batch, b: Batch) -> bool:
    return a.broken == b.broken and all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True))


@pytest.mark.parametrize("shown", [SHOWN, GRAY, replace(SHOWN, image_size=(16, 10), interpolation="bilinear")])
def test_evaluation_shows_exactly_the_same(shown: InputConfig) -> None:
    source = Fake(22, broken=frozenset({0, 3, 21}))
    source.mode = "RGB" if shown.channels == 3 else "L"
    decoded = images(source, shown=shown).val_dataloader()
    again = images(source, shown=shown, memory_gib=0).val_dataloader()
    assert isinstance(decoded.dataset, DecodedDataset)
    assert isinstance(again.dataset, ImageDataset)
    found, expected = list(decoded), list(again)
    assert len(found) == len(expected) == 3
    for batch, other in zip(found, expected, strict=True):
        assert same(batch, other)
        assert batch.images_BCHW.dtype == other.images_BCHW.dtype
        assert batch.labels_B.dtype == other.labels_B.dtype


def test_images_are_decoded_once_in_a_run() -> None:
    source = Fake(20)
    data = images(source)
    for number in range(3):
        assert len(epoch(data.train_dataloader(), number)) == 5
        assert len(list(data.val_dataloader())) == 3
    assert source.reads <= 2 * (20 + 3)  # the part to train on and the part to validate, and a look at three images


def test_training_draws_the_same_images_in_the_same_order_and_skips_the_same_broken_ones() -> None:
    source = Fake(22, broken=frozenset({0, 4, 5, 6, 21}))
    decoded, again = (images(source, memory_gib=gib).train_dataloader() for gib in (1.0, 0.0))
    assert isinstance(decoded.dataset, DecodedDataset)
    for number in range(2):
        for batch, other in zip(epoch(decoded, number), epoch(again, number), strict=True):
            assert torch.equal(batch.labels_B, other.labels_B)
            assert torch.equal(batch.indices_B, other.indices_B)
            assert torch.equal(batch.counted_B, other.counted_B)
            assert batch.broken == other.broken
            assert batch.images_BCHW.dtype == other.images_BCHW.dtype == torch.uint8


def test_with_everything_off_training_shows_the_same_pixels() -> None:
    shown = replace(SHOWN, image_size=(12, 12))
    source = Fake(16, broken=frozenset({3}))
    decoded, again = (
        images(source, memory_gib=gib, augmentation=NO_AUGMENTATION, shown=shown).train_dataloader()
        for gib in (1.0, 0.0)
    )
    assert all(same(*pair) for pair in zip(epoch(decoded, 0), epoch(again, 0), strict=True))


@pytest.mark.parametrize("augmentation", [CROPS, PADDED, POLICY, replace(CROPS, color_jitter=0.4)])
def test_a_policy_is_applied_image_by_image_to_decoded_images(augmentation: AugmentationConfig) -> None:
    source = Fake(12, broken=frozenset({5}))
    loader = images(source, augmentation=augmentation).train_dataloader()
    if augmentation in (CROPS, PADDED):
        assert isinstance(loader.dataset, DecodedDataset)
        return
    assert isinstance(loader.dataset, ImageDataset)
    assert isinstance(loader.dataset.source, DecodedImages)
    again = images(source, augmentation=augmentation, memory_gib=0).train_dataloader()
    assert all(same(*pair) for pair in zip(epoch(loader, 1), epoch(again, 1), strict=True))


@pytest.mark.parametrize("augmentation", [CROPS, PADDED, POLICY])
def test_batches_do_not_depend_on_the_number_of_loading_processes(augmentation: AugmentationConfig) -> None:
    source = Fake(14, broken=frozenset({2}))
    alone, shared = (images(source, augmentation=augmentation, workers=n).train_dataloader() for n in (0, 2))
    assert all(same(*pair) for pair in zip(epoch(alone, 1), epoch(shared, 1), strict=True))
    alone_val, shared_val = (list(images(source, workers=n).val_dataloader()) for n in (0, 2))
    assert all(same(*pair) for pair in zip(alone_val, shared_val, strict=True))


@pytest.mark.parametrize("done", [1, 3])
@pytest.mark.parametrize("augmentation", [CROPS, PADDED])
def test_a_loader_goes_on_with_exactly_the_batches_that_were_left(augmentation: AugmentationConfig, done: int) -> None:
    source = Fake(23)
    whole = epoch(images(source, augmentation=augmentation).train_dataloader(), 6)
    resumed = images(source, augmentation=augmentation).train_dataloader()
    resumed.load_state_dict({"epoch": 6, "batches": done})
    assert all(same(*pair) for pair in zip(epoch(resumed, 6), whole[done:], strict=True))


def test_padded_crops_resize_images_of_any_size_before_they_are_kept() -> None:
    source = Fake(10, odd=4)
    assert isinstance(images(source, augmentation=PADDED).train_dataloader().dataset, DecodedDataset)
    assert isinstance(images(source, augmentation=CROPS).train_dataloader().dataset, ImageDataset)


@pytest.mark.parametrize("odd", [0, 3, 9])
def test_images_of_several_sizes_are_not_kept(odd: int) -> None:
    data = images(Fake(10, odd=odd))
    assert isinstance(data.train_dataloader().dataset, ImageDataset)
    assert isinstance(data.val_dataloader().dataset, DecodedDataset)  # it resizes them all


def test_images_that_do_not_fit_are_decoded_in_every_epoch_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fits = 16 * 3 * 12 * 12 / 2**30
    source = Fake(16)
    assert isinstance(images(source, memory_gib=fits).train_dataloader().dataset, DecodedDataset)
    assert not caplog.records
    assert isinstance(images(source, memory_gib=0.999 * fits).train_dataloader().dataset, ImageDataset)
    assert "more than data.memory_gib" in caplog.text
    assert "decoded again in every epoch" in caplog.text
    caplog.clear()
    images(source, memory_gib=0).train_dataloader()  # as it was asked for
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("workers", [0, 1])
def test_large_images_are_cropped_one_by_one(workers: int) -> None:
    source = Fake(6, size=129)
    large = images(source, workers=workers).train_dataloader()
    assert isinstance(large.dataset, ImageDataset)
    assert large.num_workers == workers
    assert (large.dataset.source is source) == (workers > 0)
    small = images(Fake(6, size=128), workers=workers).train_dataloader()
    assert isinstance(small.dataset, DecodedDataset)
    assert small.num_workers == 0


def test_a_single_evaluation_decodes_as_it_goes() -> None:
    data = ImageData(Fake(6), DataConfig(), SHOWN, batch_size=2, workers=0)
    assert isinstance(data.val_dataloader().dataset, ImageDataset)


def test_a_broken_image_stops_when_it_is_drawn() -> None:
    data = images(Fake(8, broken=frozenset({6})), on_broken="stop")
    broken = next(batch for batch in data.train_dataloader() if batch.broken)
    with pytest.raises(DataError, match=r"train/006\.jpg: is truncated.*--data\.on_broken skip"):
        data.on_before_batch_transfer(broken, 0)


def test_loader_processes_decode_with_few_open_files() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    source = Fake(2000, broken=frozenset({1500}))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (400, limits[1]))
        shared = decode(source, evaluation_pixels(SHOWN), memory_gib=1, workers=2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    alone = decode(source, evaluation_pixels(SHOWN), memory_gib=1, workers=0)
    assert shared is not None
    assert alone is not None
    assert torch.equal(shared.pixels_MCHW, alone.pixels_MCHW)
    assert list(shared.broken) == list(alone.broken) == [1500]


def test_nothing_is_kept_of_images_that_are_all_broken() -> None:
    everything = frozenset(range(8))
    assert decode(Fake(8, broken=everything), evaluation_pixels(SHOWN), memory_gib=1, workers=0) is None


def test_a_decoded_broken_image_keeps_its_error() -> None:
    decoded = decode(Fake(8, broken=frozenset({6})), evaluation_pixels(SHOWN), memory_gib=1, workers=0)
    assert decoded is not None
    with pytest.raises(BrokenImageError) as raised:
        decoded.read(6)
    assert (raised.value.name, raised.value.reason) == ("train/006.jpg", "is truncated")
    assert decoded.name(2) == "train/002.jpg"


@pytest.mark.parametrize(
    ("arguments", "message"), [({"memory_gib": -1}, "memory_gib is -1"), ({"validation": 1.0}, "validation is 1")]
)
def test_settings_that_cannot_be_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**arguments)
