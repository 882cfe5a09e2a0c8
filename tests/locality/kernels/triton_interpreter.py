"""Triton's kernels in its interpreter, which runs them on CPU tensors where there is no GPU.

The interpreter is chosen when a kernel is decorated, so the modules are loaded a second time for it.
"""

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from unittest import mock

import pytest
import torch

from localvit.locality.kernels import gpu


def loaded_anew(*names: str) -> list[ModuleType]:
    """Modules of ``localvit.locality.kernels.gpu`` over kernels that are decorated now; imported ones stay as they are.

    Operators belong to the modules that were loaded last.
    """
    before = {name: value for name, value in vars(gpu).items() if isinstance(value, ModuleType)}
    with mock.patch.dict(sys.modules):
        for name in list(sys.modules):
            if name.startswith(f"{gpu.__name__}."):
                del sys.modules[name]
        for name in before:
            delattr(gpu, name)  # or importing it from the package would find the earlier one
        try:
            return [importlib.import_module(f"{gpu.__name__}.{name}") for name in names]
        finally:
            vars(gpu).update(before)


def runnable(module: ModuleType) -> Iterator[ModuleType]:
    """The module where there is a GPU, and otherwise one over kernels in the interpreter, as a fixture."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        yield module
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        yield loaded_anew(module.__name__.rpartition(".")[2])[0]
