"""The passes over a normalized map against the plain layers in float64."""

from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from triton_interpreter import runnable

from localvit.locality.feed_forward import ACTIVATIONS
from localvit.locality.kernels.gpu import normalized

EPSILON = 1e-5
CASES = [((2, 20, 6), "hswish"), ((1, 5, 70), "relu6"), ((3, 1, 4), "silu"), ((2, 17, 64), "gelu")]


@pytest.fixture(scope="module")
def passes() -> Iterator[ModuleType]:
    yield from runnable(normalized)


class Case:
    """A map and the parameters of its norm, in the smallest rounding errors that the kernels take here."""

    def __init__(self, shape_BME: tuple[int, int, int], *, offset: float = 0.0) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = torch.float32 if torch.cuda.is_available() else torch.float64
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
            return drawn.to(self.device, self.dtype)

        channels = shape_BME[2]
        self.z, self.dout = normal(*shape_BME) * 2 + offset, normal(*shape_BME)
        self.gamma, self.beta = 1 + 0.3 * normal(channels), normal(channels)
        self.weight = normal(channels, channels) / channels

    def norm(self) -> nn.BatchNorm2d:
        made = nn.BatchNorm2d(len(self.gamma), eps=EPSILON).to(self.device, self.dtype)
        made.weight.data, made.bias.data = self.gamma.clone(), self.beta.clone()
        return made

    def gates(self, weight: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda mean: torch.sigmoid(mean @ weight)

    def reference(self, activation: str, *, attention: bool) -> tuple[Tensor, list[Tensor]]:
        leaves = [one.double().requires_grad_() for one in (self.z, self.gamma, self.beta, self.weight)]
        z, gamma, beta, weight = leaves
        y = F.batch_norm(z.transpose(1, 2), None, None, gamma, beta, training=True, eps=EPSILON).transpose(1, 2)
        a: Tensor = ACTIVATIONS[activation]()(y)
        out = a * self.gates(weight)(a.mean(1, keepdim=True)) if attention else a + 0 * weight.sum()
        return out.detach(), list(torch.autograd.grad(out, leaves, self.dout.double()))

    def run(self, passes: ModuleType, activation: str, *, attention: bool) -> tuple[Tensor, list[Tensor]]:
        z, weight, norm = self.z.clone().requires_grad_(), self.weight.clone().requires_grad_(), self.norm()
        numbers = passes.Norm.of_batch(passes.moments(z.detach()), norm)
        out = passes.norm_act_attend(z, numbers, activation, self.gates(weight) if attention else None)
        out = out + 0 * weight.sum()
        return out.detach(), list(torch.autograd.grad(out, [z, norm.weight, norm.bias, weight], self.dout))


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize(("shape_BME", "activation"), CASES, ids=str)
def test_results_are_those_of_the_plain_layers(
    passes: ModuleType, shape_BME: tuple[int, int, int], activation: str, attention: bool
) -> None:
    """A norm over three values amplifies what its statistics are off by, hence the thousand half ulps."""
    case = Case(shape_BME)
    out, gradients = case.reference(activation, attention=attention)
    found, found_gradients = case.run(passes, activation, attention=attention)
    tolerance = 1000 * torch.finfo(case.dtype).eps / 2
    for ours, theirs in zip([found, *found_gradients], [out, *gradients], strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=tolerance * max(1, float(theirs.abs().max())))


def test_a_map_of_more_positions_than_a_program_adds_up(passes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "SPAN", 16)
    test_results_are_those_of_the_plain_layers(passes, (2, 37, 5), "hswish", attention=True)


@pytest.mark.parametrize("offset", [0, 1000])
def test_statistics_are_those_of_a_batch_norm(passes: ModuleType, offset: int) -> None:
    """E[x^2] - E[x]^2 in float32 would be off by the ulp of a million, and the variance is four."""
    case = Case((4, 36, 70), offset=offset)
    z = case.z.float()
    ours, theirs = case.norm().float(), case.norm().double()
    for _ in range(2):
        mean, invstd, gamma, beta = passes.Norm.of_batch(passes.moments(z), ours)
        theirs(z.double().transpose(1, 2)[..., None])
    torch.testing.assert_close(mean.double(), z.double().mean((0, 1)), rtol=2**-22, atol=2**-20)
    expected = (z.double().var((0, 1), unbiased=False) + EPSILON).rsqrt()
    torch.testing.assert_close(invstd.double(), expected, rtol=2**-13, atol=0)
    assert gamma is ours.weight
    assert beta is ours.bias
    assert ours.num_batches_tracked == 2
    torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=2**-20, atol=2**-20, check_dtype=False)
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=2**-13, atol=0, check_dtype=False)


def test_gates_scale_a_map(passes: ModuleType) -> None:
    case = Case((2, 20, 6))
    gates = case.z[:, 0]
    torch.testing.assert_close(passes.scaled(case.z, gates), case.z * gates[:, None], rtol=1e-6, atol=0)


def test_a_graph_that_is_kept_gives_the_same_gradient_again(passes: ModuleType) -> None:
    case = Case((2, 20, 6))
    z = case.z.clone().requires_grad_()
    norm = passes.Norm.of_batch(passes.moments(z.detach()), case.norm())
    out = passes.norm_act_attend(z, norm, "silu", case.gates(case.weight))
    first, second = (torch.autograd.grad(out, z, case.dout, retain_graph=True)[0] for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_second_derivative_is_refused(passes: ModuleType) -> None:
    case = Case((1, 4, 2))
    z = case.z.clone().requires_grad_()
    norm = passes.Norm.of_batch(passes.moments(z.detach()), case.norm())
    out = passes.norm_act_attend(z, norm, "silu", nn.Identity())
    (first,) = torch.autograd.grad(out.square().sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
