"""Where images come from, and their transforms."""

from localvit.data.config import DataConfig
from localvit.data.digits import DigitsData

__all__ = ["DataConfig", "DigitsData"]
