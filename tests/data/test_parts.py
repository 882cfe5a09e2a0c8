"""Training, validation and test parts and their checks, against plain loops."""

import itertools
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from localvit.data import DataConfig, DataError, ImageSource
from localvit.data.sources import open_parts, open_val, opening
from localvit.data.sources.parts import hold_out
from localvit.data.sources.request import Request


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


class Labels:
    """A source of labels alone."""

    def __init__(self, labels: list[int]) -> None:
        self.labels_M = np.array(labels, np.int64)
        self.class_names = tuple("abcd")

    def read(self, index: int) -> Image.Image:
        return Image.new("L", (1, 1), index)

    def name(self, index: int) -> str:
        return str(index)


def paint(folder: Path, each: int) -> None:
    for kind, index in itertools.product("abc", range(each)):
        file = folder / kind / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), index).save(file)


def names(source: ImageSource) -> list[str]:
    return [source.name(index) for index in range(len(source.labels_M))]


def labels_of(source: ImageSource) -> dict[str, str]:
    return {source.name(index): source.class_names[label] for index, label in enumerate(source.labels_M.tolist())}


shares = st.floats(0.01, 0.95)


@settings(deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=80),
    held_labels=st.lists(st.integers(0, 3), min_size=1, max_size=80),
    held_out=st.just(0.0) | shares,
    validation=shares,
    classes=st.none() | st.sets(st.sampled_from("abcd"), min_size=2),
)
def test_the_three_parts_are_disjoint_and_have_every_image(
    labels: list[int], held_labels: list[int], held_out: float, validation: float, classes: set[str] | None
) -> None:
    labels, held_labels = ([*range(4)] * 3 + some for some in (labels, held_labels))  # each class may be cut twice
    config = DataConfig(
        source="digits", held_out=held_out, validation=validation, classes=tuple(classes) if classes else None
    )

    def open_labels(request: Request) -> ImageSource:
        return Labels(labels if request.part == "train" else held_labels)

    with patch.dict(opening._OPENERS, {"digits": open_labels}):
        without = open_parts(replace(config, validation=0.0), channels=1)
        if np.bincount(without.train.labels_M).min() == 1:
            with pytest.raises(DataError, match=r"validation is .* only one image"):
                open_parts(config, channels=1)
            return
        parts, held = open_parts(config, channels=1), open_val(config, channels=1)
    assert parts.test is not None
    assert without.test is None
    assert names(parts.test) == names(without.val) == names(held)  # the test part does not depend on the other cut
    together = [*names(parts.train), *names(parts.val)]
    assert len(together) == len(set(together))
    assert set(together) == set(names(without.train))
    if held_out:
        assert not set(together) & set(names(parts.test))
        kept = "abcd" if classes is None else classes
        assert len(together) + len(names(parts.test)) == sum("abcd"[label] in kept for label in labels)
    expected = labels_of(without.train)
    for part in (parts.train, parts.val):
        assert part.class_names == without.train.class_names == parts.test.class_names
        assert labels_of(part).items() <= expected.items()
        assert set(part.labels_M.tolist()) == set(range(len(part.class_names)))  # every class is in every part


@settings(max_examples=8, deadline=None)
@given(held_out=st.floats(0.01, 0.6), validation=shares)
@pytest.mark.parametrize("source", ["digits", "folder", "root"])
def test_the_parts_of_every_source_are_disjoint(
    source: str, held_out: float, validation: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = DataConfig(source="digits", held_out=held_out, validation=validation)
    if source != "digits":
        root = tmp_path_factory.mktemp("set")
        for part in ("train", "val"):
            paint(root / part if source == "folder" else root, 6)
        held_out = 0.0 if source == "folder" else held_out
        config = DataConfig(
            root=str(root), cache=str(tmp_path_factory.mktemp("cache")), held_out=held_out, validation=validation
        )
    parts = open_parts(config, channels=1)
    assert parts.test is not None
    assert names(parts.test) == names(open_val(config, channels=1))
    of_each = [set(names(part)) for part in (parts.train, parts.val, parts.test)]
    assert all(of_each)
    assert sum(map(len, of_each)) == len(set.union(*of_each)) == {"digits": 1797, "folder": 36, "root": 18}[source]


def test_validation_is_the_end_of_every_class_and_cut_before_the_training_images_are_limited() -> None:
    config = DataConfig(source="digits", held_out=0.25, validation=0.2)
    parts, few = open_parts(config, channels=1), open_parts(replace(config, train_images=100), channels=1)
    assert names(few.val) == names(parts.val)
    assert names(few.train) == names(parts.train)[:100]
    rest = open_parts(replace(config, validation=0.0), channels=1).train
    for label in range(10):
        of_class = [name for name, of in zip(names(rest), rest.labels_M.tolist(), strict=True) if of == label]
        held = [name for name, of in zip(names(parts.val), parts.val.labels_M.tolist(), strict=True) if of == label]
        assert held == of_class[-len(held) :]
        assert abs(len(held) - 0.2 * len(of_class)) <= 0.5


def test_a_class_too_small_for_validation_is_named() -> None:
    labels = [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]  # one of the first class is left after holding out
    with (
        patch.dict(opening._OPENERS, {"digits": lambda request: Labels(labels)}),
        pytest.raises(DataError, match=r"validation is 0\.5, but a has only one image"),
    ):
        open_parts(DataConfig(source="digits", held_out=0.3, validation=0.5), channels=1)
