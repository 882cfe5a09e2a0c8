"""When an exported model may stand for the original."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from localvit.evaluation.agreement import Agreement, agreement
from localvit.system.errors import LocalViTError

LOGITS_MK = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.5, 0.5001, -4.0], [1.0, 0.0, 2.0]])
LABELS_M = torch.tensor([0, 1, 0, 0])


class Answers(nn.Module):
    """Takes the number of an image for the image, and looks its logits up."""

    def __init__(self, change: Callable[[Tensor], Tensor] = lambda logits_MK: logits_MK) -> None:
        super().__init__()
        self.logits_MK = change(LOGITS_MK.clone())

    def forward(self, numbers_B: Tensor) -> Tensor:
        return self.logits_MK[numbers_B]


def compare(change: Callable[[Tensor], Tensor], *, labeled: bool = True) -> Agreement:
    numbers_M = torch.arange(4)
    batches = [(numbers_M[:3], LABELS_M[:3]), (numbers_M[3:], LABELS_M[3:])]
    return agreement(Answers(), Answers(change), batches, labeled=labeled)


def swapped(logits_MK: Tensor) -> Tensor:
    logits_MK[3] = logits_MK[3, [2, 1, 0]]
    return logits_MK


def test_the_figures_are_those_of_all_images() -> None:
    found = compare(swapped)
    assert (found.images, found.largest_difference, found.largest_logit) == (4, 1.0, 4.0)
    assert (found.same_class, found.flipped) == (75.0, 1)
    assert (found.accuracy, found.exported_accuracy, found.drop) == (50.0, 75.0, -25.0)
    assert compare(swapped, labeled=False).drop is None


def test_rounding_agrees_even_where_it_decides_a_tie() -> None:
    found = compare(lambda logits_MK: logits_MK + torch.tensor([2e-4, 0.0, 0.0]))
    assert found.same_class == 75.0  # the third image was a tie but for 1e-4
    found.require(int8=False, most_drop=0.5)


@pytest.mark.parametrize(
    "change",
    [
        lambda logits_MK: logits_MK + 1e-3,
        lambda logits_MK: logits_MK * torch.nan,
        swapped,
    ],
)
def test_other_differences_do_not_agree(change: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(LocalViTError, match="differs from the original"):
        compare(change).require(int8=False, most_drop=0.5)


def test_int8_is_judged_by_accuracy_or_by_classes() -> None:
    base = Agreement(100, 0.5, 4.0, 95.0, 5, 80.0, 79.6)
    base.require(int8=True, most_drop=0.5)
    with pytest.raises(LocalViTError, match=r"costs 0.40 points of accuracy \(80.00 to 79.60 % of 100 images\)"):
        base.require(int8=True, most_drop=0.3)
    with pytest.raises(LocalViTError, match="costs nan points"):
        replace(base, exported_accuracy=float("nan")).require(int8=True, most_drop=0.5)
    unlabeled = replace(base, accuracy=None, exported_accuracy=None)
    unlabeled.require(int8=True, most_drop=0.5)
    with pytest.raises(LocalViTError, match=r"changes the class of 15\.0 % of the 100 images"):
        replace(unlabeled, same_class=85.0).require(int8=True, most_drop=0.5)


def test_nothing_to_compare_on_is_an_error() -> None:
    with pytest.raises(LocalViTError, match="there is no image"):
        agreement(Answers(), Answers(), [], labeled=False)
