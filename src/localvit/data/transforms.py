"""How evaluation and prediction show an image to a model."""

from collections.abc import Callable

from PIL import Image
from timm.data import create_transform
from torch import Tensor

from localvit.data.config import InputConfig


def evaluation_transform(shown: InputConfig) -> Callable[[Image.Image], Tensor]:
    """Resize, center crop and normalize: an image of the right mode becomes a float tensor (C, H, W).

    The transform can be pickled for loader processes.
    """
    transform: Callable[[Image.Image], Tensor] = create_transform(
        input_size=(shown.channels, *shown.image_size),
        is_training=False,
        interpolation=shown.interpolation,
        mean=shown.mean,
        std=shown.std,
        crop_pct=shown.crop_fraction,
    )
    return transform
