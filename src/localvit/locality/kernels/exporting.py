"""Tell an export, whose graph must contain only public operators, from a compilation."""

import torch
from torch.torch_version import TorchVersion

# In PyTorch 2.11, torch.compiler.is_exporting() is true under torch.compile as well; in 2.14 it no longer is.
TRUE_IN_COMPILATIONS = TorchVersion(torch.__version__) < "2.12"


def is_exporting() -> bool:
    """Whether a model is being exported or traced.

    Before PyTorch 2.12, exports with ``strict=True`` cannot be told from compilations, and do not count.
    """
    exported = torch.compiler.is_exporting()
    if TRUE_IN_COMPILATIONS and torch.compiler.is_dynamo_compiling():
        exported = False
    return exported or torch.jit.is_tracing()
