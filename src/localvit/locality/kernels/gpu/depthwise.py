"""Batch norm, activation and depth-wise convolution of a channels-last grid in one pass, as Triton kernels.

The hidden map between the two 1x1 convolutions is the largest tensor of the mechanism, and plain layers read and write
it once per step. Here one kernel reads it, writes the output of the convolution and accumulates the statistics that the
next batch norm needs. The backward pass stores only the input and recomputes the rest.

Shape suffixes: B images, H x W the grid, E channels, k x k the kernel (T = k * k its taps), P programs, each of which
writes one partial sum, L columns of a program's tile.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from localvit.locality.kernels.gpu.device import (
    INTERPRETED,
    backward_kernel,
    forward_kernel,
    statistics_gradient_kernel,
    triton,
)

ACTIVATIONS = ("relu6", "hswish", "gelu", "silu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Tile(NamedTuple):
    """The work of one program: columns of a row, adjacent channels, and the warps that share them."""

    columns: int
    channels: int
    warps: int


# By kernel size; chosen to save registers, not by timing. A program walks down the rows and keeps the sums of k output
# rows in registers; in the backward pass those of k * k taps.
TILES = {1: Tile(8, 64, 4), 3: Tile(8, 64, 4), 5: Tile(8, 64, 8), 7: Tile(8, 32, 8)}
BAND_ROWS = 32  # output rows per program; each band reads k - 1 rows of its neighbors again
PROGRAMS = 4096  # enough for a large GPU; larger batches give each program more work, not more partial sums
BLOCK_POSITIONS = 32  # positions per program of the elementwise kernel


class NormActDepthwise(NamedTuple):
    """Output of the convolution, and its mean and biased variance over (B, H, W), or None if not requested."""

    out_BHWE: Tensor
    mean_E: Tensor | None
    var_E: Tensor | None


def fits(z_BHWE: Tensor, weight_E1kk: Tensor, activation: str) -> bool:
    """Whether ``norm_act_depthwise`` supports this device, dtype, memory layout, kernel size and activation.

    Args:
        z_BHWE: the input (B, H, W, E).
        weight_E1kk: weights of the convolution (E, 1, k, k).
        activation: name of the activation.
    """
    if triton is None or activation not in ACTIVATIONS or z_BHWE.device != weight_E1kk.device:
        return False
    if INTERPRETED:
        runs = z_BHWE.device.type == "cpu" and z_BHWE.dtype in (*DTYPES, torch.float64)
    else:
        # Triton launches on the current GPU, even if its arguments are on another one.
        runs = z_BHWE.is_cuda and z_BHWE.get_device() == torch.cuda.current_device() and z_BHWE.dtype in DTYPES
    size = weight_E1kk.shape[-1]
    return (
        runs
        and z_BHWE.ndim == 4
        and z_BHWE.numel() > 0
        and z_BHWE.is_contiguous()
        and size in TILES
        and weight_E1kk.shape == (z_BHWE.shape[3], 1, size, size)
    )


def norm_act_depthwise(
    z_BHWE: Tensor,
    mean_E: Tensor,
    invstd_E: Tensor,
    gamma_E: Tensor,
    beta_E: Tensor,
    weight_E1kk: Tensor,
    activation: str,
    training: bool = True,
) -> NormActDepthwise:
    """``conv(act((z - mean) * invstd * gamma + beta))``: depth-wise, stride 1, zero-padded to keep the grid size.

    ``z_BHWE``, ``gamma_E``, ``beta_E`` and ``weight_E1kk`` receive gradients, once differentiable. In training, the
    gradient for ``z_BHWE`` treats ``mean_E`` and ``invstd_E`` as the batch statistics of ``z_BHWE`` and includes the
    path through them; they receive no gradient of their own. Likewise the returned statistics carry no gradient: the
    norm that uses them has to account for it.

    Args:
        z_BHWE: dense input (B, H, W, E); the output has its dtype and is computed in float32 (float64 for float64).
        mean_E: mean per channel (E).
        invstd_E: 1 / sqrt(variance + epsilon) per channel (E), with the biased variance.
        gamma_E: scale of the batch norm (E).
        beta_E: shift of the batch norm (E).
        weight_E1kk: weights of the convolution (E, 1, k, k), k odd and at most 7.
        activation: relu6, hswish, gelu (with the error function) or silu.
        training: whether the statistics are those of this batch. Otherwise they are constants, and no statistics of
            the output are computed.

    Returns:
        The output (B, H, W, E), and the statistics (E) of its stored values in float32 (float64 for float64).

    Raises:
        ValueError: if ``fits`` is False, or if a vector does not have E elements.
    """
    if not fits(z_BHWE, weight_E1kk, activation):
        raise ValueError(
            f"the kernel does not fit a {z_BHWE.dtype} input {tuple(z_BHWE.shape)} on {z_BHWE.device}, "
            f"a {tuple(weight_E1kk.shape)} weight and the activation {activation!r}; ask fits() first"
        )
    channels = z_BHWE.shape[3]
    for name, vector_E in {"mean": mean_E, "invstd": invstd_E, "gamma": gamma_E, "beta": beta_E}.items():
        if vector_E.shape != (channels,) or vector_E.device != z_BHWE.device:
            raise ValueError(
                f"{name} is {tuple(vector_E.shape)} on {vector_E.device}; it must be ({channels},) on {z_BHWE.device}"
            )
    result: tuple[Tensor, Tensor | None, Tensor | None] = _NormActDepthwise.apply(
        z_BHWE, mean_E, invstd_E, gamma_E, beta_E, weight_E1kk, activation, training
    )
    return NormActDepthwise(*result)


class _NormActDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z_BHWE: Tensor,
        mean_E: Tensor,
        invstd_E: Tensor,
        gamma_E: Tensor,
        beta_E: Tensor,
        weight_E1kk: Tensor,
        activation: str,
        training: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        ctx.save_for_backward(z_BHWE, mean_E, invstd_E, gamma_E, beta_E, weight_E1kk)
        ctx.activation, ctx.training = activation, training
        B, H, W, E = z_BHWE.shape
        size = weight_E1kk.shape[-1]
        vectors = _vectors(z_BHWE.dtype, mean_E, invstd_E, gamma_E, beta_E)
        tile = _tile(size, E, W)
        tiles_E, tiles_L, bands = _ceil_div(E, tile.channels), _ceil_div(W, tile.columns), _ceil_div(H, BAND_ROWS)
        images = max(1, B * bands * tiles_L * tiles_E // PROGRAMS)
        programs = _ceil_div(B, images) * bands * tiles_L

        out_BHWE = torch.empty_like(z_BHWE)
        count_P = vectors[0].new_empty(programs if training else 0)
        part_2PE = vectors[0].new_empty((2, programs, E) if training else (0,))
        forward_kernel[(programs * tiles_E,)](
            z_BHWE,
            *vectors,
            _taps(weight_E1kk, vectors[0].dtype),
            out_BHWE,
            count_P,
            part_2PE,
            B,
            H,
            W,
            E,
            images,
            bands,
            _ceil_div(H, bands),
            programs,
            ACTIVATION=activation,
            K=size,
            STATISTICS=training,
            BLOCK_L=tile.columns,
            BLOCK_E=tile.channels,
            num_warps=tile.warps,
        )
        if not training:
            return out_BHWE, None, None
        mean_out_E, var_out_E = _combined(count_P, part_2PE[0], part_2PE[1], B * H * W)
        ctx.mark_non_differentiable(mean_out_E, var_out_E)
        return out_BHWE, mean_out_E, var_out_E

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dout_BHWE: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        z_BHWE, mean_E, invstd_E, gamma_E, beta_E, weight_E1kk = ctx.saved_tensors
        B, H, W, E = z_BHWE.shape
        size = weight_E1kk.shape[-1]
        vectors = _vectors(z_BHWE.dtype, mean_E, invstd_E, gamma_E, beta_E)
        tile = _tile(size, E, W)
        tiles_E, tiles_L = _ceil_div(E, tile.channels), _ceil_div(W, tile.columns)
        lines = max(min(BAND_ROWS, H), B * H * tiles_L * tiles_E // PROGRAMS)
        programs = _ceil_div(B * H, lines) * tiles_L

        dz_BHWE = torch.empty_like(z_BHWE)
        part_PSE = vectors[0].new_empty((programs, size * size + 2, E))
        backward_kernel[(programs * tiles_E,)](
            z_BHWE,
            dout_BHWE.contiguous(),
            *vectors,
            _taps(weight_E1kk, vectors[0].dtype),
            dz_BHWE,
            part_PSE,
            B * H,
            H,
            W,
            E,
            lines,
            ACTIVATION=ctx.activation,
            K=size,
            CONSTANT=not ctx.training,
            BLOCK_L=tile.columns,
            BLOCK_E=tile.channels,
            num_warps=tile.warps,
        )
        sums_SE = part_PSE.sum(0)
        dbeta_E, dgamma_E = sums_SE[-2], sums_SE[-1]
        if ctx.training:
            positions = B * H * W
            statistics_gradient_kernel[(_ceil_div(positions, BLOCK_POSITIONS) * tiles_E,)](
                z_BHWE,
                *vectors[:3],
                dbeta_E / positions,
                dgamma_E / positions,
                dz_BHWE,
                positions,
                E,
                BLOCK_N=BLOCK_POSITIONS,
                BLOCK_E=tile.channels,
            )
        dweight_E1kk = sums_SE[:-2].t().reshape(weight_E1kk.shape).to(weight_E1kk.dtype)
        return dz_BHWE, None, None, dgamma_E.to(gamma_E.dtype), dbeta_E.to(beta_E.dtype), dweight_E1kk, None, None


def _vectors(dtype: torch.dtype, *vectors_E: Tensor) -> list[Tensor]:
    """Vectors in the compute dtype, from which the kernels infer it."""
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    return [vector_E.to(compute).contiguous() for vector_E in vectors_E]


def _taps(weight_E1kk: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights as (k * k, E), so that those of one tap are adjacent in memory."""
    return weight_E1kk.flatten(1).t().to(dtype).contiguous()


def _tile(size: int, channels: int, width: int) -> Tile:
    """The tile for this kernel size, in powers of two, no larger than the map needs."""
    tile = TILES[size]
    return tile._replace(
        columns=min(tile.columns, 1 << (width - 1).bit_length()),
        channels=min(tile.channels, max(16, 1 << (channels - 1).bit_length())),
    )


def _ceil_div(value: int, divisor: int) -> int:
    return (value + divisor - 1) // divisor


def _combined(count_P: Tensor, mean_PE: Tensor, m2_PE: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (E) of all values, from the count, mean and sum of squared deviations of each part.

    The method of Chan, Golub and LeVeque (1983) avoids subtracting large numbers.
    """
    count_P1 = count_P.unsqueeze(1)
    mean_E = (count_P1 * mean_PE).sum(0) / total
    var_E = (m2_PE + count_P1 * (mean_PE - mean_E).square()).sum(0) / total
    return mean_E, var_E
