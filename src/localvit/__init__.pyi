from . import models
from .locality.config import LocalityConfig
from .locality.families import register_layout
from .locality.feed_forward import LocalityFeedForward
from .locality.kernels.forms import save_memory, use_triton
from .locality.kernels.fuse import fuse
from .locality.layouts import TokenLayout
from .locality.localize import localize
from .models.weights.checkpoints import load_checkpoint, save_checkpoint
from .models.weights.model_file import ModelDescription, load_model, save_model
from .system.machine import keep_memory

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
