"""LocalViT: locality in vision transformers (arXiv 2104.05707), in any transformer and in controlled experiments.

Importing the package registers its models with timm: ``timm.create_model("localvit_tiny_patch16_224")``.
"""

from localvit import models
from localvit.checkpoints import load_checkpoint, save_checkpoint
from localvit.fuse import fuse
from localvit.kernels.triton_stage import use_triton
from localvit.layouts import TokenLayout, register_layout
from localvit.locality import LocalityConfig, LocalityFeedForward
from localvit.localize import localize
from localvit.machine import keep_memory
from localvit.model_file import ModelDescription, load_model, save_model

__all__ = [
    "LocalityConfig",
    "LocalityFeedForward",
    "ModelDescription",
    "TokenLayout",
    "fuse",
    "keep_memory",
    "load_checkpoint",
    "load_model",
    "localize",
    "models",
    "register_layout",
    "save_checkpoint",
    "save_model",
    "use_triton",
]
