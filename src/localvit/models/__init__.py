"""The models of the paper and two landmarks, registered with timm: one file per architecture.

Importing them also attaches the faster form of training to the mechanism.
"""

from localvit.locality.kernels.forms import attach
from localvit.models import deit, landmarks, localized, pvt, swin, t2t, tnt

__all__ = ["deit", "landmarks", "localized", "pvt", "swin", "t2t", "tnt"]

attach()
