"""The device code of the Triton kernels: what one program computes. ``depthwise.py`` launches them.

Shape suffixes: E channels, k x k the depth-wise kernel, L columns of a program's tile, N positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None


def _jit(function: Callable[..., Any]) -> Any:
    return function if triton is None else triton.jit(function)


@_jit
def _add(left, right):  # type: ignore[no-untyped-def]
    # tl.sum is itself a kernel; the interpreter runs it only if Triton was imported in interpreter mode.
    return left + right


@_jit
def _activated(y, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    # Comparisons, because minimum and maximum would turn NaN into a number.
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
    """Add one input row to the k output rows that see it; the first of them is then complete."""
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
def forward_kernel(  # type: ignore[no-untyped-def]
    z_ptr, mean_ptr, invstd_ptr, gamma_ptr, beta_ptr, taps_ptr, out_ptr, count_ptr, part_ptr,
    B, H, W, E, images, bands, band_rows, programs,
    ACTIVATION: tl.constexpr, K: tl.constexpr, STATISTICS: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    tiles_E = (E + BLOCK_E - 1) // BLOCK_E
    tiles_L = (W + BLOCK_L - 1) // BLOCK_L
    # 64 bits from here on: offsets derived from the program id count elements of the whole batch.
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
            if STATISTICS:  # Welford (1962), for each element of the tile
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
def backward_kernel(  # type: ignore[no-untyped-def]
    z_ptr, dout_ptr, mean_ptr, invstd_ptr, gamma_ptr, beta_ptr, taps_ptr, dz_ptr, part_ptr,
    all_lines, H, W, E, lines,
    ACTIVATION: tl.constexpr, K: tl.constexpr, CONSTANT: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Gradient of the normalized input, or of the input if the statistics are constants, and the partial sums.

    The rows of all images form one list of lines, because no row passes anything on to the next.
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
            # The output that saw this element through the tap lies on the opposite side.
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
def statistics_gradient_kernel(  # type: ignore[no-untyped-def]
    z_ptr, mean_ptr, invstd_ptr, gamma_ptr, mean_dy_ptr, mean_dy_x_ptr, dz_ptr, positions, E,
    BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Turn the gradient of the normalized input into that of the input, in place."""
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


# Whether the kernels run in Triton's interpreter, which TRITON_INTERPRET selects when they are decorated.
INTERPRETED = triton is not None and not isinstance(forward_kernel, triton.JITFunction)
