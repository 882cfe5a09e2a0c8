"""The models of the paper, registered with timm; one file an architecture."""

from localvit.models import deit, pvt, swin, t2t, tnt

__all__ = ["deit", "pvt", "swin", "t2t", "tnt"]
