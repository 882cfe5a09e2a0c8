from .config import NO_AUGMENTATION, AugmentationConfig, DataConfig, InputConfig
from .source import BrokenImageError, DataError, ImageSource

__all__ = [
    "NO_AUGMENTATION",
    "AugmentationConfig",
    "BrokenImageError",
    "DataConfig",
    "DataError",
    "ImageSource",
    "InputConfig",
]
