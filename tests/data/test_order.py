"""Which image comes when, against counting and plain reference loops."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from localvit.data.order import Draw, EvaluationOrder, TrainingOrder

sizes, worlds = st.integers(1, 300), st.integers(1, 9)


def draws(
    num_images: int, *, seed: int = 0, epoch: int = 0, repeats: int = 1, rank: int = 0, world_size: int = 1
) -> list[Draw]:
    order = TrainingOrder(num_images, seed=seed, repeats=repeats, rank=rank, world_size=world_size)
    order.set_epoch(epoch)
    return list(order)


def of_all_processes(num_images: int, world_size: int, *, epoch: int = 0, repeats: int = 1) -> list[list[Draw]]:
    return [
        draws(num_images, epoch=epoch, repeats=repeats, rank=rank, world_size=world_size) for rank in range(world_size)
    ]


@given(num_images=sizes, world_size=worlds, epoch=st.integers(0, 1000))
def test_all_processes_together_see_every_image_once_but_for_what_fills_up(
    num_images: int, world_size: int, epoch: int
) -> None:
    by_rank = of_all_processes(num_images, world_size, epoch=epoch)
    each = -(-num_images // world_size)
    assert [len(of_one) for of_one in by_rank] == [each] * world_size
    counts = Counter(draw.place for of_one in by_rank for draw in of_one)
    assert set(counts) == set(range(num_images))
    assert sum(counts.values()) - num_images == each * world_size - num_images < world_size
    # In the order of the places (rank 0's first, rank 1's first, ...), the images come once before any comes again.
    in_order = [draw.place for at_once in zip(*by_rank, strict=True) for draw in at_once]
    assert sorted(in_order[:num_images]) == list(range(num_images))


@given(num_images=sizes, world_size=worlds, repeats=st.integers(1, 4), epoch=st.integers(0, 5))
def test_no_two_draws_of_an_epoch_are_augmented_from_one_seed(
    num_images: int, world_size: int, repeats: int, epoch: int
) -> None:
    by_rank = of_all_processes(num_images, world_size, epoch=epoch, repeats=repeats)
    seeds = [draw.seed for of_one in by_rank for draw in of_one]
    assert None not in seeds
    assert all(draw.counted for of_one in by_rank for draw in of_one)
    # 32 bits: among at most a few hundred draws a pair may be equal by chance, more than one pair is no chance.
    assert len(seeds) - len(set(seeds)) <= 1


@pytest.mark.parametrize("repeats", [1, 3])
def test_order_and_augmentation_follow_from_seed_and_epoch(repeats: int) -> None:
    def of(seed: int, epoch: int) -> list[Draw]:
        return draws(100, seed=seed, epoch=epoch, repeats=repeats)

    assert of(1, 3) == of(1, 3)
    for other in (of(1, 4), of(2, 3), of(3, 1)):  # the last: seed and epoch must not be exchangeable
        assert [draw.place for draw in other] != [draw.place for draw in of(1, 3)]
        assert {draw.seed for draw in other}.isdisjoint({draw.seed for draw in of(1, 3)})


def test_the_shared_generators_have_no_say_and_are_left_alone() -> None:
    torch.manual_seed(1)
    before = draws(50)
    state = torch.get_rng_state()
    assert draws(50) == before
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert draws(50) == before


def test_a_sampler_asked_twice_in_an_epoch_gives_the_same() -> None:
    order = TrainingOrder(20, seed=0)
    order.set_epoch(2)
    first = list(order)
    order.set_epoch(2)
    assert list(order) == first


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_repeated_augmentation_shows_three_views_of_an_image_at_a_time(world_size: int) -> None:
    by_rank = of_all_processes(90, world_size, repeats=3)
    views = [draw for at_once in zip(*by_rank, strict=True) for draw in at_once]
    triples = [views[start : start + 3] for start in range(0, len(views), 3)]
    assert len(triples) == 30
    for triple in triples:
        assert len({draw.place for draw in triple}) == 1
        assert len({draw.seed for draw in triple}) == 3
    assert len({triple[0].place for triple in triples}) == 30


def test_repeated_augmentation_gives_the_processes_different_views() -> None:
    first, second, third = of_all_processes(90, 3, repeats=3)
    for a, b, c in zip(first, second, third, strict=True):
        assert a.place == b.place == c.place
        assert len({a.seed, b.seed, c.seed}) == 3


def test_repeated_augmentation_reaches_other_images_in_other_epochs() -> None:
    seen = set[int]()
    for epoch in range(20):
        seen |= {draw.place for draw in draws(90, epoch=epoch, repeats=3)}
    assert seen == set(range(90))  # one third an epoch; that an image is never drawn has a chance of (2/3)^20


@given(
    num_images=sizes,
    world_size=worlds,
    repeats=st.sampled_from([1, 3]),
    epoch=st.integers(0, 5),
    share=st.floats(0, 1),
    data=st.data(),
)
def test_skipping_draws_gives_exactly_the_tail(
    num_images: int, world_size: int, repeats: int, epoch: int, share: float, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, world_size - 1))
    whole = draws(num_images, epoch=epoch, repeats=repeats, rank=rank, world_size=world_size)
    order = TrainingOrder(num_images, seed=0, repeats=repeats, rank=rank, world_size=world_size)
    skipped = round(share * len(whole))
    order.resume(epoch, skipped)
    order.set_epoch(epoch)  # as Lightning does, before the epoch that goes on
    assert list(order) == whole[skipped:]
    order.set_epoch(epoch + 1)  # and before the next, which is whole
    assert list(order) == draws(num_images, epoch=epoch + 1, repeats=repeats, rank=rank, world_size=world_size)


@given(num_images=sizes, world_size=worlds, repeats=st.sampled_from([1, 2, 3]))
def test_the_length_is_the_number_of_draws(num_images: int, world_size: int, repeats: int) -> None:
    for rank in range(world_size):
        order = TrainingOrder(num_images, seed=0, repeats=repeats, rank=rank, world_size=world_size)
        assert len(order) == len(list(order))


@settings(max_examples=200)
@given(num_images=st.integers(1, 300), world_size=st.integers(1, 40))
def test_evaluation_counts_every_image_exactly_once_and_all_processes_draw_equally_often(
    num_images: int, world_size: int
) -> None:
    orders = [EvaluationOrder(num_images, rank=rank, world_size=world_size) for rank in range(world_size)]
    by_rank = [list(order) for order in orders]
    assert {len(of_one) for of_one in by_rank} == {-(-num_images // world_size)} == {len(order) for order in orders}
    counted = [draw.place for of_one in by_rank for draw in of_one if draw.counted]
    assert sorted(counted) == list(range(num_images))
    assert all(0 <= draw.place < num_images and draw.seed is None for of_one in by_rank for draw in of_one)


def test_evaluation_of_one_process_keeps_the_order_of_the_source() -> None:
    assert [draw.place for draw in EvaluationOrder(7)] == list(range(7))
    assert [draw.place for draw in EvaluationOrder(7, rank=1, world_size=3)] == [1, 4, 0]  # 7 is not there: filled up
