"""The device code of the depth-wise convolution: what one program computes. ``depthwise.py`` launches it.

A program has a block of adjacent channels, and walks down a strip of adjacent columns of one image. Every column is a
vector over the channels of its own, so that a number is read and activated once, and serves all the outputs of the
strip that see it. Numbers outside the grid are zero after the activation.

Shape suffixes: E channels, k x k the kernel.
"""

from __future__ import annotations

from localvit.locality.kernels.gpu.device import activated, jit, slope, tl


@jit
def _place(  # type: ignore[no-untyped-def]
    H, strips, bands, band_rows, E: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_E: tl.constexpr
):
    """This program's number among those of its channels, its channels, and its part of the grid."""
    tiles_E = (E + BLOCK_E - 1) // BLOCK_E
    # 64 bits from here on: offsets derived from the program id count elements of the whole batch.
    program = tl.program_id(0).to(tl.int64) // tiles_E
    e_E = (tl.program_id(0) % tiles_E) * BLOCK_E + tl.arange(0, BLOCK_E)
    # True without a comparison where the blocks leave no channel over, which saves time.
    all_E = tl.full((BLOCK_E,), 1, tl.int1) if E % BLOCK_E == 0 else e_E < E
    column = (program % strips).to(tl.int32) * COLUMNS
    top = (program // strips % bands).to(tl.int32) * band_rows
    return program, e_E, all_E, column, top, tl.minimum(top + band_rows, H), program // strips // bands * H


@jit
def _row(  # type: ignore[no-untyped-def]
    x_ptr, line, inside, column, e_E, all_E, W: tl.constexpr, E: tl.constexpr, COLUMNS: tl.constexpr, HALO: tl.constexpr
):
    """Adjacent columns of a row of the map, and ``HALO`` more on both sides; zero where there are none."""
    columns = (e_E,)[:0]
    for at in tl.static_range(COLUMNS + 2 * HALO):
        w = column + at - HALO
        there_E = all_E & (inside & (w >= 0) & (w < W))
        columns += (tl.load(x_ptr + (line * W + w) * E + e_E, mask=there_E, other=0.0),)  # type: ignore[assignment]
    return columns


@jit
def _activated_row(  # type: ignore[no-untyped-def]
    columns, inside, column, mean_E, scale_E, beta_E,
    W: tl.constexpr, ACTIVATION: tl.constexpr, NORM: tl.constexpr, HALO: tl.constexpr,
):  # fmt: skip
    """The columns after norm or shift and activation; zero where there are none."""
    a = columns[:0]
    for at in tl.static_range(len(columns)):
        w = column + at - HALO
        x_E = columns[at].to(beta_E.dtype)
        y_E = (x_E - mean_E) * scale_E + beta_E if NORM else x_E + beta_E
        a += (tl.where(inside & (w >= 0) & (w < W), activated(y_E, ACTIVATION), 0.0),)
    return a


@jit
def _with_row(pending, a, taps, COLUMNS: tl.constexpr, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """Add one input row to the k output rows that see it; the first of them is then complete."""
    sums = pending[:0]
    for j in tl.static_range(K):
        for c in tl.static_range(COLUMNS):
            sum_E = pending[j * COLUMNS + c]
            for dx in tl.static_range(K):
                sum_E = tl.fma(a[c + dx], taps[(K - 1 - j) * K + dx], sum_E)
            sums += (sum_E,)
    return sums


@jit
def _as(columns, COMPUTE: tl.constexpr):  # type: ignore[no-untyped-def]
    converted = columns[:0]
    for at in tl.static_range(len(columns)):
        converted += (columns[at].to(COMPUTE),)
    return converted


@jit
def _taps(weight_ptr, e_E, all_E, K: tl.constexpr, COMPUTE: tl.constexpr):  # type: ignore[no-untyped-def]
    taps = (e_E,)[:0]
    for tap in tl.static_range(K * K):
        tap_E = tl.load(weight_ptr + e_E * K * K + tap, mask=all_E, other=0.0)
        taps += (tap_E.to(COMPUTE),)  # type: ignore[assignment]
    return taps


@jit
def forward_kernel(  # type: ignore[no-untyped-def]
    z_ptr, mean_ptr, invstd_ptr, gamma_ptr, beta_ptr, weight_ptr, bias_ptr, out_ptr, count_ptr, part_ptr,
    H, strips, bands, band_rows, programs,
    W: tl.constexpr, E: tl.constexpr, K: tl.constexpr, ACTIVATION: tl.constexpr, TRAINING: tl.constexpr,
    COLUMNS: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """The convolution of the activated map, and numbers of its output.

    In training the map is normalized before the activation, and the numbers are the moments of this program's outputs.
    In inference it is shifted; bias and activation follow the convolution, and the numbers are this program's share of
    the mean over positions.
    """
    program, e_E, all_E, column, top, bottom, first_line = _place(H, strips, bands, band_rows, E, COLUMNS, BLOCK_E)
    zero_E = tl.full((BLOCK_E,), 0.0, part_ptr.dtype.element_ty)
    beta_E = tl.load(beta_ptr + e_E, mask=all_E, other=0.0).to(zero_E.dtype)
    mean_E = zero_E
    scale_E = zero_E
    bias_E = zero_E
    if TRAINING:
        mean_E = tl.load(mean_ptr + e_E, mask=all_E, other=0.0)
        gamma_E = tl.load(gamma_ptr + e_E, mask=all_E, other=0.0)
        scale_E = gamma_E * tl.load(invstd_ptr + e_E, mask=all_E, other=0.0)
    else:
        bias_E = tl.load(bias_ptr + e_E, mask=all_E, other=0.0).to(zero_E.dtype)
    taps = _taps(weight_ptr, e_E, all_E, K, zero_E.dtype)
    nothing = (zero_E,) * COLUMNS
    pending = (zero_E,) * ((K - 1) * COLUMNS)
    pivot_E = zero_E
    sum_E = zero_E
    squares_E = zero_E
    first = top - K // 2
    columns = _row(z_ptr, first_line + first, first >= 0, column, e_E, all_E, W, E, COLUMNS, K // 2)
    for below in range(first, bottom + K // 2):
        # The next row is on its way while this one is computed, or waiting for it would take most of the time.
        more = below + 1
        following = _row(
            z_ptr, first_line + more, (more >= 0) & (more < tl.minimum(bottom + K // 2, H)), column, e_E, all_E,
            W, E, COLUMNS, K // 2,
        )  # fmt: skip
        inside = (below >= 0) & (below < H)
        a = _activated_row(
            columns, inside, column, mean_E, scale_E, beta_E, W, ACTIVATION, TRAINING, K // 2
        )  # fmt: skip
        columns = following
        sums = _with_row(pending + nothing, a, taps, COLUMNS, K)
        pending = sums[COLUMNS:]
        row = below - K // 2
        for c in tl.static_range(COLUMNS):
            value_E = sums[c]
            if not TRAINING:
                value_E = activated(value_E + bias_E, ACTIVATION)
            there_E = all_E & ((row >= top) & (column + c < W))
            out_E = value_E.to(out_ptr.dtype.element_ty)
            tl.store(out_ptr + ((first_line + row) * W + column + c) * E + e_E, out_E, mask=there_E)
            value_E = out_E.to(zero_E.dtype)
            if TRAINING:
                # Deviations from one of the values, because squares of large numbers would hide a small variance.
                if c == 0:
                    pivot_E = tl.where(row == top, value_E, pivot_E)
                value_E -= pivot_E
            value_E = tl.where(there_E, value_E, 0.0)
            sum_E += value_E
            if TRAINING:
                squares_E += value_E * value_E
    if TRAINING:
        count = ((bottom - top) * tl.minimum(W - column, COLUMNS)).to(zero_E.dtype)
        tl.store(count_ptr + program, count)  # the programs of all channels store the same
        tl.store(part_ptr + program * E + e_E, pivot_E + sum_E / count, mask=all_E)
        tl.store(part_ptr + (programs + program) * E + e_E, squares_E - sum_E * sum_E / count, mask=all_E)
    else:
        tl.store(part_ptr + program * E + e_E, sum_E / (H * W), mask=all_E)


@jit
def backward_kernel(  # type: ignore[no-untyped-def]
    z_ptr, dout_ptr, mean_ptr, invstd_ptr, gamma_ptr, beta_ptr, weight_ptr, dy_ptr, part_ptr,
    H, strips, bands, band_rows, programs,
    W: tl.constexpr, E: tl.constexpr, K: tl.constexpr, ACTIVATION: tl.constexpr,
    COLUMNS: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """The gradient of the normalized input, and this program's share of those of shift, scale and weights."""
    program, e_E, all_E, column, top, bottom, first_line = _place(H, strips, bands, band_rows, E, COLUMNS, BLOCK_E)
    mean_E = tl.load(mean_ptr + e_E, mask=all_E, other=0.0)
    invstd_E = tl.load(invstd_ptr + e_E, mask=all_E, other=0.0)
    gamma_E = tl.load(gamma_ptr + e_E, mask=all_E, other=0.0)
    beta_E = tl.load(beta_ptr + e_E, mask=all_E, other=0.0)
    taps = _taps(weight_ptr, e_E, all_E, K, mean_E.dtype)
    zero_E = tl.full((BLOCK_E,), 0.0, mean_E.dtype)
    sum_dy_E = zero_E
    sum_dy_x_E = zero_E
    dtaps = (zero_E,) * (K * K)
    seen = (zero_E,) * ((K - 1) * (COLUMNS + K - 1))
    for row in range(top - K // 2, top + K // 2):
        inside = (row >= 0) & (row < H)
        new = _row(dout_ptr, first_line + row, inside, column, e_E, all_E, W, E, COLUMNS, K // 2)
        seen = (seen + _as(new, mean_E.dtype))[COLUMNS + K - 1 :]
    below = top + K // 2
    new = _row(dout_ptr, first_line + below, below < H, column, e_E, all_E, W, E, COLUMNS, K // 2)
    columns = _row(z_ptr, first_line + top, top < H, column, e_E, all_E, W, E, COLUMNS, 0)
    for row in range(top, bottom):
        window = seen + _as(new, mean_E.dtype)
        # The next rows are on their way while these are computed, or waiting for them would take most of the time.
        more = row + 1 + K // 2
        goes_on = row + 1 < bottom
        new = _row(dout_ptr, first_line + more, goes_on & (more < H), column, e_E, all_E, W, E, COLUMNS, K // 2)
        following = _row(z_ptr, first_line + row + 1, goes_on, column, e_E, all_E, W, E, COLUMNS, 0)
        for c in tl.static_range(COLUMNS):
            there_E = all_E & (column + c < W)
            x_E = (columns[c].to(mean_E.dtype) - mean_E) * invstd_E
            y_E = x_E * gamma_E + beta_E
            a_E = tl.where(there_E, activated(y_E, ACTIVATION), 0.0)
            da_E = zero_E
            sums = dtaps[:0]
            for tap in tl.static_range(K * K):
                # The output that saw this element through the tap lies on the opposite side.
                dout_E = window[(K - 1 - tap // K) * (COLUMNS + K - 1) + c + K - 1 - tap % K]
                da_E = tl.fma(dout_E, taps[tap], da_E)
                sums += (tl.fma(a_E, dout_E, dtaps[tap]),)
            dtaps = sums
            dy_E = tl.where(there_E, da_E * slope(y_E, ACTIVATION), 0.0)
            sum_dy_E += dy_E
            sum_dy_x_E += dy_E * x_E
            offset_E = ((first_line + row) * W + column + c) * E + e_E
            tl.store(dy_ptr + offset_E, dy_E.to(dy_ptr.dtype.element_ty), mask=there_E)
        columns = following
        seen = window[COLUMNS + K - 1 :]
    part_ptrs_E = part_ptr + program * (K * K + 2) * E + e_E
    tl.store(part_ptrs_E, sum_dy_E, mask=all_E)
    tl.store(part_ptrs_E + E, sum_dy_x_E, mask=all_E)
    for tap in tl.static_range(K * K):
        tl.store(part_ptrs_E + (2 + tap) * E, dtaps[tap], mask=all_E)
