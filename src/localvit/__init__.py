"""LocalViT: locality in vision transformers (arXiv 2104.05707), in any transformer and in controlled experiments.

Importing the package registers its models with timm: ``timm.create_model("localvit_tiny_patch16_224")``.
"""

from localvit import models
from localvit.checkpoints import load_checkpoint, save_checkpoint
from localvit.layouts import TokenLayout, register_layout
from localvit.locality import LocalityConfig, LocalityFeedForward
from localvit.localize import localize

__all__ = [
    "LocalityConfig",
    "LocalityFeedForward",
    "TokenLayout",
    "load_checkpoint",
    "localize",
    "models",
    "register_layout",
    "save_checkpoint",
]
