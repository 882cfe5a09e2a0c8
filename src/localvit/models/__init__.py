"""The models of the paper, registered with timm; one file an architecture."""

from localvit.models import deit, swin, tnt

__all__ = ["deit", "swin", "tnt"]
