"""How evaluation and prediction show an image to a model.

Shape suffixes: B images, C channels, H height, W width.
"""

from collections.abc import Callable

from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import functional

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


def evaluation_pixels(shown: InputConfig) -> Callable[[Image.Image], Tensor]:
    """The part of :func:`evaluation_transform` before it normalizes: resize and center crop, as uint8 (C, H, W)."""
    geometry = evaluation_transform(shown).transforms[:-2]  # type: ignore[attr-defined]  # it is a Compose
    pipeline: Callable[[Image.Image], Tensor] = transforms.Compose([*geometry, transforms.PILToTensor()])
    return pipeline


def normalize(pixels_BCHW: Tensor, shown: InputConfig) -> Tensor:
    """The rest of :func:`evaluation_transform` for a batch: pixels (0 to 255) become normalized floats."""
    images_BCHW: Tensor = functional.normalize(pixels_BCHW.float().div_(255), shown.mean, shown.std, inplace=True)
    return images_BCHW
