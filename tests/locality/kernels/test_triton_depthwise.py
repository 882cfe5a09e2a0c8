"""The fused kernels against the plain layers in float64.

Without a GPU the kernels run in Triton's interpreter on CPU tensors. The interpreter is chosen when a kernel is
decorated, so the modules are loaded a second time for it.
"""

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from localvit.locality.feed_forward import ACTIVATIONS
from localvit.locality.kernels import gpu
from localvit.locality.kernels.gpu import depthwise
from localvit.locality.kernels.gpu import device as device_code

EPSILON = 1e-5


def loaded_anew() -> ModuleType:
    """The module over kernels that are decorated now; the imported ones stay as they are."""
    with mock.patch.dict(sys.modules):
        del sys.modules[device_code.__name__], sys.modules[depthwise.__name__]
        try:
            return importlib.import_module(depthwise.__name__)
        finally:
            gpu.device, gpu.depthwise = device_code, depthwise


@pytest.fixture(scope="module")
def kernels() -> Iterator[ModuleType]:
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        yield depthwise
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        yield loaded_anew()


@pytest.fixture
def device(kernels: ModuleType) -> str:
    return "cpu" if kernels.INTERPRETED else "cuda"


@pytest.fixture
def exact(kernels: ModuleType) -> torch.dtype:
    """The dtype with the smallest rounding errors that the kernels take here."""
    return torch.float64 if kernels.INTERPRETED else torch.float32


class Case:
    """Inputs in the dtype of the test, the plain layers' float64 results of them, and the kernel's."""

    def __init__(
        self,
        shape_BHWE: tuple[int, int, int, int],
        size: int,
        activation: str,
        dtype: torch.dtype,
        device: str,
        *,
        offset: float = 0.0,
        training: bool = True,
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        channels = shape_BHWE[3]
        parameters = torch.float64 if dtype == torch.float64 else torch.float32

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        self.activation, self.training, self.dtype = activation, training, dtype
        self.z = (normal(*shape_BHWE) * 2 + offset).to(dtype).to(device)
        self.gamma = (1 + 0.3 * normal(channels)).to(parameters).to(device)
        self.beta = normal(channels).to(parameters).to(device)
        self.weight = normal(channels, 1, size, size).to(parameters).to(device)
        self.dout = normal(*shape_BHWE).to(dtype).to(device)
        z64 = self.z.double() if training else normal(2, 3, 3, channels).to(device)
        self.mean = z64.mean((0, 1, 2)).to(parameters)
        self.invstd = (z64.var((0, 1, 2), unbiased=False) + EPSILON).rsqrt().to(parameters)

    def reference(self) -> tuple[Tensor, list[Tensor]]:
        """Output, and gradients for input, gamma, beta and weight."""
        leaves = [tensor.double().requires_grad_() for tensor in (self.z, self.gamma, self.beta, self.weight)]
        z, gamma, beta, weight = leaves
        image = z.permute(0, 3, 1, 2)
        if self.training:
            y = F.batch_norm(image, None, None, gamma, beta, training=True, eps=EPSILON)
        else:
            variance = self.invstd.double() ** -2 - EPSILON
            y = F.batch_norm(image, self.mean.double(), variance, gamma, beta, eps=EPSILON)
        a = ACTIVATIONS[self.activation]()(y)
        out = F.conv2d(a, weight, padding=weight.shape[-1] // 2, groups=weight.shape[0]).permute(0, 2, 3, 1)
        return out.detach(), list(torch.autograd.grad(out, leaves, self.dout.double()))

    def run(self, kernels: ModuleType) -> tuple[Any, list[Tensor]]:
        leaves = [tensor.clone().requires_grad_() for tensor in (self.z, self.gamma, self.beta, self.weight)]
        z, gamma, beta, weight = leaves
        assert kernels.fits(z, weight, self.activation)
        result = kernels.norm_act_depthwise(
            z, self.mean, self.invstd, gamma, beta, weight, self.activation, training=self.training
        )
        return result, list(torch.autograd.grad(result.out_BHWE, leaves, self.dout))

    def check(self, kernels: ModuleType) -> None:
        """Compare all results.

        Numbers of the computation err by half a unit in the last place (ulp, ``eps`` relative to the number) each time
        they are rounded. Every result is a sum of a few hundred products at most, so 256 half ulps of the largest one
        is what the computation may be off by, and 1 half ulp more what storing an element in the input's dtype costs.
        The gradient of the input is stored twice, the first time before the mean gradient leaves it. The interpreter
        does not round to bfloat16, it cuts off: a whole ulp.
        """
        out, gradients = self.reference()
        result, found = self.run(kernels)
        eps = torch.finfo(self.dtype).eps
        storing = eps if kernels.INTERPRETED and self.dtype == torch.bfloat16 else eps / 2
        compute = 256 * torch.finfo(self.gamma.dtype).eps / 2
        assert result.out_BHWE.dtype == self.dtype
        close(result.out_BHWE, out, rtol=storing, largest=compute)
        close(found[0], gradients[0], rtol=storing, largest=compute + 2 * storing)
        for name, parameter, gradient in zip(("gamma", "beta", "weight"), found[1:], gradients[1:], strict=True):
            assert parameter.dtype == self.gamma.dtype, name
            close(parameter, gradient, rtol=0, largest=compute)
        if self.training:
            self.check_statistics(result)
        else:
            assert result.mean_E is None
            assert result.var_E is None

    def check_statistics(self, result: Any) -> None:
        """Statistics are those of the stored values, whatever was rounded to get there."""
        stored = result.out_BHWE.detach().double()
        tolerance = 256 * torch.finfo(self.gamma.dtype).eps / 2
        for statistic in (result.mean_E, result.var_E):
            assert statistic.dtype == self.gamma.dtype
            assert not statistic.requires_grad
        close(result.mean_E, stored.mean((0, 1, 2)), rtol=0, largest=tolerance)
        close(result.var_E, stored.var((0, 1, 2), unbiased=False), rtol=tolerance, largest=0)


def close(found: Tensor, expected: Tensor, *, rtol: float, largest: float) -> None:
    """Within ``rtol`` of each element and ``largest`` of the largest."""
    atol = largest * float(expected.abs().max())
    torch.testing.assert_close(found.detach().double(), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("shape_BHWE", "size", "activation"),
    [
        ((2, 5, 4, 3), 3, "relu6"),
        ((1, 3, 9, 17), 3, "hswish"),  # columns and channels that fill no tile
        ((2, 4, 4, 16), 1, "gelu"),
        ((1, 2, 3, 5), 5, "silu"),  # kernel larger than the grid
        ((1, 7, 1, 2), 3, "gelu"),
        ((1, 1, 7, 2), 5, "hswish"),
        ((3, 1, 1, 4), 3, "silu"),
        ((1, 3, 3, 2), 7, "relu6"),
        ((1, 2, 2, 70), 3, "hswish"),  # more channels than a tile has
    ],
)
def test_results_are_those_of_the_plain_layers(
    kernels: ModuleType,
    device: str,
    exact: torch.dtype,
    shape_BHWE: tuple[int, int, int, int],
    size: int,
    activation: str,
) -> None:
    Case(shape_BHWE, size, activation, exact, device).check(kernels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_results_are_off_by_their_rounding_alone(
    kernels: ModuleType, device: str, dtype: torch.dtype, activation: str
) -> None:
    Case((2, 4, 5, 6), 3, activation, dtype, device).check(kernels)


@pytest.mark.parametrize("programs", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_results_do_not_depend_on_how_the_work_is_split(
    kernels: ModuleType, device: str, exact: torch.dtype, programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "BAND_ROWS", 2)
    monkeypatch.setattr(kernels, "PROGRAMS", programs)
    Case((3, 5, 10, 18), 3, "silu", exact, device).check(kernels)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_running_statistics_are_constants(
    kernels: ModuleType, device: str, exact: torch.dtype, activation: str
) -> None:
    Case((2, 3, 4, 3), 3, activation, exact, device, training=False).check(kernels)


@pytest.mark.slow
def test_gradients_are_numerical_gradients(kernels: ModuleType) -> None:
    if not kernels.INTERPRETED:
        pytest.skip("gradcheck needs float64")
    case = Case((1, 2, 3, 2), 3, "silu", torch.float64, "cpu")

    def function(z: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor) -> Tensor:
        mean = z.detach().mean((0, 1, 2))
        invstd = (z.detach().var((0, 1, 2), unbiased=False) + EPSILON).rsqrt()
        out: Tensor = kernels.norm_act_depthwise(z, mean, invstd, gamma, beta, weight, "silu").out_BHWE
        return out

    leaves = [tensor.requires_grad_() for tensor in (case.z, case.gamma, case.beta, case.weight)]
    assert torch.autograd.gradcheck(function, leaves)


def test_a_large_mean_leaves_the_statistics_accurate(kernels: ModuleType, device: str) -> None:
    """E[x^2] - E[x]^2 in float32 would be off by the ulp of a million here, and the variance is about one."""
    case = Case((4, 6, 6, 3), 1, "gelu", torch.float32, device, offset=1000.0)
    case.gamma.fill_(1)
    case.beta.fill_(1000)
    case.weight.fill_(1)
    result, _ = case.run(kernels)
    assert float(result.mean_E.min()) > 990
    # A deviation of about 1 is what is left of two numbers around 1000: one of the two is stored, the other a mean
    # that is rounded to 2^-14 at best. So the deviation is known to 2^-14 of itself, and less the squares.
    stored = result.out_BHWE.detach().double()
    close(result.mean_E, stored.mean((0, 1, 2)), rtol=2**-22, largest=0)
    close(result.var_E, stored.var((0, 1, 2), unbiased=False), rtol=2**-13, largest=0)
    close(result.out_BHWE, case.reference()[0], rtol=2**-22, largest=0)


def test_the_grid_is_padded_with_zeros_after_the_activation(
    kernels: ModuleType, device: str, exact: torch.dtype
) -> None:
    ones = torch.ones(2, dtype=exact, device=device)
    z = torch.zeros(1, 4, 3, 2, dtype=exact, device=device)
    weight = torch.ones(2, 1, 3, 3, dtype=exact, device=device)
    out = kernels.norm_act_depthwise(z, ones, ones, 0 * ones, 2 * ones, weight, "relu6").out_BHWE
    neighbours = torch.tensor([[4, 6, 4], [6, 9, 6], [6, 9, 6], [4, 6, 4]], dtype=exact, device=device)
    torch.testing.assert_close(out, 2 * neighbours[None, :, :, None].expand(1, 4, 3, 2), rtol=0, atol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_is_not_a_number_stays_so(kernels: ModuleType, device: str, activation: str) -> None:
    case = Case((1, 3, 3, 2), 3, activation, torch.float32, device)
    case.z[0, 0, 0, 0] = float("nan")
    result, gradients = case.run(kernels)
    assert result.out_BHWE[0, 1, 1, 0].isnan()
    assert not result.out_BHWE[0, 1, 1, 1].isnan()
    assert gradients[0][0, 0, 0, 0].isnan()


def test_a_gradient_may_come_in_any_memory_layout(kernels: ModuleType, device: str) -> None:
    case = Case((2, 3, 4, 3), 3, "gelu", torch.float32, device)
    case.dout = torch.ones((), device=device).expand(2, 3, 4, 3)
    case.check(kernels)


def test_a_second_derivative_is_refused(kernels: ModuleType, device: str) -> None:
    case = Case((1, 2, 2, 2), 3, "silu", torch.float32, device)
    z = case.z.requires_grad_()
    out = kernels.norm_act_depthwise(z, case.mean, case.invstd, case.gamma, case.beta, case.weight, "silu").out_BHWE
    (first,) = torch.autograd.grad(out.square().sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


Z = torch.zeros(2, 4, 4, 6)
WEIGHT = torch.zeros(6, 1, 3, 3)
UNFIT = {
    "activation": (Z, WEIGHT, "relu"),
    "dtype": (Z.int(), WEIGHT, "gelu"),
    "dimensions": (Z[0], WEIGHT, "gelu"),
    "layout": (Z.transpose(1, 2), WEIGHT, "gelu"),
    "empty": (Z[:0], WEIGHT, "gelu"),
    "channels": (Z, WEIGHT[:3], "gelu"),
    "even kernel": (Z, torch.zeros(6, 1, 2, 2), "gelu"),
    "large kernel": (Z, torch.zeros(6, 1, 9, 9), "gelu"),
    "oblong kernel": (Z, torch.zeros(6, 1, 1, 3), "gelu"),
    "devices": (Z, WEIGHT.to("meta"), "gelu"),
}


@pytest.mark.parametrize("reason", UNFIT)
def test_it_tells_what_does_not_fit(kernels: ModuleType, device: str, reason: str) -> None:
    z, weight, activation = UNFIT[reason]
    z, weight = z.to(device), weight if weight.is_meta else weight.to(device)
    vectors = [torch.ones(z.shape[-1], device=device)] * 4
    assert not kernels.fits(z, weight, activation)
    with pytest.raises(ValueError, match="ask fits"):
        kernels.norm_act_depthwise(z, *vectors, weight, activation)


def test_vectors_of_another_length_are_refused(kernels: ModuleType, device: str) -> None:
    vectors = [torch.ones(6, device=device)] * 3
    with pytest.raises(ValueError, match=r"beta is \(5,\)"):
        kernels.norm_act_depthwise(Z.to(device), *vectors, torch.ones(5, device=device), WEIGHT.to(device), "gelu")


@pytest.mark.parametrize("name", ["forward_kernel", "backward_kernel", "statistics_gradient_kernel"])
def test_the_compiler_takes_what_the_interpreter_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter is Python and allows more than the compiler does; and that needs no GPU, only the name of one."""
    triton = pytest.importorskip("triton")
    compiler = pytest.importorskip("triton.compiler")
    backends = pytest.importorskip("triton.backends.compiler")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    kernel = getattr(loaded_anew(), name)
    constants = {
        "ACTIVATION": "gelu", "K": 3, "STATISTICS": True, "CONSTANT": False, "BLOCK_L": 8, "BLOCK_N": 32, "BLOCK_E": 64
    }  # fmt: skip
    stored = {"z_ptr": "*bf16", "out_ptr": "*bf16", "dout_ptr": "*bf16", "dz_ptr": "*bf16"}
    signature = {
        argument: "constexpr" if argument in constants
        else stored.get(argument, "*fp32") if argument.endswith("_ptr")
        else "i32"
        for argument in kernel.arg_names
    }  # fmt: skip
    used = {argument: constants[argument] for argument in kernel.arg_names if argument in constants}
    source = compiler.ASTSource(kernel, signature, used)
    # Without the option Triton 3.9 warns that its default is about to change.
    compiled = triton.compile(source, target=backends.GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": True})
    assert "ptx" in compiled.asm


def test_compiled_kernels_do_not_fit_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not loaded_anew().fits(Z, WEIGHT, "gelu")


def test_nothing_fits_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    assert not loaded_anew().fits(Z, WEIGHT, "gelu")
