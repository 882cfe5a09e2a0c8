"""The kernels of the depth-wise convolution against the plain layers in float64."""

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from triton_interpreter import loaded_anew, runnable

from localvit.locality.feed_forward import ACTIVATIONS
from localvit.locality.kernels.gpu import depthwise, normalized

EPSILON = 1e-5


@pytest.fixture(scope="module")
def kernels() -> Iterator[ModuleType]:
    yield from runnable(depthwise)


@pytest.fixture
def device(kernels: ModuleType) -> str:
    return "cpu" if kernels.device.INTERPRETED else "cuda"


@pytest.fixture
def exact(kernels: ModuleType) -> torch.dtype:
    """The dtype with the smallest rounding errors that the kernels take here."""
    return torch.float64 if kernels.device.INTERPRETED else torch.float32


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
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        channels = shape_BHWE[3]
        parameters = torch.float64 if dtype == torch.float64 else torch.float32

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        self.activation, self.dtype = activation, dtype
        self.z = (normal(*shape_BHWE) * 2 + offset).to(dtype).to(device)
        self.gamma = (1 + 0.3 * normal(channels)).to(parameters).to(device)
        self.beta = normal(channels).to(parameters).to(device)
        self.weight = normal(channels, 1, size, size).to(parameters).to(device)
        self.dout = normal(*shape_BHWE).to(dtype).to(device)
        z64 = self.z.double()
        self.mean = z64.mean((0, 1, 2)).to(parameters)
        self.invstd = (z64.var((0, 1, 2), unbiased=False) + EPSILON).rsqrt().to(parameters)

    def reference(self) -> tuple[Tensor, list[Tensor]]:
        """Output, and gradients for input, gamma, beta and weight."""
        leaves = [tensor.double().requires_grad_() for tensor in (self.z, self.gamma, self.beta, self.weight)]
        z, gamma, beta, weight = leaves
        image = z.permute(0, 3, 1, 2)
        y = F.batch_norm(image, None, None, gamma, beta, training=True, eps=EPSILON)
        a = ACTIVATIONS[self.activation]()(y)
        out = F.conv2d(a, weight, padding=weight.shape[-1] // 2, groups=weight.shape[0]).permute(0, 2, 3, 1)
        return out.detach(), list(torch.autograd.grad(out, leaves, self.dout.double()))

    def run(self, kernels: ModuleType) -> tuple[Tensor, tuple[Tensor, Tensor], list[Tensor]]:
        """Output, its mean and variance, and gradients for input, gamma, beta and weight."""
        leaves = [tensor.clone().requires_grad_() for tensor in (self.z, self.gamma, self.beta, self.weight)]
        z, gamma, beta, weight = leaves
        assert kernels.fits(z, weight, self.activation)
        norm = kernels.Norm(self.mean, self.invstd, gamma, beta)
        out, moments = kernels.norm_act_depthwise(z, norm, weight, self.activation)
        return out, combined(*moments), list(torch.autograd.grad(out, leaves, self.dout))

    def check(self, kernels: ModuleType) -> None:
        """Compare all results.

        Numbers of the computation err by half a unit in the last place (ulp, ``eps`` relative to the number) each time
        they are rounded. Every result is a sum of a few hundred products at most, so 256 half ulps of the largest one
        is what the computation may be off by, and 1 half ulp more what storing an element in the input's dtype costs.
        The gradient of the input is stored twice, the first time before the mean gradient leaves it. The interpreter
        does not round to bfloat16, it cuts off: a whole ulp.
        """
        out, gradients = self.reference()
        found_out, statistics, found = self.run(kernels)
        eps = torch.finfo(self.dtype).eps
        storing = eps if kernels.device.INTERPRETED and self.dtype == torch.bfloat16 else eps / 2
        compute = 256 * torch.finfo(self.gamma.dtype).eps / 2
        assert found_out.dtype == self.dtype
        close(found_out, out, rtol=storing, largest=compute)
        close(found[0], gradients[0], rtol=storing, largest=compute + 2 * storing)
        for name, parameter, gradient in zip(("gamma", "beta", "weight"), found[1:], gradients[1:], strict=True):
            assert parameter.dtype == self.gamma.dtype, name
            close(parameter, gradient, rtol=0, largest=compute)
        self.check_statistics(found_out.detach().double(), statistics)

    def check_statistics(self, stored: Tensor, statistics: tuple[Tensor, Tensor]) -> None:
        """Statistics are those of the stored values, whatever was rounded to get there."""
        tolerance = 256 * torch.finfo(self.gamma.dtype).eps / 2
        for statistic in statistics:
            assert statistic.dtype == self.gamma.dtype
            assert not statistic.requires_grad
        close(statistics[0], stored.mean((0, 1, 2)), rtol=0, largest=tolerance)
        close(statistics[1], stored.var((0, 1, 2), unbiased=False), rtol=tolerance, largest=0)


def combined(count_P: Tensor, part_2PE: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of all values, from moments of parts: means of means, and of squares about them."""
    share_P1 = (count_P / count_P.sum())[:, None]
    mean_PE, squares_PE = part_2PE
    mean_E = (share_P1 * mean_PE).sum(0)
    return mean_E, (squares_PE / count_P.sum() + share_P1 * (mean_PE - mean_E).square()).sum(0)


def close(found: Tensor, expected: Tensor, *, rtol: float, largest: float) -> None:
    """Within ``rtol`` of each element and ``largest`` of the largest."""
    atol = largest * float(expected.abs().max())
    torch.testing.assert_close(found.detach().double(), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("shape_BHWE", "size", "activation"),
    [
        ((2, 5, 4, 3), 3, "relu6"),
        ((1, 3, 9, 17), 3, "hswish"),  # channels that fill no block
        ((2, 4, 4, 16), 1, "gelu"),
        ((1, 2, 3, 5), 5, "silu"),  # kernel larger than the grid
        ((1, 7, 1, 2), 3, "gelu"),
        ((1, 1, 7, 2), 5, "hswish"),
        ((3, 1, 1, 4), 3, "silu"),
        ((1, 3, 3, 2), 7, "relu6"),
        ((1, 2, 2, 70), 3, "hswish"),  # more channels than a block has
        ((1, 3, 17, 2), 3, "relu6"),  # more columns than a strip has
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


@pytest.mark.parametrize("rows", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_results_do_not_depend_on_how_the_work_is_split(
    kernels: ModuleType, device: str, exact: torch.dtype, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "LEAST_ROWS", rows)
    for strips in (kernels.FORWARD, kernels.BACKWARD):
        monkeypatch.setitem(strips, 3, strips[3]._replace(columns=2))
    Case((2, 5, 5, 18), 3, "silu", exact, device).check(kernels)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_activations_and_the_means_take_the_same_pass(
    kernels: ModuleType, device: str, dtype: torch.dtype, activation: str
) -> None:
    case = Case((2, 4, 5, 6), 3, activation, dtype, device)
    shift, bias = case.beta, case.gamma
    out, means = kernels.act_depthwise_act(case.z, shift, case.weight, bias, activation)
    act = ACTIVATIONS[activation]()
    image = act(case.z.double() + shift.double()).permute(0, 3, 1, 2)
    expected = act(F.conv2d(image, case.weight.double(), bias.double(), padding=1, groups=6)).permute(0, 2, 3, 1)
    storing = torch.finfo(dtype).eps / (1 if kernels.device.INTERPRETED else 2)
    compute = 256 * torch.finfo(torch.float32).eps / 2
    close(out, expected, rtol=storing, largest=compute)
    close(means, out.double().mean((1, 2)), rtol=0, largest=compute)


@pytest.mark.slow
def test_gradients_are_numerical_gradients(kernels: ModuleType) -> None:
    if not kernels.device.INTERPRETED:
        pytest.skip("gradcheck needs float64")
    case = Case((1, 2, 3, 2), 3, "silu", torch.float64, "cpu")

    def function(z: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor) -> Tensor:
        mean = z.detach().mean((0, 1, 2))
        invstd = (z.detach().var((0, 1, 2), unbiased=False) + EPSILON).rsqrt()
        out: Tensor = kernels.norm_act_depthwise(z, kernels.Norm(mean, invstd, gamma, beta), weight, "silu")[0]
        return out

    leaves = [tensor.requires_grad_() for tensor in (case.z, case.gamma, case.beta, case.weight)]
    assert torch.autograd.gradcheck(function, leaves)


def test_a_large_mean_leaves_the_statistics_accurate(kernels: ModuleType, device: str) -> None:
    """E[x^2] - E[x]^2 in float32 would be off by the ulp of a million here, and the variance is about one."""
    case = Case((4, 6, 6, 3), 1, "gelu", torch.float32, device, offset=1000.0)
    case.gamma.fill_(1)
    case.beta.fill_(1000)
    case.weight.fill_(1)
    out, (mean, var), _ = case.run(kernels)
    assert float(mean.min()) > 990
    # A deviation of about 1 is what is left of two numbers around 1000: one of the two is stored, the other a mean
    # that is rounded to 2^-14 at best. So the deviation is known to 2^-14 of itself, and less the squares.
    stored = out.detach().double()
    close(mean, stored.mean((0, 1, 2)), rtol=2**-22, largest=0)
    close(var, stored.var((0, 1, 2), unbiased=False), rtol=2**-13, largest=0)
    close(out, case.reference()[0], rtol=2**-22, largest=0)


def test_the_grid_is_padded_with_zeros_after_the_activation(
    kernels: ModuleType, device: str, exact: torch.dtype
) -> None:
    ones = torch.ones(2, dtype=exact, device=device)
    z = torch.zeros(1, 4, 3, 2, dtype=exact, device=device)
    weight = torch.ones(2, 1, 3, 3, dtype=exact, device=device)
    out, _ = kernels.norm_act_depthwise(z, kernels.Norm(ones, ones, 0 * ones, 2 * ones), weight, "relu6")
    neighbours = torch.tensor([[4, 6, 4], [6, 9, 6], [6, 9, 6], [4, 6, 4]], dtype=exact, device=device)
    torch.testing.assert_close(out, 2 * neighbours[None, :, :, None].expand(1, 4, 3, 2), rtol=0, atol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_is_not_a_number_stays_so(kernels: ModuleType, device: str, activation: str) -> None:
    case = Case((1, 3, 3, 2), 3, activation, torch.float32, device)
    case.z[0, 0, 0, 0] = float("nan")
    out, _, gradients = case.run(kernels)
    assert out[0, 1, 1, 0].isnan()
    assert not out[0, 1, 1, 1].isnan()
    assert gradients[0][0, 0, 0, 0].isnan()


def test_a_gradient_may_come_in_any_memory_layout(kernels: ModuleType, device: str) -> None:
    case = Case((2, 3, 4, 3), 3, "gelu", torch.float32, device)
    case.dout = torch.ones((), device=device).expand(2, 3, 4, 3)
    case.check(kernels)


def test_a_second_derivative_is_refused(kernels: ModuleType, device: str) -> None:
    case = Case((1, 2, 2, 2), 3, "silu", torch.float32, device)
    z = case.z.requires_grad_()
    norm = kernels.Norm(case.mean, case.invstd, case.gamma, case.beta)
    out, _ = kernels.norm_act_depthwise(z, norm, case.weight, "silu")
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
    norm = kernels.Norm(*[torch.ones(z.shape[-1], device=device)] * 4)
    assert not kernels.fits(z, weight, activation)
    with pytest.raises(ValueError, match="ask fits"):
        kernels.norm_act_depthwise(z, norm, weight, activation)


def test_vectors_of_another_length_are_refused(kernels: ModuleType, device: str) -> None:
    norm = kernels.Norm(*[torch.ones(6, device=device)] * 3, torch.ones(5, device=device))
    with pytest.raises(ValueError, match=r"beta_E is \(5,\)"):
        kernels.norm_act_depthwise(Z.to(device), norm, WEIGHT.to(device), "gelu")


CONSTANTS = {
    "W": 14, "E": 768, "ACTIVATION": "gelu", "K": 3, "TRAINING": True, "GATES": True,
    "COLUMNS": 7, "BLOCK_N": 16, "BLOCK_E": 64, "BLOCK_P": 64, "BLOCK_B": 64,
}  # fmt: skip
STORED = ("z_ptr", "out_ptr", "dout_ptr", "dy_ptr", "dz_ptr")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("convolution", "forward_kernel"),
        ("convolution", "backward_kernel"),
        ("passes", "moments_kernel"),
        ("passes", "statistics_kernel"),
        ("passes", "mean_kernel"),
        ("passes", "scale_kernel"),
        ("passes", "gradient_sums_kernel"),
        ("passes", "channel_sums_kernel"),
        ("passes", "gradient_kernel"),
    ],
)
def test_the_compiler_takes_what_the_interpreter_runs(module: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter is Python and allows more than the compiler does; and that needs no GPU, only the name of one."""
    triton = pytest.importorskip("triton")
    compiler = pytest.importorskip("triton.compiler")
    backends = pytest.importorskip("triton.backends.compiler")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    kernel = getattr(loaded_anew(module)[0], name)
    constants = {one: value for one, value in CONSTANTS.items() if module == "convolution" or one not in ("W", "E")}
    if "BLOCK_P" in kernel.arg_names or "BLOCK_B" in kernel.arg_names:
        constants["BLOCK_E"] = normalized.NARROW_BLOCK
    signature = {
        argument: "constexpr" if argument in constants
        else "*i64" if argument == "tracked_ptr"
        else ("*bf16" if argument in STORED else "*fp32") if argument.endswith("_ptr")
        else "fp32" if argument in ("momentum", "eps")
        else "i32"
        for argument in kernel.arg_names
    }  # fmt: skip
    used = {argument: constants[argument] for argument in kernel.arg_names if argument in constants}
    source = compiler.ASTSource(kernel, signature, used)
    # Without the option Triton 3.9 warns that its default is about to change.
    compiled = triton.compile(source, target=backends.GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": True})
    assert "ptx" in compiled.asm


def test_compiled_kernels_do_not_run_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not loaded_anew("device")[0].runs_on(Z)


def test_nothing_runs_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    assert not loaded_anew("device")[0].runs_on(Z)
