"""What a model is shown of an image outside training."""

from collections.abc import Callable

from PIL import Image
from timm.data import create_transform
from torch import Tensor

from localvit.data.config import InputConfig


def evaluation_transform(shown: InputConfig) -> Callable[[Image.Image], Tensor]:
    """Resize, crop the middle and normalise: an image of the right mode becomes float (C, H, W).

    It can be sent to the processes of a loader.
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
