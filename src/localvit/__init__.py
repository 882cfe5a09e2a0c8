"""LocalViT: locality in vision transformers (arXiv 2104.05707), in any transformer and in controlled experiments.

Importing the package registers its models with timm: ``timm.create_model("localvit_tiny_patch16_224")``.
"""

import sys

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# The command answers questions and typos before it loads PyTorch, so it registers the models later.
if "localvit_command" not in sys.modules:
    from localvit import models  # noqa: F401
