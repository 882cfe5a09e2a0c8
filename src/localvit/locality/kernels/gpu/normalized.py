"""Batch norm, activation and channel attention of a channels-last map in few passes over it.

The statistics of a batch take one pass. Channel attention needs the means of the activated map before it can scale it.
That is one pass each, and both compute norm and activation anew instead of storing them. The backward pass takes two as
well: one for all the sums that any gradient needs, and one for the gradient of the input.

The calls of many small operators would keep the GPU waiting. So what is computed per channel is a kernel too.

Shape suffixes: B images, M = H * W positions, E channels, P programs, each of which writes one partial sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from localvit.locality.kernels.gpu.device import ceil_div, compute_dtype
from localvit.locality.kernels.gpu.launch import launch
from localvit.locality.kernels.gpu.passes import (
    channel_sums_kernel,
    gradient_kernel,
    gradient_sums_kernel,
    mean_kernel,
    moments_kernel,
    scale_kernel,
    statistics_kernel,
)

Gates = Callable[[Tensor], Tensor]
BLOCK_POSITIONS, BLOCK_CHANNELS = 16, 64
NARROW_BLOCK = 16  # channels of kernels whose work is small, for more programs
SPAN = 512  # positions that a program adds up


class Moments(NamedTuple):
    """Count (P,), and mean and sum of squared deviations (2, P, E), of parts of a map."""

    count_P: Tensor
    part_2PE: Tensor

    @classmethod
    def empty(cls, z: Tensor, programs: int) -> Moments:
        """Room for the moments of so many parts of a map (..., E)."""
        dtype = compute_dtype(z.dtype)
        return cls(z.new_empty(programs, dtype=dtype), z.new_empty((2, programs, z.shape[-1]), dtype=dtype))


class Norm(NamedTuple):
    """The numbers of a batch norm (E): statistics of the batch, and parameters."""

    mean_E: Tensor
    invstd_E: Tensor
    gamma_E: Tensor
    beta_E: Tensor

    @classmethod
    def of_batch(cls, moments: Moments, norm: nn.BatchNorm2d) -> Norm:
        """Those of a norm in training mode; moves its running statistics."""
        count_P, part_2PE = moments
        channels = part_2PE.shape[2]
        statistics_2E = part_2PE.new_empty(2, channels)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        launch(
            statistics_kernel,
            ceil_div(channels, NARROW_BLOCK),
            (count_P, part_2PE, statistics_2E, norm.running_mean, norm.running_var, norm.num_batches_tracked),
            (len(count_P), channels, norm.momentum, norm.eps),
            {"BLOCK_P": 64, "BLOCK_E": NARROW_BLOCK},
        )
        mean_E, invstd_E = statistics_2E.unbind()
        return cls(mean_E, invstd_E, norm.weight, norm.bias)

    def to_compute(self, z: Tensor) -> Norm:
        """The numbers in the dtype that the kernels compute in, which they infer from them."""
        dtype = compute_dtype(z.dtype)
        return self if all(one.dtype == dtype for one in self) else Norm(*(one.to(dtype) for one in self))


def moments(z_BME: Tensor) -> Moments:
    """The moments of parts of a map."""
    B, M, E = z_BME.shape
    found = Moments.empty(z_BME, B * ceil_div(M, SPAN))
    programs = len(found.count_P)
    launch(moments_kernel, programs * _tiles(E), (z_BME, *found), (M, E, SPAN, programs), _blocks())
    return found


def norm_act_attend(z_BME: Tensor, norm: Norm, activation: str, gates: Gates | None) -> Tensor:
    """``a * gates(mean over positions of a)`` with ``a = act(norm(z))``; without gates, ``a``.

    ``z_BME`` and the parameters of the norm receive gradients, once differentiable; the gradient of ``z_BME`` includes
    the path through the statistics of the batch.

    Args:
        z_BME: dense input (B, M, E); the output has its dtype.
        norm: the batch norm; its statistics are those of ``z_BME``.
        activation: name of the activation.
        gates: from the means (B, E), in float32 (float64 for float64), to the factors of the channels (B, E).
    """
    if gates is None:
        return _NormAct.apply(z_BME, *norm, activation)  # type: ignore[no-any-return]
    shared = _Shared()
    gates_BE = gates(_Mean.apply(shared, z_BME, *norm, activation))
    return _Scale.apply(shared, gates_BE)  # type: ignore[no-any-return]


def scaled(x_BME: Tensor, gates_BE: Tensor) -> Tensor:
    """``x * gates``, without gradients."""
    unused = x_BME.new_empty(0, dtype=compute_dtype(x_BME.dtype))
    return _scaled(x_BME, Norm(unused, unused, unused, unused), "", gates_BE.contiguous())


def remove_mean_gradient(dy_BME: Tensor, z_BME: Tensor, norm: Norm, sums_2E: Tensor) -> Tensor:
    """The gradient of the input of a batch norm, from that of its normalized output.

    ``sums_2E`` are the gradients of shift and scale.
    """
    return _gradient(dy_BME, z_BME, norm, "", None, sums_2E)


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z_BME: Tensor, *rest: Any) -> Tensor:
        norm, ctx.activation = Norm(*rest[:4]), rest[4]
        ctx.save_for_backward(z_BME, *norm)
        return _scaled(z_BME, norm.to_compute(z_BME), ctx.activation, None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_BME: Tensor) -> tuple[Tensor | None, ...]:
        z_BME, *norm_E = ctx.saved_tensors
        given, dout_BME = Norm(*norm_E), dout_BME.contiguous()
        norm = given.to_compute(z_BME)
        sums_5BE = _gradient_sums(dout_BME, z_BME, norm, ctx.activation)
        sums_2E = _channel_sums(sums_5BE, None, z_BME.shape[1])
        dz_BME = _gradient(dout_BME, z_BME, norm, ctx.activation, None, sums_2E)
        return dz_BME, None, None, *_of_parameters(sums_2E, given), None


class _Shared:
    """What :class:`_Mean` and :class:`_Scale` share, which are two halves of one operation.

    The gradient of the map has two parts, through its means and through the scaled map. Only :class:`_Mean`, whose turn
    comes later, returns it, so that one pass computes both.
    """

    saved: tuple[Tensor, Norm, str]
    dout_BME: Tensor
    gates_BE: Tensor
    sums_5BE: Tensor


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shared: _Shared, z_BME: Tensor, *rest: Any) -> Tensor:
        given, activation = Norm(*rest[:4]), rest[4]
        norm = given.to_compute(z_BME)
        ctx.save_for_backward(z_BME, *given)
        ctx.shared, ctx.activation = shared, activation
        shared.saved = z_BME, norm, activation
        B, M, E = z_BME.shape
        spans = ceil_div(M, SPAN)
        part_BSE = norm.mean_E.new_empty((B, spans, E))
        constants = {"ACTIVATION": activation, **_blocks()}
        launch(mean_kernel, B * spans * _tiles(E), (z_BME, *norm, part_BSE), (M, E, SPAN), constants)
        return part_BSE[:, 0] if spans == 1 else part_BSE.sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dmean_BE: Tensor) -> tuple[Tensor | None, ...]:
        z_BME, *norm_E = ctx.saved_tensors
        given, shared = Norm(*norm_E), ctx.shared
        norm = given.to_compute(z_BME)
        attention = shared.gates_BE, dmean_BE.contiguous()
        sums_2E = _channel_sums(shared.sums_5BE, attention, z_BME.shape[1])
        dz_BME = _gradient(shared.dout_BME, z_BME, norm, ctx.activation, attention, sums_2E)
        del shared.dout_BME, shared.gates_BE, shared.sums_5BE
        return None, dz_BME, None, None, *_of_parameters(sums_2E, given), None


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shared: _Shared, gates_BE: Tensor) -> Tensor:
        z_BME, norm, activation = shared.saved
        del shared.saved
        gates_BE = gates_BE.contiguous()
        ctx.save_for_backward(gates_BE, z_BME, *norm)
        ctx.shared, ctx.activation = shared, activation
        return _scaled(z_BME, norm, activation, gates_BE)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_BME: Tensor) -> tuple[Tensor | None, ...]:
        gates_BE, z_BME, *norm_E = ctx.saved_tensors
        shared = ctx.shared
        shared.dout_BME, shared.gates_BE = dout_BME.contiguous(), gates_BE
        shared.sums_5BE = _gradient_sums(shared.dout_BME, z_BME, Norm(*norm_E), ctx.activation)
        return None, shared.sums_5BE[0].to(gates_BE.dtype)


def _scaled(z_BME: Tensor, norm: Norm, activation: str, gates_BE: Tensor | None) -> Tensor:
    B, M, E = z_BME.shape
    out_BME = torch.empty_like(z_BME)
    block = 2 * BLOCK_POSITIONS
    constants = {"ACTIVATION": activation, "GATES": gates_BE is not None, **_blocks(block)}
    tensors = (z_BME, *norm, norm.mean_E if gates_BE is None else gates_BE, out_BME)
    launch(scale_kernel, B * ceil_div(M, block) * _tiles(E), tensors, (M, E, block), constants)
    return out_BME


def _gradient_sums(dout_BME: Tensor, z_BME: Tensor, norm: Norm, activation: str) -> Tensor:
    """Five sums over the positions of each image (5, B, E); see :func:`gradient_sums_kernel`."""
    B, M, E = z_BME.shape
    spans = ceil_div(M, SPAN)
    part_5BSE = norm.mean_E.new_empty((5, B, spans, E))
    constants, numbers = {"ACTIVATION": activation, **_blocks()}, (M, E, SPAN, B * spans)
    launch(gradient_sums_kernel, B * spans * _tiles(E), (z_BME, dout_BME, *norm, part_5BSE), numbers, constants)
    return part_5BSE[:, :, 0] if spans == 1 else part_5BSE.sum(2)


def _channel_sums(sums_5BE: Tensor, attention: tuple[Tensor, Tensor] | None, positions: int) -> Tensor:
    """The gradients of shift and scale (2, E), from those of each image, gates and the gradient of the means (B, E)."""
    _, B, E = sums_5BE.shape
    sums_2E = sums_5BE.new_empty(2, E)
    constants = {"GATES": attention is not None, "BLOCK_B": 64, "BLOCK_E": NARROW_BLOCK}
    tensors = (sums_5BE, *(attention or (sums_5BE, sums_5BE)), sums_2E)
    launch(channel_sums_kernel, ceil_div(E, NARROW_BLOCK), tensors, (B, positions, E), constants)
    return sums_2E


def _gradient(
    dout_BME: Tensor,
    z_BME: Tensor,
    norm: Norm,
    activation: str,
    attention: tuple[Tensor, Tensor] | None,
    sums_2E: Tensor,
) -> Tensor:
    B, M, E = z_BME.shape
    dz_BME = torch.empty_like(z_BME)
    block = 2 * BLOCK_POSITIONS
    constants = {"ACTIVATION": activation, "GATES": attention is not None, **_blocks(block)}
    tensors = (z_BME, dout_BME, *norm, *(attention or (sums_2E, sums_2E)), sums_2E, dz_BME)
    launch(gradient_kernel, B * ceil_div(M, block) * _tiles(E), tensors, (B * M, M, E, block), constants)
    return dz_BME


def _of_parameters(sums_2E: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """The gradients of scale and shift."""
    dbeta_E, dgamma_E = sums_2E.unbind()
    return dgamma_E.to(norm.gamma_E.dtype), dbeta_E.to(norm.beta_E.dtype)


def _blocks(positions: int | None = None) -> dict[str, int]:
    return {"BLOCK_N": positions or BLOCK_POSITIONS, "BLOCK_E": BLOCK_CHANNELS}


def _tiles(channels: int) -> int:
    return ceil_div(channels, BLOCK_CHANNELS)
