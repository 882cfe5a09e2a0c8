"""Where images come from, and their transforms."""

from localvit.data.config import AugmentationConfig, DataConfig, InputConfig
from localvit.data.module import ImageData
from localvit.data.source import BrokenImageError, DataError, ImageSource

__all__ = [
    "AugmentationConfig",
    "BrokenImageError",
    "DataConfig",
    "DataError",
    "ImageData",
    "ImageSource",
    "InputConfig",
]
