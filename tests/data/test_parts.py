"""Holding out, the first images and the checks, against plain loops."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localvit.data import DataConfig, DataError
from localvit.data.sources import open_parts, open_val
from localvit.data.sources.parts import hold_out


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=80),
    share=st.floats(0, 1, exclude_min=True, exclude_max=True),
)
def test_hold_out_takes_the_last_of_every_class(labels: list[int], share: float) -> None:
    by_class = {label: [place for place, other in enumerate(labels) if other == label] for label in set(labels)}
    names = ("a", "b", "c", "d", "e", "f")
    if any(len(places) == 1 for places in by_class.values()):
        with pytest.raises(DataError, match="only one image"):
            hold_out(np.array(labels), share, names)
        return
    train_M, val_M = hold_out(np.array(labels), share, names)
    learned, held = set(train_M.tolist()), set(val_M.tolist())
    assert sorted([*train_M, *val_M]) == list(range(len(labels)))
    assert list(train_M) == sorted(train_M)
    assert list(val_M) == sorted(val_M)
    for places in by_class.values():
        here = [place for place in places if place in held]
        assert here == places[-len(here) :]
        assert learned.intersection(places)
        assert abs(len(here) - share * len(places)) <= 0.5 or len(here) in (1, len(places) - 1)


def test_hold_out_names_the_class_of_one_image() -> None:
    with pytest.raises(DataError, match=r"but dog has only one image"):
        hold_out(np.array([0, 0, 1]), 0.5, ("cat", "dog"))


def test_digits_are_the_scans_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    parts = open_parts(DataConfig(source="digits", held_out=0.25), channels=1)
    raw = load_digits()
    assert parts.train.class_names == tuple("0123456789")
    assert len(parts.train.labels_M) + len(parts.val.labels_M) == 1797
    image = parts.train.read(0)
    assert (image.mode, image.size) == ("L", (8, 8))
    assert np.abs(np.asarray(image) / 255 - raw.images[0] / 16).max() <= 0.5 / 255
    counts, all_counts = np.bincount(parts.val.labels_M), np.bincount(raw.target)
    assert np.abs(counts - 0.25 * all_counts).max() <= 0.5
    assert open_val(DataConfig(source="digits", held_out=0.25), channels=3).read(0).mode == "RGB"


def test_digits_need_a_share() -> None:
    with pytest.raises(DataError, match=r"--data\.held_out 0\.25"):
        open_parts(DataConfig(source="digits"), channels=1)
    with pytest.raises(DataError, match=r"--data\.held_out 0\.25"):
        open_val(DataConfig(source="digits"), channels=1)


def test_train_images_are_the_first() -> None:
    whole = open_parts(DataConfig(source="digits", held_out=0.5), channels=1).train
    first = open_parts(DataConfig(source="digits", held_out=0.5, train_images=40), channels=1).train
    assert first.labels_M.tolist() == whole.labels_M[:40].tolist()
    assert first.name(39) == whole.name(39)
    with pytest.raises(DataError, match=r"train_images is 5,000, but scikit-learn's digits has \d+ such images"):
        open_parts(DataConfig(source="digits", held_out=0.5, train_images=5000), channels=1)


def test_held_out_images_can_be_limited_too() -> None:
    whole = open_val(DataConfig(source="digits", held_out=0.5), channels=1)
    few = DataConfig(source="digits", held_out=0.5, val_images=30)
    assert open_val(few, channels=1).labels_M.tolist() == whole.labels_M[:30].tolist()
    parts = open_parts(few, channels=1)
    assert len(parts.val.labels_M) == 30
    assert len(parts.train.labels_M) > 800


def test_only_some_classes_are_numbered_anew_in_both_parts() -> None:
    parts = open_parts(DataConfig(source="digits", held_out=0.5, classes=("7", "2")), channels=1)
    whole = open_parts(DataConfig(source="digits", held_out=0.5), channels=1)
    for part, all_of_it in ((parts.train, whole.train), (parts.val, whole.val)):
        assert part.class_names == ("2", "7")
        wanted = [place for place, label in enumerate(all_of_it.labels_M) if label in (2, 7)]
        assert part.labels_M.tolist() == [int(all_of_it.labels_M[place] == 7) for place in wanted]
        assert [part.name(index) for index in range(len(wanted))] == [all_of_it.name(place) for place in wanted]
    message = r"classes has ten, but scikit-learn's digits has 0, 1, .*"
    with pytest.raises(DataError, match=message):
        open_parts(DataConfig(source="digits", held_out=0.5, classes=("ten", "2")), channels=1)
    with pytest.raises(ValueError, match="a class is named twice"):
        DataConfig(source="digits", classes=("2", "2"))


def test_a_source_needs_its_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--data\.root"):
        open_parts(DataConfig(source="parquet"), channels=3)
    with pytest.raises(DataError, match="nowhere does not exist"):
        open_parts(DataConfig(root=str(tmp_path / "nowhere")), channels=3)
