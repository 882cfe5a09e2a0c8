"""The models of the paper, registered with timm; one file an architecture."""

from localvit.models import deit

__all__ = ["deit"]
