"""Training in few passes against the plain sequence of modules: outputs, gradients, statistics, memory."""

import copy
from typing import Any, get_args
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from localvit import LocalityConfig, LocalityFeedForward, save_memory
from localvit.locality.config import Activation, ChannelAttention
from localvit.locality.kernels import few_passes, forms, norm_act


def in_few_passes(dim: int, config: LocalityConfig | None = None, **arguments: Any) -> LocalityFeedForward:
    network = LocalityFeedForward(dim, config, **arguments).train()
    save_memory(network)
    return network


def plain(network: LocalityFeedForward) -> LocalityFeedForward:
    """A copy that runs its modules one after the other, compiled too."""
    network = copy.deepcopy(network)
    network.fast_form = lambda network, image_BDHW: network.in_order(image_BDHW)
    return network


def trained_step(model: Any, x_BND: Tensor, grid: tuple[int, int]) -> tuple[Tensor, ...]:
    """Output, gradients and buffers of one training step."""
    x_BND = x_BND.clone().requires_grad_()
    out_BND = model(x_BND, grid)
    weights_BND = torch.linspace(-1, 2, out_BND.numel(), dtype=out_BND.dtype).view_as(out_BND)
    (out_BND * weights_BND).sum().backward()
    assert x_BND.grad is not None
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None for gradient in gradients)
    return out_BND.detach(), x_BND.grad, *gradients, *[buffer.clone() for buffer in model.buffers()]


@pytest.mark.parametrize("depthwise", [True, False])
@pytest.mark.parametrize("attention", get_args(ChannelAttention))
@pytest.mark.parametrize("activation", get_args(Activation))
@pytest.mark.parametrize("form", ["eager", "formula"])
def test_a_step_is_that_of_the_plain_modules(
    form: str,
    activation: Activation,
    attention: ChannelAttention,
    depthwise: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    config = LocalityConfig(activation=activation, channel_attention=attention, depthwise=depthwise, kernel_size=5)
    model = in_few_passes(8, config, num_prefix_tokens=1).double()
    # Far from zero, where one pass over squares would lose digits, and where activations bend.
    x_BND = 3 * torch.randn(3, 1 + 20, 8, dtype=torch.float64) + 50
    expected = trained_step(plain(model), x_BND, (4, 5))
    if form == "formula":  # the arithmetic that the compiler gets, as it stands
        monkeypatch.setattr(norm_act, "_is_compiling", lambda: True)
    for ours, theirs in zip(trained_step(model, x_BND, (4, 5)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


COMPILED = [
    pytest.param("none", 1e-9, marks=pytest.mark.slow),
    pytest.param("eca", 1e-9, marks=pytest.mark.slow),
    ("se", 1e-6),
]


# The compiler's own gradient of a hard sigmoid has a sixth of single precision, here and in the plain modules.
@pytest.mark.parametrize(("attention", "tolerance"), COMPILED)
def test_compiled_it_is_the_same_step(attention: ChannelAttention, tolerance: float) -> None:
    torch.manual_seed(0)
    model = LocalityFeedForward(8, LocalityConfig(channel_attention=attention), num_prefix_tokens=1).double().train()
    x_BND = torch.randn(3, 1 + 20, 8, dtype=torch.float64)
    expected = trained_step(plain(model), x_BND, (4, 5))
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True)
    for ours, theirs in zip(trained_step(compiled, x_BND, (4, 5)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("compiling", [False, True])
def test_few_passes_are_the_default_where_they_are_faster(compiling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled on a CPU; ``benchmarks/training_forms.py`` measures it."""
    network = LocalityFeedForward(8).train()
    few, in_order = mock.Mock(return_value=torch.zeros(2, 8, 3, 3)), mock.Mock(return_value=torch.zeros(2, 8, 3, 3))
    monkeypatch.setattr(forms, "few_passes", few)
    monkeypatch.setattr(network, "in_order", in_order)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    network(torch.randn(2, 9, 8), (3, 3))
    assert (few.called, in_order.called) == (compiling, not compiling)


def test_saving_memory_can_be_switched_off_and_is_copied_with_a_model() -> None:
    model = nn.Sequential(in_few_passes(8))
    assert copy.deepcopy(model)[0].fast_form is few_passes.few_passes
    save_memory(model, enabled=False)
    assert model[0].fast_form is forms.faster


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    model = in_few_passes(3, LocalityConfig(activation="silu", expansion_ratio=2)).double()
    x_BND = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x_BND: model(x_BND, (2, 3)), (x_BND,))


def test_in_bfloat16_statistics_stay_in_float32() -> None:
    torch.manual_seed(0)
    model = in_few_passes(16, LocalityConfig(channel_attention="se", se_reduction=8))
    x_BND = torch.randn(8, 49, 16)
    exact = trained_step(copy.deepcopy(model).double(), x_BND.double(), (7, 7))
    with torch.autocast("cpu", torch.bfloat16):
        theirs = trained_step(plain(model), x_BND, (7, 7))
        ours = trained_step(model, x_BND, (7, 7))
    for mine, other, true in zip(ours, theirs, exact, strict=True):
        assert mine.dtype == other.dtype
        assert _distance(mine, true) < max(1.25 * _distance(other, true), 1e-6)


def test_of_the_hidden_maps_two_are_stored() -> None:
    """In front of each norm; the plain modules store seven."""

    def hidden_maps_stored(model: nn.Module) -> int:
        stored: set[int] = set()

        def note(tensor: Tensor) -> Tensor:
            if tensor.numel() == hidden:
                stored.add(tensor.data_ptr())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            out_BND = model(x_BND, (7, 7))
        out_BND.sum().backward()
        return len(stored)

    model = in_few_passes(16, LocalityConfig(channel_attention="se", se_reduction=8))
    x_BND = torch.randn(8, 49, 16, requires_grad=True)
    hidden = 8 * 49 * 64
    assert hidden_maps_stored(model) == 2
    assert hidden_maps_stored(plain(model)) == 7


def test_running_statistics_move_once_a_step() -> None:
    model = in_few_passes(8)
    x_BND = torch.randn(4, 25, 8, requires_grad=True)
    model(x_BND, (5, 5)).sum().backward()
    assert [int(norm.num_batches_tracked) for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)] == [1, 1, 1]  # type: ignore[arg-type]


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    model = in_few_passes(8)
    x_BND = torch.randn(4, 25, 8, requires_grad=True)
    (gradient_BND,) = torch.autograd.grad(model(x_BND, (5, 5)).square().sum(), x_BND, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient_BND.sum().backward()


def test_one_value_a_channel_is_refused_as_by_the_norm_itself() -> None:
    model = in_few_passes(8)
    for network in (plain(model), model):
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            network(torch.randn(1, 1, 8), (1, 1))


class _Ignored(nn.BatchNorm2d):
    """Another class of norm, such as one that is synchronized."""


def test_what_is_no_ordinary_batch_norm_in_training_is_called_as_it_is() -> None:
    act = nn.Hardswish()
    assert norm_act.fits(nn.BatchNorm2d(4), act)
    assert not norm_act.fits(nn.BatchNorm2d(4).eval(), act)
    assert not norm_act.fits(nn.BatchNorm2d(4, affine=False), act)
    assert not norm_act.fits(nn.BatchNorm2d(4, track_running_stats=False), act)
    assert not norm_act.fits(nn.BatchNorm2d(4, momentum=None), act)
    assert not norm_act.fits(nn.SyncBatchNorm(4), act)
    assert not norm_act.fits(_Ignored(4), act)
    assert not norm_act.fits(nn.BatchNorm2d(4), nn.Tanh())
    assert not norm_act.fits(nn.BatchNorm2d(4), nn.GELU(approximate="tanh"))


@pytest.mark.parametrize("compiling", [False, True])
@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize(
    "name", ["expand.norm", "expand.act", "depthwise.norm", "depthwise.act", "channel_attention.fc1"]
)
def test_hooks_on_its_modules_are_called(
    register: str, name: str, compiling: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = in_few_passes(8, LocalityConfig(channel_attention="se"))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    seen: list[Any] = []
    getattr(model.get_submodule(name), register)(lambda *arguments: seen.append(arguments))
    model(torch.randn(2, 9, 8), (3, 3))
    assert len(seen) == 1


@pytest.mark.parametrize("act", [nn.ReLU6(), nn.Hardswish(), nn.GELU(), nn.SiLU()])
def test_derivatives_of_activations_are_autograds(act: nn.Module) -> None:
    y = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    y = y[(y.abs() - 3).abs().minimum(y.abs()).minimum((y - 6).abs()) > 1e-9].requires_grad_()  # but for the kinks
    grad = torch.linspace(1, 2, len(y), dtype=torch.float64)
    out = act(y)
    (expected,) = torch.autograd.grad(out, y, grad)
    activation = norm_act._ACTIVATIONS[type(act)]
    torch.testing.assert_close(activation.formula(y.detach()), out.detach())
    torch.testing.assert_close(activation.derivative(y.detach()) * grad, expected)
    torch.testing.assert_close(activation.eager_backward(grad, y.detach()), expected)
    torch.testing.assert_close(activation.eager(y.detach().clone()), out.detach())


@pytest.mark.parametrize("compiling", [False, True])
def test_statistics_are_exact_far_from_zero(compiling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm_act, "_is_compiling", lambda: compiling)
    z_BCHW = 1000 + torch.randn(4, 8, 6, 6)
    norm = nn.BatchNorm2d(8)
    expected = copy.deepcopy(norm).double()
    F.batch_norm(z_BCHW.double(), expected.running_mean, expected.running_var, training=True, momentum=0.1)
    mean_C, var_C = norm_act.batch_statistics(z_BCHW, norm)
    torch.testing.assert_close(mean_C, z_BCHW.double().mean((0, 2, 3)).float())
    torch.testing.assert_close(var_C, z_BCHW.double().var((0, 2, 3), correction=0).float(), rtol=1e-4, atol=0)
    torch.testing.assert_close(norm.running_mean, expected.running_mean.float())  # type: ignore[union-attr]
    torch.testing.assert_close(norm.running_var, expected.running_var.float(), rtol=1e-4, atol=0)  # type: ignore[union-attr]


def _distance(a: Tensor, true: Tensor) -> float:
    return float((a.double() - true.double()).norm() / true.double().norm().clamp(min=1e-12))
