"""Where images come from, and their transforms."""

from localvit.data.config import NO_AUGMENTATION, AugmentationConfig, DataConfig, InputConfig
from localvit.data.source import BrokenImageError, DataError, ImageSource

__all__ = [
    "NO_AUGMENTATION",
    "AugmentationConfig",
    "BrokenImageError",
    "DataConfig",
    "DataError",
    "ImageSource",
    "InputConfig",
]
