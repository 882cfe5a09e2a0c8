"""An export is one, and a compilation is none."""

import pytest
import torch
from torch import Tensor, nn

from localvit.locality.kernels import exporting

ZERO = torch.zeros(1)


class Exporting(nn.Module):
    """One where a model is exported, else zero."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if exporting.is_exporting() else x


def test_neither_running_nor_compiling_is_exporting() -> None:
    assert Exporting()(ZERO) == 0
    compiled = Exporting()
    compiled.compile(backend="eager", fullgraph=True)
    assert compiled(ZERO) == 0


@pytest.mark.parametrize("strict", [False, True])
def test_exporting_is(strict: bool) -> None:
    if strict and exporting.TRUE_IN_COMPILATIONS:
        pytest.skip("this PyTorch cannot tell it from a compilation")
    assert torch.export.export(Exporting(), (ZERO,), strict=strict).module()(ZERO) == 1


def test_tracing_is() -> None:
    assert torch.jit.trace(Exporting(), ZERO, check_trace=False)(ZERO) == 1
