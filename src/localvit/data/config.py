"""Where images come from and how training augments them."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DataConfig:
    """The images of an experiment.

    Attributes:
        name: the data set; digits are the 1,797 scans of 8 x 8 pixels that come with scikit-learn.
        train_fraction: share of the images to learn from, from the start of the file; the others are held out.
        crop_scale: smallest and largest share of an image that a random crop keeps; 1.0 to 1.0 keeps all of it.
        crop_ratio: smallest and largest width over height of a random crop.
        random_erasing: probability that a random rectangle of an image is erased.
    """

    name: Literal["digits"] = "digits"
    train_fraction: float = 0.5
    crop_scale: tuple[float, float] = (1.0, 1.0)
    crop_ratio: tuple[float, float] = (1.0, 1.0)
    random_erasing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.train_fraction < 1:
            raise ValueError(f"train_fraction is {self.train_fraction}; it must lie between 0 and 1")
        for name in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} is {(low, high)}; it must be two positive numbers, the smaller first")
        if self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale is {self.crop_scale}; a crop keeps at most 1.0 of an image")
        if not 0 <= self.random_erasing <= 1:
            raise ValueError(f"random_erasing is {self.random_erasing}; a probability lies in 0 to 1")
