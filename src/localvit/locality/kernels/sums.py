"""Sums over the positions of a map, in a form from which the compiler makes a fast loop on a CPU.

Of a plain sum over positions it makes a loop down one group of channels after the other, which touches a page of memory
for some bytes. Here neighbouring positions are added first, all channels beside each other as they lie in memory, and
PyTorch's own sum adds up the rest.

Shape suffixes: B images, M positions, C channels, N parts into which the positions are added first.
"""

import torch
from torch import Tensor

_MOST_AT_ONCE = 8


def over_positions(x_BMC: Tensor) -> Tensor:
    """Sum (B, 1, C) over the positions of each image."""
    if x_BMC.device.type != "cpu":
        return x_BMC.sum(1, keepdim=True)
    sum_B1C: Tensor = _add_up(_neighbours(x_BMC))
    return sum_B1C


def over_images_and_positions(x_BMC: Tensor) -> Tensor:
    """Sum (C,) over the positions of all images."""
    if x_BMC.device.type != "cpu":
        return x_BMC.sum(1).sum(0)  # image by image, which stays in the cache
    sum_C: Tensor = _add_up(_neighbours(x_BMC).flatten(0, 1)[None]).flatten()
    return sum_C


def _neighbours(x_BMC: Tensor) -> Tensor:
    at_once = max(size for size in range(1, _MOST_AT_ONCE + 1) if x_BMC.shape[1] % size == 0)
    parts = x_BMC.unflatten(1, (-1, at_once)).unbind(2)
    sum_BNC: Tensor = parts[0]
    for part_BNC in parts[1:]:
        sum_BNC = sum_BNC + part_BNC
    return sum_BNC


# Under a name of its own, so that the compiler finishes the parts before, and does not add them up in that slow loop.
@torch.library.custom_op("localvit::add_up", mutates_args=())
def _add_up(part_BNC: Tensor) -> Tensor:
    return part_BNC.sum(1, keepdim=True)


@_add_up.register_fake
def _(part_BNC: Tensor) -> Tensor:
    return part_BNC.new_empty(part_BNC.shape[0], 1, part_BNC.shape[2])
