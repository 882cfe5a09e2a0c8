"""Corruptions do what they say, and models that cannot see one do not change."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_models import images, tiny

from localvit.analysis import robustness
from localvit.analysis.corruptions import (
    corruptions,
    from_patches,
    high_pass,
    low_pass,
    occlude,
    shift,
    shuffle_patches,
    to_patches,
)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


SHOWN = torch.randn(3, 2, 8, 12, generator=generator()).double()


def test_patches_are_cut_row_by_row_and_put_back() -> None:
    patches = to_patches(SHOWN, 4)
    assert patches.shape == (3, 16, 2, 2, 3)
    assert torch.equal(patches[0, 5], SHOWN[0, :, 2:4, 3:6])
    assert torch.equal(from_patches(patches, 4), SHOWN)


def test_shuffling_keeps_all_patches_and_gives_each_image_its_own_order() -> None:
    shuffled = to_patches(shuffle_patches(SHOWN, generator(), cells=4), 4)
    orders = []
    for before, after in zip(to_patches(SHOWN, 4), shuffled, strict=True):
        same = (before[:, None] == after[None]).flatten(2).all(dim=2)
        assert same.sum().item() == 16
        orders.append(same.nonzero()[:, 1].tolist())
    assert len({tuple(order) for order in orders}) == 3


def test_a_shift_moves_by_its_pixels() -> None:
    moved = shift(SHOWN, generator(), pixels=2)
    sides = torch.randint(4, (3,), generator=generator()).tolist()
    for image, found, side in zip(SHOWN, moved, sides, strict=True):
        rows, columns = {0: (2, 0), 1: (-2, 0), 2: (0, 2), 3: (0, -2)}[side]
        inner = torch.roll(image, (rows, columns), dims=(1, 2))
        assert torch.equal(found[:, 2:-2, 2:-2], inner[:, 2:-2, 2:-2])
        assert found.shape == image.shape


def test_occlusion_sets_a_share_of_the_patches_to_0() -> None:
    patches = to_patches(occlude(SHOWN, generator(), cells=4, share=0.25), 4)
    assert (patches == 0).flatten(2).all(dim=2).sum(dim=1).tolist() == [4, 4, 4]
    assert torch.equal(patches[patches != 0], to_patches(SHOWN, 4)[patches != 0])


def test_low_and_high_pass_are_two_halves_that_share_the_mean() -> None:
    low, high = low_pass(SHOWN, generator(), cut=0.5), high_pass(SHOWN, generator(), cut=0.5)
    mean = SHOWN.mean(dim=(2, 3), keepdim=True)
    assert (low + high - mean).numpy() == pytest.approx(SHOWN.numpy(), abs=1e-6)
    amplitude = torch.fft.fft2(low).abs()[0, 0]
    assert amplitude[4, 6] < 1e-5 * amplitude[0, 0]
    assert torch.fft.fft2(high).abs()[0, 0, 0, 1] < 1e-5


def test_patches_divide_the_image() -> None:
    strengths = [one.strength for one in corruptions((224, 224)) if one.kind == "shuffled patches"]
    assert strengths == ["2 x 2", "4 x 4", "7 x 7", "8 x 8", "14 x 14"]
    assert [str(one) for one in corruptions((8, 8)) if one.kind == "shuffled patches"][-1] == "shuffled patches, 4 x 4"
    assert not [one for one in corruptions((7, 5)) if one.kind in ("shuffled patches", "occlusion")]


class Bag(nn.Module):
    """Scores each patch alone and adds them up, as a bag of patches."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Conv2d(3, 5, 4, 4)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, 5)."""
        logits_BK: Tensor = self.score(images_BCHW).double().sin().sum(dim=(2, 3))
        return logits_BK


def test_a_bag_of_patches_does_not_change_under_shuffling() -> None:
    torch.manual_seed(0)
    model = Bag()
    shown = torch.randn(40, 3, 16, 16)
    found = robustness(model, shown, model(shown).argmax(dim=1))
    percent = dict(zip(found.conditions, found.accuracy or (), strict=True))
    assert percent["unchanged"] == percent["shuffled patches, 4 x 4"] == percent["shuffled patches, 2 x 2"] == 100
    assert percent["shuffled patches, 8 x 8"] < 100, "these patches are smaller than its own"
    assert found.kept == found.accuracy


def test_a_transformer_without_position_embedding_does_not_change_under_shuffling() -> None:
    model = tiny("deit_tiny_patch16_224")
    shown = images(model, 4)
    shuffled = shuffle_patches(shown, generator(), cells=4)
    with torch.no_grad():
        assert (model(shuffled) - model(shown)).abs().max() > 1e-6, "positions matter"
        model.pos_embed[:, 1:] = model.pos_embed[:, 1:2]
        assert (model(shuffled) - model(shown)).abs().max() < 1e-10


def test_accuracy_is_counted_over_all_batches() -> None:
    torch.manual_seed(0)
    model = Bag().train()
    shown, labels = torch.randn(10, 3, 16, 16), torch.arange(10) % 5
    found = robustness(model, shown.split(3), labels)
    expected = 100 * (model(shown).argmax(dim=1) == labels).double().mean().item()
    assert found.accuracy is not None
    assert found.accuracy[0] == pytest.approx(expected)
    assert (found.kept[0], found.images) == (100, 10)
    assert model.training
    assert robustness(model, shown).accuracy is None
    assert "accuracy" not in robustness(model, shown).series()


def test_predictions_are_kept_if_they_are_those_of_the_unchanged_image() -> None:
    torch.manual_seed(0)
    model, shown = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5)), torch.randn(50, 3, 16, 16)
    found = robustness(model, shown, torch.full((50,), 7))
    assert found.kept[0] == 100
    assert max(found.kept[1:5]) < 100
    assert found.accuracy == (0.0,) * len(found.conditions), "no image is of class 7"


def test_labels_must_be_as_many_as_images() -> None:
    with pytest.raises(ValueError, match="10 images and 3 labels"):
        robustness(Bag(), torch.randn(10, 3, 16, 16), torch.zeros(3))


def test_every_model_sees_the_same_corrupted_images() -> None:
    seen: list[Tensor] = []

    class Recorder(Bag):
        def forward(self, images_BCHW: Tensor) -> Tensor:
            seen.append(images_BCHW)
            return super().forward(images_BCHW)

    shown = torch.randn(4, 3, 16, 16)
    robustness(Recorder(), shown)
    robustness(Recorder(), shown)
    half = len(seen) // 2
    assert all(torch.equal(one, other) for one, other in zip(seen[:half], seen[half:], strict=True))
    assert not np.allclose(seen[0], seen[1])
