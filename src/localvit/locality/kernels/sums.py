"""Sum over the positions of a map in a form that compiles to a fast loop on a CPU.

The compiler turns a plain sum over positions into a loop over one group of channels after another, which touches a page
of memory for a few bytes. Here neighboring positions are added first, across all channels in memory order, and
PyTorch's own sum adds the partial results.

Shape suffixes: B images, M positions, C channels, N partial sums per image.
"""

import torch
from torch import Tensor

_MOST_AT_ONCE = 8


def over_positions(x_BMC: Tensor) -> Tensor:
    """Sum over the positions of each image: (B, M, C) to (B, 1, C)."""
    if x_BMC.device.type != "cpu":
        return x_BMC.sum(1, keepdim=True)
    sum_B1C: Tensor = _add_up(_neighbours(x_BMC))
    return sum_B1C


def over_images_and_positions(x_BMC: Tensor) -> Tensor:
    """Sum over the positions of all images: (B, M, C) to (C,)."""
    if x_BMC.device.type != "cpu":
        return x_BMC.sum(1).sum(0)  # image by image, to stay in cache
    sum_C: Tensor = _add_up(_neighbours(x_BMC).flatten(0, 1)[None]).flatten()
    return sum_C


def _neighbours(x_BMC: Tensor) -> Tensor:
    at_once = max(size for size in range(1, _MOST_AT_ONCE + 1) if x_BMC.shape[1] % size == 0)
    parts = x_BMC.unflatten(1, (-1, at_once)).unbind(2)
    sum_BNC: Tensor = parts[0]
    for part_BNC in parts[1:]:
        sum_BNC = sum_BNC + part_BNC
    return sum_BNC


# An opaque operator: the compiler has to finish the partial sums first, and cannot merge this sum into its slow loop.
@torch.library.custom_op("localvit::add_up", mutates_args=())
def _add_up(part_BNC: Tensor) -> Tensor:
    return part_BNC.sum(1, keepdim=True)


@_add_up.register_fake
def _(part_BNC: Tensor) -> Tensor:
    return part_BNC.new_empty(part_BNC.shape[0], 1, part_BNC.shape[2])
