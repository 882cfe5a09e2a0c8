"""Broken images, what a draw decides, and batches that go on in the middle of an epoch.

Shape suffixes: B images of a batch, C channels, H height, W width, M images.
"""

import pickle
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from localvit.data import AugmentationConfig, BrokenImageError, DataConfig, DataError, InputConfig
from localvit.data.augmentation import training_transform
from localvit.data.dataset import Batch, ImageDataset, collate
from localvit.data.module import ImageData, TrainingLoader
from localvit.data.order import Draw, TrainingOrder
from localvit.data.transforms import evaluation_transform

SHOWN = InputConfig((8, 8), 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), crop_fraction=1.0)
EMPTY_CHW = torch.zeros(3, 8, 8)


class Fake:
    """Random images of 12 x 12 pixels in memory, of which some cannot be read."""

    def __init__(self, num_images: int, broken: frozenset[int] = frozenset()) -> None:
        generator = np.random.default_rng(0)
        self.pixels_MHWC = generator.integers(0, 256, (num_images, 12, 12, 3), dtype=np.uint8)
        self.labels_M = np.arange(num_images) % 7
        self.class_names = tuple("abcdefg")
        self.broken = broken

    def read(self, index: int) -> Image.Image:
        if index in self.broken:
            raise BrokenImageError(self.name(index), "cannot identify image file")
        return Image.fromarray(self.pixels_MHWC[index])

    def name(self, index: int) -> str:
        return f"train/{index:03}.jpg"


def dataset(source: Fake, *, augmentation: AugmentationConfig | None = None) -> ImageDataset:
    transform = training_transform(SHOWN, augmentation or AugmentationConfig())
    return ImageDataset(source, transform, empty_CHW=EMPTY_CHW)


def images(
    source: Fake,
    *,
    batch_size: int = 4,
    workers: int = 0,
    repeats: int = 1,
    on_broken: Literal["stop", "skip"] = "stop",
    seed: int = 3,
) -> ImageData:
    return ImageData(
        source,
        DataConfig(on_broken=on_broken),
        SHOWN,
        batch_size=batch_size,
        workers=workers,
        train=source,
        augmentation=AugmentationConfig(repeats=repeats),
        seed=seed,
    )


def same(a: Batch, b: Batch) -> bool:
    return a.broken == b.broken and all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("part", ["train", "val"])
def test_a_broken_image_stops_with_its_name_and_the_option_that_leaves_it_out(part: str, workers: int) -> None:
    data = images(Fake(8, frozenset({6})), workers=workers)
    loader = data.train_dataloader() if part == "train" else data.val_dataloader()
    broken = next(batch for batch in loader if batch.broken)
    with pytest.raises(DataError, match=r"train/006\.jpg: cannot identify image file.*--data\.on_broken skip"):
        data.on_before_batch_transfer(broken, 0)


def test_a_broken_image_keeps_its_name_and_reason_between_processes() -> None:
    error = BrokenImageError("a.jpg", "truncated")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    assert (type(again), str(again), again.name, again.reason) == (type(error), str(error), "a.jpg", "truncated")


def test_training_takes_the_next_that_can_be_read_and_lists_those_that_cannot() -> None:
    source = Fake(6, frozenset({2, 3}))
    found = dataset(source)[Draw(2, 11)]
    assert (found.place, found.label, found.counted) == (4, 4, True)
    assert [name.split(":")[0] for name in found.broken] == ["train/002.jpg", "train/003.jpg"]
    whole = dataset(Fake(6))[Draw(4, 11)]
    assert torch.equal(found.image_CHW, whole.image_CHW)  # with the augmentation of the draw
    last = dataset(Fake(6, frozenset({5})))[Draw(5, 1)]
    assert last.place == 0  # after the last comes the first


def test_evaluation_does_not_count_an_image_that_cannot_be_read() -> None:
    source = Fake(5, frozenset({1, 4}))
    held_out = ImageDataset(source, evaluation_transform(SHOWN), empty_CHW=EMPTY_CHW)
    batch = collate([held_out[Draw(index)] for index in range(5)])
    assert batch.counted_B.tolist() == [True, False, True, True, False]
    assert batch.indices_B.tolist() == batch.labels_B.tolist() == [0, 1, 2, 3, 4]
    assert [name.split(":")[0] for name in batch.broken] == ["train/001.jpg", "train/004.jpg"]
    assert torch.equal(batch.images_BCHW[1], EMPTY_CHW)


def test_an_image_that_fills_up_is_neither_read_nor_counted() -> None:
    found = dataset(Fake(2, frozenset({0})))[Draw(0, counted=False)]
    assert not found.counted
    assert found.broken == ()


def test_a_hundred_broken_images_in_a_row_end_the_run() -> None:
    ended = dataset(Fake(300, frozenset(range(5, 105))))[Draw(5, 0)]
    assert not ended.counted
    assert len(ended.broken) == 100
    assert ended.broken[-1].startswith("train/104.jpg")
    assert dataset(Fake(300, frozenset(range(5, 104))))[Draw(5, 0)].place == 104
    assert len(dataset(Fake(4, frozenset(range(4))))[Draw(1, 0)].broken) == 4


def test_a_draw_decides_its_sample_whatever_was_drawn_before() -> None:
    augmentation = AugmentationConfig(color_jitter=0.4)
    draws = list(TrainingOrder(9, seed=0))
    forward, backward = dataset(Fake(9), augmentation=augmentation), dataset(Fake(9), augmentation=augmentation)
    torch.manual_seed(0)
    found = {draw: forward[draw] for draw in draws}
    torch.manual_seed(99)
    np.random.seed(99)
    for draw in reversed(draws):
        torch.rand(3)
        again = backward[draw]
        assert torch.equal(again.image_CHW, found[draw].image_CHW)
        assert again[1:] == found[draw][1:]


def test_an_image_is_augmented_differently_for_different_seeds() -> None:
    of_one = dataset(Fake(3))
    views = [of_one[Draw(1, seed)].image_CHW for seed in range(20)]
    assert len({view.numpy().tobytes() for view in views}) == 20


def test_labels_and_places_stay_with_their_images() -> None:
    source = Fake(30)
    plain = AugmentationConfig(crop_scale=(1, 1), crop_ratio=(1, 1), horizontal_flip=0, policy=None, color_jitter=0)
    shown = InputConfig((12, 12))
    of_all = ImageDataset(source, training_transform(shown, plain), empty_CHW=EMPTY_CHW)
    loader = TrainingLoader(of_all, TrainingOrder(30, seed=1), batch_size=5)
    seen: list[int] = []
    for batch in loader:
        for image_CHW, label, index in zip(batch.images_BCHW, batch.labels_B, batch.indices_B, strict=True):
            assert np.array_equal(image_CHW.permute(1, 2, 0).numpy(), source.pixels_MHWC[index])
            assert label == source.labels_M[index]
            seen.append(int(index))
    assert sorted(seen) == list(range(30))


def test_batches_do_not_depend_on_the_number_of_loading_processes() -> None:
    source = Fake(22, frozenset(range(0, 22, 4)))
    by_workers: dict[int, list[Batch]] = {}
    for workers in (0, 2):
        loader = images(source, workers=workers, repeats=3, on_broken="skip").train_dataloader()
        by_workers[workers] = []
        for epoch in (0, 1):
            loader.order.set_epoch(epoch)
            by_workers[workers] += list(loader)
    assert len(by_workers[0]) == 2 * 5
    assert any(batch.broken for batch in by_workers[0])
    assert all(same(a, b) for a, b in zip(by_workers[0], by_workers[2], strict=True))


def test_validation_batches_do_not_depend_on_the_number_of_loading_processes() -> None:
    source = Fake(22, frozenset({3}))
    alone, shared = (list(images(source, workers=n, on_broken="skip").val_dataloader()) for n in (0, 2))
    assert all(same(a, b) for a, b in zip(alone, shared, strict=True))
    assert torch.cat([batch.indices_B for batch in alone]).tolist() == list(range(22))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [1, 3, 4])
def test_a_loader_goes_on_with_exactly_the_batches_that_were_left(workers: int, done: int) -> None:
    source = Fake(23)
    loader = images(source, workers=workers).train_dataloader()
    loader.order.set_epoch(6)
    batches = iter(loader)
    for _ in range(done):
        next(batches)
    state = loader.state_dict()  # other processes have read ahead by now
    rest = list(batches)
    assert len(rest) == 5 - done

    resumed = images(source, workers=workers).train_dataloader()
    resumed.load_state_dict(state)
    resumed.order.set_epoch(6)
    found = list(resumed)
    assert len(found) == len(rest)
    assert all(same(a, b) for a, b in zip(found, rest, strict=True))

    for continued in (loader, resumed):
        continued.order.set_epoch(7)
    assert all(same(a, b) for a, b in zip(loader, resumed, strict=True))


def test_the_state_of_a_loader_that_goes_on_counts_from_the_start_of_the_epoch() -> None:
    resumed = images(Fake(23)).train_dataloader()
    resumed.load_state_dict({"epoch": 6, "batches": 2})
    resumed.order.set_epoch(6)
    batches = iter(resumed)
    next(batches)
    assert resumed.state_dict() == {"epoch": 6, "batches": 3}


def test_after_the_last_batch_a_loader_goes_on_with_the_next_epoch() -> None:
    def started(data: ImageData) -> tuple[TrainingLoader, Iterator[Batch]]:
        loader = data.train_dataloader()
        return loader, iter(loader)

    loader, batches = started(images(Fake(23)))
    for _ in range(5):
        next(batches)
    resumed = images(Fake(23)).train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    resumed.order.set_epoch(1)
    loader.order.set_epoch(1)
    expected, found = list(loader), list(resumed)
    assert len(expected) == len(found) == 5
    assert all(same(a, b) for a, b in zip(expected, found, strict=True))


def test_a_batch_larger_than_the_data_is_refused_with_both_numbers() -> None:
    with pytest.raises(DataError, match=r"batch_size is 24, but each of 1 process.* has only 23 training images"):
        images(Fake(23), batch_size=24).train_dataloader()
    assert len(images(Fake(23), batch_size=23).train_dataloader()) == 1
