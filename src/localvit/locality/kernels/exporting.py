"""Tell an export, whose graph must contain only public operators, from a compilation."""

import torch


def is_exporting() -> bool:
    """Whether a model is being exported or traced.

    Up to PyTorch 2.11 at least, ``torch.compiler.is_exporting`` is also true under ``torch.compile``; so there only
    exports that do not use its tracer (``strict=False``, the default) count.
    """
    exported = torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()
    return exported or torch.jit.is_tracing()
