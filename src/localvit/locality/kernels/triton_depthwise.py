"""Batch norm, activation and depth-wise convolution of a channels-last grid in one pass, as Triton kernels.

The grid between the two 1x1 convolutions of the mechanism is the largest tensor there is, and the plain layers read and
write it once for each step. Here one kernel reads it, writes the output of the convolution and gathers the statistics
that the next batch norm needs; the backward pass keeps nothing but the input, and computes the rest anew.

Shape suffixes: B images, H x W the grid, E channels, k x k the kernel (T = k * k its taps), P programs that leave one
part of a sum each, L columns of a program's tile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

ACTIVATIONS = ("relu6", "hswish", "gelu", "silu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Tile(NamedTuple):
    """Work of one program: columns of one row at a time, channels that lie next to each other, and warps for both."""

    columns: int
    channels: int
    warps: int


# For each side of the kernel; chosen for few registers, not by time. A program walks down the rows with the sums of k
# output rows in registers, and backward those of k * k taps.
TILES = {1: Tile(8, 64, 4), 3: Tile(8, 64, 4), 5: Tile(8, 64, 8), 7: Tile(8, 32, 8)}
BAND_ROWS = 32  # output rows of a program; each band reads k - 1 rows of its neighbours once more
PROGRAMS = 4096  # enough for a large GPU; a larger batch gives each program more to do, and leaves no more partial sums
BLOCK_POSITIONS = 32  # of the elementwise kernel


class NormActDepthwise(NamedTuple):
    """Output of the convolution, with its mean and biased variance over (B, H, W), or None where not asked for."""

    out_BHWE: Tensor
    mean_E: Tensor | None
    var_E: Tensor | None


def fits(z_BHWE: Tensor, weight_E1kk: Tensor, activation: str) -> bool:
    """Whether ``norm_act_depthwise`` can run: device, dtype, memory layout, kernel size and activation.

    Args:
        z_BHWE: the input (B, H, W, E).
        weight_E1kk: weights of the convolution (E, 1, k, k).
        activation: its name.
    """
    if triton is None or activation not in ACTIVATIONS or z_BHWE.device != weight_E1kk.device:
        return False
    if INTERPRETED:
        runs = z_BHWE.device.type == "cpu" and z_BHWE.dtype in (*DTYPES, torch.float64)
    else:
        # Triton launches on the current GPU, whichever one its arguments are on.
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
    """``conv(act((z - mean) * invstd * gamma + beta))``: depth-wise, stride 1, padded with zeros to keep the grid.

    There are gradients for ``z_BHWE``, ``gamma_E``, ``beta_E`` and ``weight_E1kk``, once differentiable. While training
    the one for ``z_BHWE`` takes ``mean_E`` and ``invstd_E`` for the batch statistics of ``z_BHWE`` and goes through
    them as well; they get none of their own. In the same way the statistics in the result carry no gradient: whoever
    normalizes with them accounts for it.

    Args:
        z_BHWE: dense input (B, H, W, E); the output has its dtype, and is computed in float32 (float64 of float64).
        mean_E: mean of each channel (E).
        invstd_E: 1 / sqrt(variance + epsilon) of each channel (E), with the biased variance.
        gamma_E: scale of the batch norm (E).
        beta_E: shift of the batch norm (E).
        weight_E1kk: weights of the convolution (E, 1, k, k), k odd and at most 7.
        activation: relu6, hswish, gelu (with the error function) or silu.
        training: whether the mean and the deviation belong to this batch; if not, they are constants and the
            statistics of the output are left out.

    Returns:
        The output (B, H, W, E) and the statistics (E) of its values as stored, in float32 (float64 of float64).

    Raises:
        ValueError: where ``fits`` is False, or a vector has not E elements.
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
        _forward_kernel[(programs * tiles_E,)](
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
        _backward_kernel[(programs * tiles_E,)](
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
            _statistics_gradient_kernel[(_ceil_div(positions, BLOCK_POSITIONS) * tiles_E,)](
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
    """Vectors in the dtype of the computation, which the kernels take from them."""
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    return [vector_E.to(compute).contiguous() for vector_E in vectors_E]


def _taps(weight_E1kk: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights as (k * k, E), so that those of one tap lie next to each other."""
    return weight_E1kk.flatten(1).t().to(dtype).contiguous()


def _tile(size: int, channels: int, width: int) -> Tile:
    """The tile for kernels of this side, with no more columns and channels than there are; powers of two."""
    tile = TILES[size]
    return tile._replace(
        columns=min(tile.columns, 1 << (width - 1).bit_length()),
        channels=min(tile.channels, max(16, 1 << (channels - 1).bit_length())),
    )


def _ceil_div(value: int, divisor: int) -> int:
    return (value + divisor - 1) // divisor


def _combined(count_P: Tensor, mean_PE: Tensor, m2_PE: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (E) of all values, from count, mean and sum of squared deviations of each part.

    Chan, Golub and LeVeque 1983: deviations are taken from a mean, so no two large numbers are subtracted.
    """
    count_P1 = count_P.unsqueeze(1)
    mean_E = (count_P1 * mean_PE).sum(0) / total
    var_E = (m2_PE + count_P1 * (mean_PE - mean_E).square()).sum(0) / total
    return mean_E, var_E


def _jit(function: Callable[..., Any]) -> Any:
    return function if triton is None else triton.jit(function)


@_jit
def _add(left, right):  # type: ignore[no-untyped-def]
    # tl.sum is itself a kernel function; the interpreter runs it only where Triton was imported in interpreter mode.
    return left + right


@_jit
def _activated(y, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    # Comparisons, since minimum and maximum would turn NaN into a number.
    if ACTIVATION == "relu6":
        a = tl.where(y <= 0.0, 0.0, tl.where(y >= 6.0, 6.0, y))
    elif ACTIVATION == "hswish":
        a = y * tl.where(y <= -3.0, 0.0, tl.where(y >= 3.0, 1.0, y * 0.16666666666666666 + 0.5))
    elif ACTIVATION == "gelu":
        a = 0.5 * y * (1.0 + tl.erf(y * 0.7071067811865476))
    else:
        a = y / (1.0 + tl.exp(-y))
    return a


@_jit
def _slope(y, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    if ACTIVATION == "relu6":
        slope = tl.where((y <= 0.0) | (y >= 6.0), 0.0, 1.0).to(y.dtype)
    elif ACTIVATION == "hswish":
        slope = tl.where(y <= -3.0, 0.0, tl.where(y >= 3.0, 1.0, y * 0.3333333333333333 + 0.5))
    elif ACTIVATION == "gelu":
        slope = 0.5 * (1.0 + tl.erf(y * 0.7071067811865476)) + y * tl.exp(-0.5 * y * y) * 0.3989422804014327
    else:
        gate = 1.0 / (1.0 + tl.exp(-y))
        slope = gate * (1.0 + y * (1.0 - gate))
    return slope


@_jit
def _with_row(  # type: ignore[no-untyped-def]
    pending, z_ptr, image_line, row, w_L, e_E, H, W, E, mean_E, scale_E, beta_E, taps_ptr,
    ACTIVATION: tl.constexpr, K: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """What one input row adds to the k output rows that see it, the first of which is complete then."""
    sums = pending
    sums += (tl.full((BLOCK_L, BLOCK_E), 0.0, mean_E.dtype),)
    line = image_line + row
    e_LE = tl.broadcast_to(e_E[None, :], (BLOCK_L, BLOCK_E))
    columns = tl.where((line >= image_line) & (line < image_line + H), W, 0)
    for dx in tl.static_range(K):
        column_L = w_L + (dx - K // 2)
        inside_LE = ((column_L >= 0) & (column_L < columns))[:, None] & (e_E < E)[None, :]
        z_LE = tl.load(z_ptr + line * W * E + column_L[:, None] * E + e_E[None, :], mask=inside_LE, other=0.0)
        y_LE = (z_LE.to(mean_E.dtype) - mean_E[None, :]) * scale_E[None, :] + beta_E[None, :]
        a_LE = tl.where(inside_LE, _activated(y_LE, ACTIVATION), 0.0)
        new = sums[:0]
        for j in tl.static_range(K):
            weight_LE = tl.load(taps_ptr + ((K - 1 - j) * K + dx) * E + e_LE, mask=e_LE < E, other=0.0)
            new += (tl.fma(a_LE, weight_LE, sums[j]),)
        sums = new
    return sums


@_jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    z_ptr, mean_ptr, invstd_ptr, gamma_ptr, beta_ptr, taps_ptr, out_ptr, count_ptr, part_ptr,
    B, H, W, E, images, bands, band_rows, programs,
    ACTIVATION: tl.constexpr, K: tl.constexpr, STATISTICS: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    tiles_E = (E + BLOCK_E - 1) // BLOCK_E
    tiles_L = (W + BLOCK_L - 1) // BLOCK_L
    # 64 bits from here on: what is computed from the program's number counts elements of the whole batch.
    program = tl.program_id(0).to(tl.int64) // tiles_E
    e_E = (tl.program_id(0) % tiles_E) * BLOCK_E + tl.arange(0, BLOCK_E)
    w_L = (program % tiles_L).to(tl.int32) * BLOCK_L + tl.arange(0, BLOCK_L)
    top = (program // tiles_L % bands).to(tl.int32) * band_rows
    bottom = tl.minimum(top + band_rows, H)
    first = program // tiles_L // bands * images
    last = tl.minimum(first + images, B)

    mean_E = tl.load(mean_ptr + e_E, mask=e_E < E, other=0.0)
    scale_E = tl.load(gamma_ptr + e_E, mask=e_E < E, other=0.0) * tl.load(invstd_ptr + e_E, mask=e_E < E, other=0.0)
    beta_E = tl.load(beta_ptr + e_E, mask=e_E < E, other=0.0)
    stored_LE = (w_L < W)[:, None] & (e_E < E)[None, :]
    zero_LE = tl.full((BLOCK_L, BLOCK_E), 0.0, mean_E.dtype)
    lane_mean_LE = zero_LE
    lane_m2_LE = zero_LE
    count = 0.0
    for image in range(first, last):
        pending = (zero_LE,) * (K - 1)
        for row in range(top - K // 2, top + K // 2):
            sums = _with_row(
                pending, z_ptr, image * H, row, w_L, e_E, H, W, E, mean_E, scale_E, beta_E, taps_ptr,
                ACTIVATION, K, BLOCK_L, BLOCK_E,
            )  # fmt: skip
            pending = sums[1:]
        for row in range(top, bottom):
            sums = _with_row(
                pending, z_ptr, image * H, row + K // 2, w_L, e_E, H, W, E, mean_E, scale_E, beta_E, taps_ptr,
                ACTIVATION, K, BLOCK_L, BLOCK_E,
            )  # fmt: skip
            pending = sums[1:]
            out_LE = sums[0].to(out_ptr.dtype.element_ty)
            out_ptrs_LE = out_ptr + (image * H + row) * W * E + w_L[:, None] * E + e_E[None, :]
            tl.store(out_ptrs_LE, out_LE, mask=stored_LE)
            if STATISTICS:  # Welford 1962, each element of the tile for itself
                value_LE = out_LE.to(mean_E.dtype)
                count += 1.0
                delta_LE = value_LE - lane_mean_LE
                lane_mean_LE += delta_LE / count
                lane_m2_LE += delta_LE * (value_LE - lane_mean_LE)
    if STATISTICS:
        columns = tl.minimum(W - (program % tiles_L) * BLOCK_L, BLOCK_L)
        part_mean_E = tl.reduce(tl.where(stored_LE, lane_mean_LE, 0.0), 0, _add) / columns
        delta_LE = lane_mean_LE - part_mean_E[None, :]
        part_m2_E = tl.reduce(tl.where(stored_LE, lane_m2_LE + count * delta_LE * delta_LE, 0.0), 0, _add)
        # The programs of all channel tiles store the same count.
        tl.store(count_ptr + program, count * columns)
        tl.store(part_ptr + program * E + e_E, part_mean_E, mask=e_E < E)
        tl.store(part_ptr + (programs + program) * E + e_E, part_m2_E, mask=e_E < E)


@_jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    z_ptr, dout_ptr, mean_ptr, invstd_ptr, gamma_ptr, beta_ptr, taps_ptr, dz_ptr, part_ptr,
    all_lines, H, W, E, lines,
    ACTIVATION: tl.constexpr, K: tl.constexpr, CONSTANT: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Gradient of the normalized input, or of the input where the statistics are constants; and what sums need.

    The rows of all images make one list of lines here: no row passes on anything to the next.
    """
    tiles_E = (E + BLOCK_E - 1) // BLOCK_E
    tiles_L = (W + BLOCK_L - 1) // BLOCK_L
    program = tl.program_id(0).to(tl.int64) // tiles_E
    e_E = (tl.program_id(0) % tiles_E) * BLOCK_E + tl.arange(0, BLOCK_E)
    w_L = (program % tiles_L).to(tl.int32) * BLOCK_L + tl.arange(0, BLOCK_L)
    first = program // tiles_L * lines
    last = tl.minimum(first + lines, all_lines)

    mean_E = tl.load(mean_ptr + e_E, mask=e_E < E, other=0.0)
    invstd_E = tl.load(invstd_ptr + e_E, mask=e_E < E, other=0.0)
    gamma_E = tl.load(gamma_ptr + e_E, mask=e_E < E, other=0.0)
    beta_E = tl.load(beta_ptr + e_E, mask=e_E < E, other=0.0)
    inside_LE = (w_L < W)[:, None] & (e_E < E)[None, :]
    at_LE = w_L[:, None] * E + e_E[None, :]
    e_LE = tl.broadcast_to(e_E[None, :], (BLOCK_L, BLOCK_E))
    zero_LE = tl.full((BLOCK_L, BLOCK_E), 0.0, mean_E.dtype)
    sum_dy_LE = zero_LE
    sum_dy_x_LE = zero_LE
    dtaps = (zero_LE,) * (K * K)
    for line in range(first, last):
        row = line % H
        z_LE = tl.load(z_ptr + line * W * E + at_LE, mask=inside_LE, other=0.0).to(mean_E.dtype)
        x_LE = (z_LE - mean_E[None, :]) * invstd_E[None, :]
        y_LE = x_LE * gamma_E[None, :] + beta_E[None, :]
        a_LE = tl.where(inside_LE, _activated(y_LE, ACTIVATION), 0.0)
        da_LE = zero_LE
        new = dtaps[:0]
        for tap in tl.static_range(K * K):
            # The output that saw this element through the tap lies on the other side of it.
            to_row = row + (K // 2 - tap // K)
            to_L = w_L + (K // 2 - tap % K)
            columns = tl.where((to_row >= 0) & (to_row < H), W, 0)
            seen_LE = ((to_L >= 0) & (to_L < columns))[:, None] & (e_E < E)[None, :]
            to_line = line + (K // 2 - tap // K)
            to_LE = to_L[:, None] * E + e_E[None, :]
            dout_LE = tl.load(dout_ptr + to_line * W * E + to_LE, mask=seen_LE, other=0.0).to(mean_E.dtype)
            weight_LE = tl.load(taps_ptr + tap * E + e_LE, mask=e_LE < E, other=0.0)
            da_LE = tl.fma(dout_LE, weight_LE, da_LE)
            new += (tl.fma(a_LE, dout_LE, dtaps[tap]),)
        dtaps = new
        dy_LE = tl.where(inside_LE, da_LE * _slope(y_LE, ACTIVATION), 0.0)
        sum_dy_LE += dy_LE
        sum_dy_x_LE += dy_LE * x_LE
        dz_LE = dy_LE * (gamma_E * invstd_E)[None, :] if CONSTANT else dy_LE
        tl.store(dz_ptr + line * W * E + at_LE, dz_LE.to(dz_ptr.dtype.element_ty), mask=inside_LE)
    part_ptrs_E = part_ptr + program * (K * K + 2) * E + e_E
    for tap in tl.static_range(K * K):
        tl.store(part_ptrs_E + tap * E, tl.reduce(dtaps[tap], 0, _add), mask=e_E < E)
    tl.store(part_ptrs_E + K * K * E, tl.reduce(sum_dy_LE, 0, _add), mask=e_E < E)
    tl.store(part_ptrs_E + (K * K + 1) * E, tl.reduce(sum_dy_x_LE, 0, _add), mask=e_E < E)


@_jit
def _statistics_gradient_kernel(  # type: ignore[no-untyped-def]
    z_ptr, mean_ptr, invstd_ptr, gamma_ptr, mean_dy_ptr, mean_dy_x_ptr, dz_ptr, positions, E,
    BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """From the gradient of the normalized input to that of the input, in place."""
    tiles_E = (E + BLOCK_E - 1) // BLOCK_E
    n_N = (tl.program_id(0).to(tl.int64) // tiles_E) * BLOCK_N + tl.arange(0, BLOCK_N)
    e_E = (tl.program_id(0) % tiles_E) * BLOCK_E + tl.arange(0, BLOCK_E)
    inside_NE = (n_N < positions)[:, None] & (e_E < E)[None, :]
    mean_E = tl.load(mean_ptr + e_E, mask=e_E < E, other=0.0)
    invstd_E = tl.load(invstd_ptr + e_E, mask=e_E < E, other=0.0)
    gamma_E = tl.load(gamma_ptr + e_E, mask=e_E < E, other=0.0)
    mean_dy_E = tl.load(mean_dy_ptr + e_E, mask=e_E < E, other=0.0)
    mean_dy_x_E = tl.load(mean_dy_x_ptr + e_E, mask=e_E < E, other=0.0)
    offset_NE = n_N[:, None] * E + e_E[None, :]
    z_NE = tl.load(z_ptr + offset_NE, mask=inside_NE, other=0.0).to(mean_E.dtype)
    dy_NE = tl.load(dz_ptr + offset_NE, mask=inside_NE, other=0.0).to(mean_E.dtype)
    x_NE = (z_NE - mean_E[None, :]) * invstd_E[None, :]
    dz_NE = (dy_NE - mean_dy_E[None, :] - x_NE * mean_dy_x_E[None, :]) * (gamma_E * invstd_E)[None, :]
    tl.store(dz_ptr + offset_NE, dz_NE.to(dz_ptr.dtype.element_ty), mask=inside_NE)


# Whether the kernels run in Triton's interpreter: TRITON_INTERPRET counts where a kernel is decorated.
INTERPRETED = triton is not None and not isinstance(_forward_kernel, triton.JITFunction)
