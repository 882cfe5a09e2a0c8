"""Images with something taken away: order of patches, position, parts, low or high frequencies.

Every corruption is a function of normalized images (B, C, H, W) and a generator of random numbers.

Shape suffixes: B images, C channels, H x W pixels, P patches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

Corrupt = Callable[[Tensor, torch.Generator], Tensor]

_CELLS = (2, 4, 7, 8, 14)  # patches a side
_SHIFTS = (1, 2, 4, 8)  # pixels
_OCCLUDED = (0.25, 0.5, 0.75)  # share of the patches
_CUTS = (0.25, 0.5)  # of the highest frequency
_SMALLEST_PATCH = 2  # pixels a side


@dataclass(frozen=True)
class Corruption:
    """One way to corrupt images.

    Attributes:
        kind: what is taken away.
        strength: how much, with its unit.
        apply: corrupts images.
    """

    kind: str
    strength: str
    apply: Corrupt

    def __str__(self) -> str:
        return f"{self.kind}, {self.strength}"


def corruptions(size: tuple[int, int]) -> list[Corruption]:
    """The corruptions for images of (height, width) pixels. Patches divide both sides and are at least 2 x 2 pixels."""
    fitting = [
        cells for cells in _CELLS if all(side % cells == 0 and side // cells >= _SMALLEST_PATCH for side in size)
    ]
    finest = fitting[-1:]
    return [
        *(Corruption("shuffled patches", f"{n} x {n}", partial(shuffle_patches, cells=n)) for n in fitting),
        *(Corruption("shift", f"{n} px", partial(shift, pixels=n)) for n in _SHIFTS if n < min(size)),
        *(
            Corruption("occlusion", f"{100 * share:g} %", partial(occlude, cells=n, share=share))
            for n in finest
            for share in _OCCLUDED
        ),
        *(Corruption("low-pass", f"below {cut:g} pi", partial(low_pass, cut=cut)) for cut in _CUTS),
        *(Corruption("high-pass", f"above {cut:g} pi", partial(high_pass, cut=cut)) for cut in _CUTS),
    ]


def shuffle_patches(images_BCHW: Tensor, generator: torch.Generator, *, cells: int) -> Tensor:
    """Cut each image into ``cells`` x ``cells`` patches and put them back in a random order of its own."""
    patches_BPCYX = to_patches(images_BCHW, cells)
    orders_BP = torch.stack([torch.randperm(cells * cells, generator=generator) for _ in images_BCHW])
    rows_B1 = torch.arange(len(images_BCHW))[:, None]
    return from_patches(patches_BPCYX[rows_B1, orders_BP.to(images_BCHW.device)], cells)


def shift(images_BCHW: Tensor, generator: torch.Generator, *, pixels: int) -> Tensor:
    """Move each image by ``pixels`` to a random side; the border is repeated where nothing moves in."""
    padded_BCHW = torch.nn.functional.pad(images_BCHW, [pixels] * 4, mode="replicate")
    height, width = images_BCHW.shape[-2:]
    sides = torch.randint(4, (len(images_BCHW),), generator=generator).tolist()
    starts = [(0, pixels), (2 * pixels, pixels), (pixels, 0), (pixels, 2 * pixels)]
    moved = [
        padded_CHW[:, (start := starts[side])[0] : start[0] + height, start[1] : start[1] + width]
        for padded_CHW, side in zip(padded_BCHW, sides, strict=True)
    ]
    return torch.stack(moved)


def occlude(images_BCHW: Tensor, generator: torch.Generator, *, cells: int, share: float) -> Tensor:
    """Replace a random ``share`` of ``cells`` x ``cells`` patches by 0, the mean of normalized images."""
    patches_BPCYX = to_patches(images_BCHW, cells).clone()
    count = round(share * cells * cells)
    for patches_PCYX in patches_BPCYX:
        patches_PCYX[torch.randperm(cells * cells, generator=generator)[:count].to(patches_PCYX.device)] = 0
    return from_patches(patches_BPCYX, cells)


def low_pass(images_BCHW: Tensor, generator: torch.Generator, *, cut: float) -> Tensor:
    """Keep frequencies of at most ``cut`` times the highest one of an axis, by their distance from frequency 0."""
    return _filtered(images_BCHW, lambda distance_HW: distance_HW <= cut)


def high_pass(images_BCHW: Tensor, generator: torch.Generator, *, cut: float) -> Tensor:
    """Keep frequencies above ``cut`` times the highest one of an axis, and the mean of each channel."""
    return _filtered(images_BCHW, lambda distance_HW: (distance_HW > cut) | (distance_HW == 0))


def to_patches(images_BCHW: Tensor, cells: int) -> Tensor:
    """Patches (B, P, C, H / cells, W / cells) of images, row by row."""
    cut = images_BCHW.unflatten(3, (cells, -1)).unflatten(2, (cells, -1))
    patches_BPCYX: Tensor = cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    return patches_BPCYX


def from_patches(patches_BPCYX: Tensor, cells: int) -> Tensor:
    """The inverse of :func:`to_patches`."""
    cut = patches_BPCYX.unflatten(1, (cells, cells)).permute(0, 3, 1, 4, 2, 5)
    images_BCHW: Tensor = cut.flatten(4, 5).flatten(2, 3)
    return images_BCHW


def _filtered(images_BCHW: Tensor, keep: Callable[[Tensor], Tensor]) -> Tensor:
    height, width = images_BCHW.shape[-2:]
    rows_H1, columns_1W = (2 * torch.fft.fftfreq(side) for side in (height, width))
    distance_HW = torch.hypot(rows_H1[:, None], columns_1W[None]).to(images_BCHW.device)
    spectrum_BCHW = torch.fft.fft2(images_BCHW.float()) * keep(distance_HW)
    filtered_BCHW: Tensor = torch.fft.ifft2(spectrum_BCHW).real.to(images_BCHW.dtype)
    return filtered_BCHW
