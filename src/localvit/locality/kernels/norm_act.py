"""Batch norm and activation of a feature map as one step that stores only its input.

PyTorch's batch norm and activation store two more maps and read them again, and the hidden maps of a locality
feed-forward network are by far the largest tensors of a block. This step computes the batch statistics first and
recomputes everything else from the input when needed.

The formulas exist twice: as PyTorch kernels for eager execution, and as plain arithmetic that ``torch.compile`` fuses
into one pass each.

Shape suffixes: B images, C channels, H x W the grid, M = H * W positions.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from localvit.locality.kernels.hooks import is_watched
from localvit.locality.kernels.settle import settle
from localvit.locality.kernels.sums import over_images_and_positions

Pointwise = Callable[[Tensor], Tensor]
Statistics = tuple[Tensor, Tensor]


class _Activation(NamedTuple):
    """An activation in both forms.

    Attributes:
        eager: the function, in place if PyTorch supports it.
        eager_backward: PyTorch's backward kernel, from the gradient and the function's input.
        formula: the function as arithmetic, without a division, which would take longer than everything else.
        derivative: the derivative of the function.
    """

    eager: Pointwise
    eager_backward: Callable[[Tensor, Tensor], Tensor]
    formula: Pointwise
    derivative: Pointwise


def _gelu_derivative(y: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(y * math.sqrt(0.5))) + y * torch.exp(-0.5 * y * y) * (1 / math.sqrt(2 * math.pi))


def _silu_derivative(y: Tensor) -> Tensor:
    gate = torch.sigmoid(y)
    return gate * (1 + y * (1 - gate))


# The backward kernels of activations have no public name; the tests compare each with autograd.
_ACTIVATIONS: dict[type[nn.Module], _Activation] = {
    nn.ReLU6: _Activation(
        lambda y: F.relu6(y, inplace=True),
        lambda grad, y: torch.ops.aten.hardtanh_backward(grad, y, 0, 6),
        lambda y: y.clamp(0, 6),
        lambda y: ((y > 0) & (y < 6)).to(y.dtype),
    ),
    nn.Hardswish: _Activation(
        lambda y: F.hardswish(y, inplace=True),
        torch.ops.aten.hardswish_backward,
        lambda y: y * (y * (1 / 6) + 0.5).clamp(0, 1),
        lambda y: torch.where(y <= -3, 0.0, torch.where(y < 3, y * (1 / 3) + 0.5, 1.0)),
    ),
    nn.GELU: _Activation(F.gelu, torch.ops.aten.gelu_backward, F.gelu, _gelu_derivative),
    nn.SiLU: _Activation(
        lambda y: F.silu(y, inplace=True),
        torch.ops.aten.silu_backward,
        lambda y: y * torch.sigmoid(y),
        _silu_derivative,
    ),
}


def fits(norm: nn.Module, act: nn.Module) -> bool:
    """Whether :func:`then` may replace ``act(norm(z))``: an ordinary batch norm in training mode, without hooks.

    Synchronized and frozen batch norms, and modules with hooks, must be called as modules.
    """
    return (
        type(norm) is nn.BatchNorm2d
        and norm.training
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and type(act) in _ACTIVATIONS
        and getattr(act, "approximate", "none") == "none"
        and not is_watched(norm, act)
    )


def _is_compiling() -> bool:
    return torch.compiler.is_compiling()


def batch_statistics(z_BCHW: Tensor, norm: nn.BatchNorm2d) -> Statistics:
    """Mean and biased variance (C,) of a batch; also updates the running statistics of ``norm``."""
    z_BCHW = z_BCHW.detach()
    if _is_compiling():
        statistics = _two_pass(_tokens(z_BCHW))
        move(norm, statistics, z_BCHW.numel() // z_BCHW.shape[1])
        return statistics
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        mean_C, var_C = torch.batch_norm_update_stats(z_BCHW, norm.running_mean, norm.running_var, norm.momentum)
    return mean_C, var_C


def move(norm: nn.BatchNorm2d, statistics: Statistics, count: int) -> None:
    """Update the running statistics of ``norm`` with those of a batch of ``count`` values per channel."""
    mean_C, var_C = statistics
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean_C.to(norm.running_mean.dtype), norm.momentum)
        norm.running_var.lerp_((var_C * (count / (count - 1))).to(norm.running_var.dtype), norm.momentum)


def then(following: Pointwise, z_BCHW: Tensor, norm: nn.BatchNorm2d, act: nn.Module) -> Tensor:
    """``following(act(norm(z)))`` for a batch norm in training mode; the backward pass needs only ``z``.

    Args:
        following: what comes next; the backward pass repeats it up to its last operation.
        z_BCHW: the input of the norm.
        norm: the batch norm; its running statistics are updated.
        act: the activation.

    Raises:
        RuntimeError: from autograd, on a second derivative.
    """
    mean_C, var_C = batch_statistics(z_BCHW, norm)

    def run(z_BCHW: Tensor) -> Tensor:
        a_BCHW: Tensor = _NormAct.apply(z_BCHW, type(act), norm.eps, norm.weight, norm.bias, mean_C, var_C)
        return following(a_BCHW)

    # Eager recomputation stops before the last operation by itself. The compiler needs a policy.
    contexts = partial(create_selective_checkpoint_contexts, _store_products)
    policy: dict[str, Any] = {"context_fn": contexts} if _is_compiling() else {}
    out_BCHW: Tensor = checkpoint(run, z_BCHW, use_reentrant=False, preserve_rng_state=False, **policy)
    return out_BCHW


def _store_products(ctx: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    aten = torch.ops.aten
    products = (aten.convolution.default, aten.addmm.default, torch.ops.localvit.convolve.default)
    return CheckpointPolicy.MUST_SAVE if operation in products else CheckpointPolicy.PREFER_RECOMPUTE


class _Norm(NamedTuple):
    """The numbers of a batch norm: its parameters, and mean and biased variance of the batch."""

    eps: float
    weight_C: Tensor
    bias_C: Tensor
    mean_C: Tensor
    var_C: Tensor


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z_BCHW: Tensor, act: type[nn.Module], eps: float, *tensors_C: Tensor) -> Tensor:
        ctx.save_for_backward(z_BCHW, *tensors_C)
        ctx.eps, ctx.act = eps, act
        norm = _Norm(eps, *tensors_C)
        if not _is_compiling():
            return _ACTIVATIONS[act].eager(_normalized(z_BCHW, norm))
        scale_C, shift_C = _scale_and_shift(norm)
        y_BMC = _wide(_tokens(z_BCHW)) * scale_C + shift_C
        return _map_like(_ACTIVATIONS[act].formula(y_BMC), z_BCHW)

    @staticmethod
    @once_differentiable  # it treats the statistics as constants, so a second derivative would be wrong
    def backward(ctx: Any, grad_BCHW: Tensor) -> tuple[Tensor | None, ...]:
        z_BCHW, *tensors_C = ctx.saved_tensors
        form = _backward_formula if _is_compiling() else _backward_eager
        dz_BCHW, dweight_C, dbias_C = form(grad_BCHW, z_BCHW, _Norm(ctx.eps, *tensors_C), ctx.act)
        return dz_BCHW, None, None, dweight_C, dbias_C, None, None


def _normalized(z_BCHW: Tensor, norm: _Norm) -> Tensor:
    return F.batch_norm(z_BCHW, norm.mean_C, norm.var_C, norm.weight_C, norm.bias_C, False, 0.0, norm.eps)


def _backward_eager(
    grad_BCHW: Tensor, z_BCHW: Tensor, norm: _Norm, act: type[nn.Module]
) -> tuple[Tensor, Tensor, Tensor]:
    y_BCHW = _normalized(z_BCHW, norm)
    dy_BCHW = _ACTIVATIONS[act].eager_backward(grad_BCHW.to(y_BCHW.dtype), y_BCHW)
    invstd_C = torch.rsqrt(norm.var_C + norm.eps)
    # The backward kernel of batch norm has no public name.
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
        dy_BCHW, z_BCHW, norm.weight_C, None, None, norm.mean_C, invstd_C, True, norm.eps, [True, True, True]
    )
    return gradients


def _backward_formula(
    grad_BCHW: Tensor, z_BCHW: Tensor, norm: _Norm, act: type[nn.Module]
) -> tuple[Tensor, Tensor, Tensor]:
    scale_C, shift_C = _scale_and_shift(norm)
    z_BMC, grad_BMC = _wide(_tokens(z_BCHW)), _wide(_tokens(grad_BCHW))
    derivative = _ACTIVATIONS[act].derivative
    count = z_BMC.shape[0] * z_BMC.shape[1]
    mean_C, invstd_C = norm.mean_C, torch.rsqrt(norm.var_C + norm.eps)
    # The gradient of the norm's output appears three times, each with its terms in another order. Otherwise the
    # compiler would recognize one shared tensor and write it to memory in full precision.
    dbias_C = over_images_and_positions(grad_BMC * derivative(shift_C + scale_C * z_BMC))
    product_C = over_images_and_positions(grad_BMC * derivative(shift_C + z_BMC * scale_C) * z_BMC)
    dweight_C = (product_C - mean_C * dbias_C) * invstd_C
    slope_C = settle(dweight_C * invstd_C / count)
    offset_C = settle(dbias_C / count - mean_C * slope_C)
    dz_BMC = scale_C * (grad_BMC * derivative(scale_C * z_BMC + shift_C) - offset_C - z_BMC * slope_C)
    return _map_like(dz_BMC, z_BCHW), dweight_C, dbias_C


def _scale_and_shift(norm: _Norm) -> tuple[Tensor, Tensor]:
    scale_C = norm.weight_C * torch.rsqrt(norm.var_C + norm.eps)
    return settle(scale_C), settle(norm.bias_C - norm.mean_C * scale_C)


def _two_pass(z_BMC: Tensor) -> Statistics:
    count = z_BMC.shape[0] * z_BMC.shape[1]
    mean_C = settle(over_images_and_positions(_wide(z_BMC)) / count)
    centred_BMC = _wide(z_BMC) - mean_C
    return mean_C, over_images_and_positions(centred_BMC * centred_BMC) / count


def _tokens(x_BCHW: Tensor) -> Tensor:
    """The map as tokens (B, M, C): a view, because the map is channels-last."""
    return x_BCHW.permute(0, 2, 3, 1).flatten(1, 2)


def _wide(x: Tensor) -> Tensor:
    """Cast half precision to float32, as sums need."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _map_like(x_BMC: Tensor, like_BCHW: Tensor) -> Tensor:
    """Tokens as a map with the size and dtype of another."""
    x_BHWC: Tensor = x_BMC.to(like_BCHW.dtype).unflatten(1, like_BCHW.shape[2:])
    return x_BHWC.permute(0, 3, 1, 2)
