"""Batch norm, activation and depth-wise convolution of a channels-last grid in one pass over it.

The hidden map between the two 1x1 convolutions is the largest tensor of the mechanism, and plain layers read and write
it once per step. Here one kernel reads it, writes the output of the convolution and accumulates the statistics that the
next batch norm needs. The backward pass stores only the input and recomputes the rest.

Shape suffixes: B images, H x W the grid, E channels, k x k the kernel (T = k * k its taps), P programs, each of which
writes one partial sum.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from localvit.locality.kernels.gpu import device
from localvit.locality.kernels.gpu.convolution import backward_kernel, forward_kernel
from localvit.locality.kernels.gpu.device import ACTIVATIONS, ceil_div, compute_dtype
from localvit.locality.kernels.gpu.launch import launch
from localvit.locality.kernels.gpu.normalized import Moments, Norm, remove_mean_gradient


class Strip(NamedTuple):
    """The work of one program: adjacent columns, adjacent channels, and the warps that share the channels."""

    columns: int
    channels: int
    warps: int


# By kernel size; a strip of more columns reads fewer twice, and needs more registers.
FORWARD = {1: Strip(7, 64, 1), 3: Strip(3, 128, 1), 5: Strip(4, 64, 1), 7: Strip(2, 64, 1)}
BACKWARD = {1: Strip(7, 64, 1), 3: Strip(7, 64, 1), 5: Strip(3, 64, 1), 7: Strip(2, 32, 1)}
PROGRAMS = 8192  # enough to fill a large GPU; a strip is cut into bands of rows until there are as many
LEAST_ROWS = 14  # of a band, which reads k - 1 rows of its neighbors again


def takes(x: Tensor, weight_E1kk: Tensor, activation: str) -> bool:
    """Whether the kernels support the device and dtype of a tensor, this kernel size and this activation.

    Args:
        x: a tensor on the device and of the dtype of the input.
        weight_E1kk: weights of the convolution (E, 1, k, k).
        activation: name of the activation.
    """
    channels, *sizes = weight_E1kk.shape
    return (
        activation in ACTIVATIONS
        and x.device == weight_E1kk.device
        and device.runs_on(x)
        and sizes[-1] in FORWARD
        and weight_E1kk.shape == (channels, 1, sizes[-1], sizes[-1])
    )


def fits(z_BHWE: Tensor, weight_E1kk: Tensor, activation: str) -> bool:
    """Whether the kernels support this input (B, H, W, E), its memory layout included. See :func:`takes`."""
    return (
        takes(z_BHWE, weight_E1kk, activation)
        and z_BHWE.ndim == 4
        and z_BHWE.shape[3] == weight_E1kk.shape[0]
        and z_BHWE.numel() > 0
        and z_BHWE.is_contiguous()
    )


def norm_act_depthwise(z_BHWE: Tensor, norm: Norm, weight_E1kk: Tensor, activation: str) -> tuple[Tensor, Moments]:
    """``conv(act(norm(z)))``: depth-wise, stride 1, zero-padded to keep the grid size.

    ``z_BHWE``, the parameters of the norm and ``weight_E1kk`` receive gradients, once differentiable. The gradient of
    ``z_BHWE`` includes the path through the statistics of the batch. The moments carry no gradient: the norm that uses
    them has to account for it.

    Args:
        z_BHWE: dense input (B, H, W, E); the output has its dtype and is computed in float32 (float64 for float64).
        norm: the batch norm; its statistics are those of ``z_BHWE``.
        weight_E1kk: weights of the convolution (E, 1, k, k), k odd and at most 7.
        activation: relu6, hswish, gelu (with the error function) or silu.

    Returns:
        The output (B, H, W, E), and the moments of its stored values.

    Raises:
        ValueError: if ``fits`` is False, or if a vector of the norm does not have E elements.
    """
    _require_fit(z_BHWE, norm, weight_E1kk, activation)
    out_BHWE, *moments = _NormActDepthwise.apply(z_BHWE, *norm, weight_E1kk, activation)
    return out_BHWE, Moments(*moments)


def act_depthwise_act(
    x_BHWE: Tensor, shift_E: Tensor, weight_E1kk: Tensor, bias_E: Tensor, activation: str
) -> tuple[Tensor, Tensor]:
    """``act(conv(act(x + shift)) + bias)``, and its means over the positions of each image. Without gradients.

    Args:
        x_BHWE: dense input (B, H, W, E), for which :func:`fits` is True.
        shift_E: what is added to it (E).
        weight_E1kk: weights of the depth-wise convolution (E, 1, k, k).
        bias_E: its bias (E).
        activation: name of both activations.

    Returns:
        The output (B, H, W, E), and the means (B, E) of its stored values in float32 (float64 for float64).
    """
    function = _inference_operator if torch.compiler.is_compiling() else _act_depthwise_act
    result: tuple[Tensor, Tensor] = function(x_BHWE, shift_E, weight_E1kk, bias_E, activation)
    return result


class _Split(NamedTuple):
    """How the work of a map (B, H, W, E) is split."""

    strip: Strip
    strips: int
    bands: int
    band_rows: int
    programs: int  # for each block of channels
    tiles: int

    @classmethod
    def of(cls, shape_BHWE: torch.Size, strip: Strip) -> _Split:
        images, height, width, channels = shape_BHWE
        strips = ceil_div(width, strip.columns)
        # In powers of two, and no larger than the map needs.
        block = min(strip.channels, max(16, 1 << (channels - 1).bit_length()))
        strip = strip._replace(columns=ceil_div(width, strips), channels=block)
        tiles = ceil_div(channels, block)
        wanted = max(1, min(ceil_div(PROGRAMS, images * strips * tiles), height // LEAST_ROWS))
        rows = ceil_div(height, wanted)
        bands = ceil_div(height, rows)
        return cls(strip, strips, bands, rows, images * bands * strips, tiles)

    def run(
        self, kernel: Any, tensors: tuple[Tensor, ...], shape_BHWE: torch.Size, size: int, **constants: Any
    ) -> None:
        """Launch a kernel for a map and a kernel size."""
        _, height, width, channels = shape_BHWE
        strip = {"COLUMNS": self.strip.columns, "BLOCK_E": self.strip.channels}
        constants = {"W": width, "E": channels, "K": size, **constants, **strip}
        numbers = (height, self.strips, self.bands, self.band_rows, self.programs)
        launch(kernel, self.programs * self.tiles, tensors, numbers, constants, self.strip.warps)


class _NormActDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z_BHWE: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        *norm_E, weight_E1kk, ctx.activation = rest
        ctx.save_for_backward(z_BHWE, *norm_E, weight_E1kk)
        out_BHWE, moments = _forward(z_BHWE, Norm(*norm_E), weight_E1kk, ctx.activation)
        ctx.mark_non_differentiable(*moments)
        return out_BHWE, *moments

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_BHWE: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        z_BHWE, *norm_E, weight_E1kk = ctx.saved_tensors
        *_, gamma_E, beta_E = norm_E
        dz_BHWE, sums_SE = _backward(dout_BHWE, z_BHWE, Norm(*norm_E), weight_E1kk, ctx.activation)
        dweight_E1kk = sums_SE[2:].t().reshape(weight_E1kk.shape).to(weight_E1kk.dtype)
        return dz_BHWE, None, None, sums_SE[1].to(gamma_E.dtype), sums_SE[0].to(beta_E.dtype), dweight_E1kk, None


def _forward(z_BHWE: Tensor, norm: Norm, weight_E1kk: Tensor, activation: str) -> tuple[Tensor, Moments]:
    shape, size = z_BHWE.shape, weight_E1kk.shape[-1]
    split = _Split.of(shape, FORWARD[size])
    norm = norm.to_compute(z_BHWE)
    out_BHWE, moments = torch.empty_like(z_BHWE), Moments.empty(z_BHWE, split.programs)
    tensors = (z_BHWE, *norm, weight_E1kk.contiguous(), norm.beta_E, out_BHWE, *moments)
    split.run(forward_kernel, tensors, shape, size, ACTIVATION=activation, TRAINING=True)
    return out_BHWE, moments


def _act_depthwise_act(
    x_BHWE: Tensor, shift_E: Tensor, weight_E1kk: Tensor, bias_E: Tensor, activation: str
) -> tuple[Tensor, Tensor]:
    shape, size = x_BHWE.shape, weight_E1kk.shape[-1]
    split = _Split.of(shape, FORWARD[size])
    out_BHWE = torch.empty_like(x_BHWE)
    part_BSE = x_BHWE.new_empty((shape[0], split.programs // shape[0], shape[3]), dtype=compute_dtype(x_BHWE.dtype))
    tensors = (x_BHWE, *[shift_E] * 4, weight_E1kk.contiguous(), bias_E, out_BHWE, part_BSE, part_BSE)
    split.run(forward_kernel, tensors, shape, size, ACTIVATION=activation, TRAINING=False)
    return out_BHWE, part_BSE.flatten(0, 1) if part_BSE.shape[1] == 1 else part_BSE.sum(1)


def _backward(
    dout_BHWE: Tensor, z_BHWE: Tensor, norm: Norm, weight_E1kk: Tensor, activation: str
) -> tuple[Tensor, Tensor]:
    """The gradient of the input, and the sums (2 + T, E) that are those of shift, scale and weights."""
    shape, size = z_BHWE.shape, weight_E1kk.shape[-1]
    split = _Split.of(shape, BACKWARD[size])
    norm = norm.to_compute(z_BHWE)
    dy_BHWE = torch.empty_like(z_BHWE)
    part_PSE = norm.mean_E.new_empty((split.programs, 2 + size * size, shape[3]))
    tensors = (z_BHWE, dout_BHWE.contiguous(), *norm, weight_E1kk.contiguous(), dy_BHWE, part_PSE)
    split.run(backward_kernel, tensors, shape, size, ACTIVATION=activation)
    sums_SE = part_PSE.sum(0)
    dz_BME = remove_mean_gradient(dy_BHWE.flatten(1, 2), z_BHWE.flatten(1, 2), norm, sums_SE)
    return dz_BME.view(shape), sums_SE


def _require_fit(z_BHWE: Tensor, norm: Norm, weight_E1kk: Tensor, activation: str) -> None:
    if not fits(z_BHWE, weight_E1kk, activation):
        raise ValueError(
            f"the kernel does not fit a {z_BHWE.dtype} input {tuple(z_BHWE.shape)} on {z_BHWE.device}, "
            f"a {tuple(weight_E1kk.shape)} weight and the activation {activation!r}; ask fits() first"
        )
    channels = z_BHWE.shape[3]
    for name, vector_E in norm._asdict().items():
        if vector_E.shape != (channels,) or vector_E.device != z_BHWE.device:
            raise ValueError(
                f"{name} is {tuple(vector_E.shape)} on {vector_E.device}; it must be ({channels},) on {z_BHWE.device}"
            )


# An operator, because the compiler cannot look into the launch of a kernel. In eager mode it would take time to call.
@torch.library.custom_op("localvit::act_depthwise_act", mutates_args=())
def _inference_operator(
    x_BHWE: Tensor, shift_E: Tensor, weight_E1kk: Tensor, bias_E: Tensor, activation: str
) -> tuple[Tensor, Tensor]:
    return _act_depthwise_act(x_BHWE, shift_E, weight_E1kk, bias_E, activation)


@_inference_operator.register_fake
def _(x_BHWE: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    images, channels = x_BHWE.shape[0], x_BHWE.shape[3]
    return torch.empty_like(x_BHWE), x_BHWE.new_empty((images, channels), dtype=compute_dtype(x_BHWE.dtype))
