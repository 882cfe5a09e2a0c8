"""LocalViT: locality in vision transformers (arXiv 2104.05707), in any transformer and in controlled experiments.

Importing the package registers its models with timm: ``timm.create_model("localvit_tiny_patch16_224")``.
"""

from localvit import models
from localvit.locality.config import LocalityConfig
from localvit.locality.feed_forward import LocalityFeedForward
from localvit.locality.kernels.forms import save_memory
from localvit.locality.kernels.fuse import fuse
from localvit.locality.kernels.gpu.form import use_triton
from localvit.locality.layouts import TokenLayout, register_layout
from localvit.locality.localize import localize
from localvit.system.machine import keep_memory
from localvit.weights.checkpoints import load_checkpoint, save_checkpoint
from localvit.weights.model_file import ModelDescription, load_model, save_model

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
    "save_memory",
    "save_model",
    "use_triton",
]
