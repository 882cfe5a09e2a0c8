"""The device code of passes over a map: moments, means, scaling, and gradients. ``normalized.py`` launches it.

A program has a tile of adjacent positions and channels of one image, or walks over several such tiles and adds them up.

Shape suffixes: B images, N positions, E channels.
"""

from __future__ import annotations

from localvit.locality.kernels.gpu.device import activated, add, jit, slope, tl


@jit
def _place(M, E, span, BLOCK_E: tl.constexpr):  # type: ignore[no-untyped-def]
    """This program's number among those of its channels, its image, first and last position, and channels."""
    tiles_E = (E + BLOCK_E - 1) // BLOCK_E
    # 64 bits from here on: offsets derived from the program id count elements of the whole batch.
    program = tl.program_id(0).to(tl.int64) // tiles_E
    e_E = (tl.program_id(0) % tiles_E) * BLOCK_E + tl.arange(0, BLOCK_E)
    spans = (M + span - 1) // span
    first = (program % spans).to(tl.int32) * span
    return program, program // spans, first, tl.minimum(first + span, M), e_E


@jit
def _vector(pointer, e_E, E):  # type: ignore[no-untyped-def]
    return tl.load(pointer + e_E, mask=e_E < E, other=0.0)


@jit
def moments_kernel(  # type: ignore[no-untyped-def]
    z_ptr, count_ptr, part_ptr, M, E, span, programs, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr
):
    """Number of the values of each program, their mean, and squared deviations from it."""
    program, image, first, last, e_E = _place(M, E, span, BLOCK_E)
    pivot_E = tl.load(z_ptr + (image * M + first) * E + e_E, mask=e_E < E, other=0.0).to(part_ptr.dtype.element_ty)
    sum_NE = tl.full((BLOCK_N, BLOCK_E), 0.0, pivot_E.dtype)
    squares_NE = sum_NE
    for start in range(first, last, BLOCK_N):
        n_N = start + tl.arange(0, BLOCK_N)
        there_NE = (n_N < last)[:, None] & (e_E < E)[None, :]
        z_NE = tl.load(z_ptr + image * M * E + n_N[:, None] * E + e_E[None, :], mask=there_NE, other=0.0)
        deviation_NE = tl.where(there_NE, z_NE.to(pivot_E.dtype) - pivot_E[None, :], 0.0)
        sum_NE += deviation_NE
        squares_NE += deviation_NE * deviation_NE
    sum_E = tl.reduce(sum_NE, 0, add)
    squares_E = tl.reduce(squares_NE, 0, add)
    count = (last - first).to(pivot_E.dtype)
    tl.store(count_ptr + program, count)  # the programs of all channels store the same
    tl.store(part_ptr + program * E + e_E, pivot_E + sum_E / count, mask=e_E < E)
    tl.store(part_ptr + (programs + program) * E + e_E, squares_E - sum_E * sum_E / count, mask=e_E < E)


@jit
def statistics_kernel(  # type: ignore[no-untyped-def]
    count_ptr, part_ptr, statistics_ptr, running_mean_ptr, running_var_ptr, tracked_ptr, P, E, momentum, eps,
    BLOCK_P: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Mean and inverse standard deviation of all values from the moments of parts; also moves running statistics.

    The method of Chan, Golub and LeVeque (1983) avoids subtracting large numbers.
    """
    e_E = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    zero_PE = tl.full((BLOCK_P, BLOCK_E), 0.0, statistics_ptr.dtype.element_ty)
    sum_PE = zero_PE
    count_PE = zero_PE
    for start in range(0, P, BLOCK_P):
        p_P = start + tl.arange(0, BLOCK_P)
        there_PE = (p_P < P)[:, None] & (e_E < E)[None, :]
        n_P = tl.load(count_ptr + p_P, mask=p_P < P, other=0.0)
        mean_PE = tl.load(part_ptr + p_P[:, None] * E + e_E[None, :], mask=there_PE, other=0.0)
        sum_PE += n_P[:, None] * mean_PE
        count_PE += n_P[:, None]
    total_E = tl.reduce(count_PE, 0, add)
    mean_E = tl.reduce(sum_PE, 0, add) / total_E
    squares_PE = zero_PE
    for start in range(0, P, BLOCK_P):
        p_P = start + tl.arange(0, BLOCK_P)
        there_PE = (p_P < P)[:, None] & (e_E < E)[None, :]
        n_P = tl.load(count_ptr + p_P, mask=p_P < P, other=0.0)
        mean_PE = tl.load(part_ptr + p_P[:, None] * E + e_E[None, :], mask=there_PE, other=0.0)
        own_PE = tl.load(part_ptr + (P + p_P[:, None]) * E + e_E[None, :], mask=there_PE, other=0.0)
        off_PE = mean_PE - mean_E[None, :]
        squares_PE += own_PE + n_P[:, None] * off_PE * off_PE
    squares_E = tl.reduce(squares_PE, 0, add)
    tl.store(statistics_ptr + e_E, mean_E, mask=e_E < E)
    tl.store(statistics_ptr + E + e_E, 1.0 / tl.sqrt(squares_E / total_E + eps), mask=e_E < E)
    running_E = _vector(running_mean_ptr, e_E, E).to(mean_E.dtype)
    running_E += momentum * (mean_E - running_E)
    tl.store(running_mean_ptr + e_E, running_E.to(running_mean_ptr.dtype.element_ty), mask=e_E < E)
    running_E = _vector(running_var_ptr, e_E, E).to(mean_E.dtype)
    running_E += momentum * (squares_E / (total_E - 1.0) - running_E)
    tl.store(running_var_ptr + e_E, running_E.to(running_var_ptr.dtype.element_ty), mask=e_E < E)
    if tl.program_id(0) == 0:
        tl.store(tracked_ptr, tl.load(tracked_ptr) + 1)


@jit
def mean_kernel(  # type: ignore[no-untyped-def]
    z_ptr, mean_ptr, invstd_ptr, gamma_ptr, beta_ptr, part_ptr, M, E, span,
    ACTIVATION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """This program's share of the mean over positions of the normalized and activated map."""
    program, image, first, last, e_E = _place(M, E, span, BLOCK_E)
    mean_E = _vector(mean_ptr, e_E, E)
    scale_E = _vector(gamma_ptr, e_E, E) * _vector(invstd_ptr, e_E, E)
    beta_E = _vector(beta_ptr, e_E, E)
    sum_NE = tl.full((BLOCK_N, BLOCK_E), 0.0, mean_E.dtype)
    for start in range(first, last, BLOCK_N):
        n_N = start + tl.arange(0, BLOCK_N)
        there_NE = (n_N < last)[:, None] & (e_E < E)[None, :]
        z_NE = tl.load(z_ptr + image * M * E + n_N[:, None] * E + e_E[None, :], mask=there_NE, other=0.0)
        y_NE = (z_NE.to(mean_E.dtype) - mean_E[None, :]) * scale_E[None, :] + beta_E[None, :]
        sum_NE += tl.where(there_NE, activated(y_NE, ACTIVATION), 0.0)
    tl.store(part_ptr + program * E + e_E, tl.reduce(sum_NE, 0, add) / M, mask=e_E < E)


@jit
def scale_kernel(  # type: ignore[no-untyped-def]
    z_ptr, mean_ptr, invstd_ptr, gamma_ptr, beta_ptr, gates_ptr, out_ptr, M, E, span,
    ACTIVATION: tl.constexpr, GATES: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """The map, normalized and activated if there is an activation, times the gates of its image if there are gates."""
    _, image, first, last, e_E = _place(M, E, span, BLOCK_E)
    n_N = first + tl.arange(0, BLOCK_N)
    there_NE = (n_N < last)[:, None] & (e_E < E)[None, :]
    offset_NE = image * M * E + n_N[:, None] * E + e_E[None, :]
    a_NE = tl.load(z_ptr + offset_NE, mask=there_NE, other=0.0).to(mean_ptr.dtype.element_ty)
    if ACTIVATION != "":
        scale_E = _vector(gamma_ptr, e_E, E) * _vector(invstd_ptr, e_E, E)
        y_NE = (a_NE - _vector(mean_ptr, e_E, E)[None, :]) * scale_E[None, :] + _vector(beta_ptr, e_E, E)[None, :]
        a_NE = activated(y_NE, ACTIVATION)
    if GATES:
        a_NE *= _vector(gates_ptr + image * E, e_E, E).to(a_NE.dtype)[None, :]
    tl.store(out_ptr + offset_NE, a_NE.to(out_ptr.dtype.element_ty), mask=there_NE)


@jit
def gradient_sums_kernel(  # type: ignore[no-untyped-def]
    z_ptr, dout_ptr, mean_ptr, invstd_ptr, gamma_ptr, beta_ptr, part_ptr, M, E, span, programs,
    ACTIVATION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """All sums over positions that the gradients of :func:`scale_kernel` need, before the gates' own are known.

    In order: of ``dout * a``, ``dout * slope``, ``dout * slope * x``, ``slope`` and ``slope * x``, where ``x`` is the
    normalized map, ``a`` the activated one, and ``slope`` the derivative of the activation.
    """
    program, image, first, last, e_E = _place(M, E, span, BLOCK_E)
    mean_E = _vector(mean_ptr, e_E, E)
    invstd_E = _vector(invstd_ptr, e_E, E)
    gamma_E = _vector(gamma_ptr, e_E, E)
    beta_E = _vector(beta_ptr, e_E, E)
    zero_NE = tl.full((BLOCK_N, BLOCK_E), 0.0, mean_E.dtype)
    gates_NE = zero_NE
    dy_NE = zero_NE
    dy_x_NE = zero_NE
    slope_NE = zero_NE
    slope_x_NE = zero_NE
    for start in range(first, last, BLOCK_N):
        n_N = start + tl.arange(0, BLOCK_N)
        there_NE = (n_N < last)[:, None] & (e_E < E)[None, :]
        offset_NE = image * M * E + n_N[:, None] * E + e_E[None, :]
        z_NE = tl.load(z_ptr + offset_NE, mask=there_NE, other=0.0).to(mean_E.dtype)
        dout_NE = tl.load(dout_ptr + offset_NE, mask=there_NE, other=0.0).to(mean_E.dtype)
        x_NE = (z_NE - mean_E[None, :]) * invstd_E[None, :]
        y_NE = x_NE * gamma_E[None, :] + beta_E[None, :]
        s_NE = tl.where(there_NE, slope(y_NE, ACTIVATION), 0.0)
        gates_NE += dout_NE * activated(y_NE, ACTIVATION)
        dy_NE += dout_NE * s_NE
        dy_x_NE += dout_NE * s_NE * x_NE
        slope_NE += s_NE
        slope_x_NE += s_NE * x_NE
    at_E = part_ptr + program * E + e_E
    tl.store(at_E, tl.reduce(gates_NE, 0, add), mask=e_E < E)
    tl.store(at_E + programs * E, tl.reduce(dy_NE, 0, add), mask=e_E < E)
    tl.store(at_E + 2 * programs * E, tl.reduce(dy_x_NE, 0, add), mask=e_E < E)
    tl.store(at_E + 3 * programs * E, tl.reduce(slope_NE, 0, add), mask=e_E < E)
    tl.store(at_E + 4 * programs * E, tl.reduce(slope_x_NE, 0, add), mask=e_E < E)


@jit
def channel_sums_kernel(  # type: ignore[no-untyped-def]
    sums_ptr, gates_ptr, dmean_ptr, dnorm_ptr, B, M, E,
    GATES: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Gradients of shift and scale of the norm: sums over images of those of :func:`gradient_sums_kernel`."""
    e_E = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    dbeta_BE = tl.full((BLOCK_B, BLOCK_E), 0.0, dnorm_ptr.dtype.element_ty)
    dgamma_BE = dbeta_BE
    for start in range(0, B, BLOCK_B):
        b_B = start + tl.arange(0, BLOCK_B)
        there_BE = (b_B < B)[:, None] & (e_E < E)[None, :]
        at_BE = b_B[:, None] * E + e_E[None, :]
        dy_BE = tl.load(sums_ptr + B * E + at_BE, mask=there_BE, other=0.0)
        dy_x_BE = tl.load(sums_ptr + 2 * B * E + at_BE, mask=there_BE, other=0.0)
        if GATES:
            gates_BE = tl.load(gates_ptr + at_BE, mask=there_BE, other=0.0).to(dbeta_BE.dtype)
            dmean_BE = tl.load(dmean_ptr + at_BE, mask=there_BE, other=0.0) / M
            slope_BE = tl.load(sums_ptr + 3 * B * E + at_BE, mask=there_BE, other=0.0)
            slope_x_BE = tl.load(sums_ptr + 4 * B * E + at_BE, mask=there_BE, other=0.0)
            dy_BE = gates_BE * dy_BE + dmean_BE * slope_BE
            dy_x_BE = gates_BE * dy_x_BE + dmean_BE * slope_x_BE
        dbeta_BE += dy_BE
        dgamma_BE += dy_x_BE
    tl.store(dnorm_ptr + e_E, tl.reduce(dbeta_BE, 0, add), mask=e_E < E)
    tl.store(dnorm_ptr + E + e_E, tl.reduce(dgamma_BE, 0, add), mask=e_E < E)


@jit
def gradient_kernel(  # type: ignore[no-untyped-def]
    z_ptr, dout_ptr, mean_ptr, invstd_ptr, gamma_ptr, beta_ptr, gates_ptr, dmean_ptr, sums_ptr,
    dz_ptr, count, M, E, span,
    ACTIVATION: tl.constexpr, GATES: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """The gradient of the input of norm and activation, through the statistics of the batch too.

    Without an activation, ``dout`` is the gradient of the normalized map. ``sums`` are those of shift and scale.
    """
    _, image, first, last, e_E = _place(M, E, span, BLOCK_E)
    n_N = first + tl.arange(0, BLOCK_N)
    there_NE = (n_N < last)[:, None] & (e_E < E)[None, :]
    offset_NE = image * M * E + n_N[:, None] * E + e_E[None, :]
    invstd_E = _vector(invstd_ptr, e_E, E)
    gamma_E = _vector(gamma_ptr, e_E, E)
    z_NE = tl.load(z_ptr + offset_NE, mask=there_NE, other=0.0).to(gamma_E.dtype)
    dy_NE = tl.load(dout_ptr + offset_NE, mask=there_NE, other=0.0).to(gamma_E.dtype)
    x_NE = (z_NE - _vector(mean_ptr, e_E, E)[None, :]) * invstd_E[None, :]
    if GATES:
        dmean_E = _vector(dmean_ptr + image * E, e_E, E) / M
        dy_NE = dy_NE * _vector(gates_ptr + image * E, e_E, E).to(gamma_E.dtype)[None, :] + dmean_E[None, :]
    if ACTIVATION != "":
        dy_NE *= slope(x_NE * gamma_E[None, :] + _vector(beta_ptr, e_E, E)[None, :], ACTIVATION)
    mean_dy_E = _vector(sums_ptr, e_E, E) / count
    mean_dy_x_E = _vector(sums_ptr + E, e_E, E) / count
    dz_NE = (dy_NE - mean_dy_E[None, :] - x_NE * mean_dy_x_E[None, :]) * (gamma_E * invstd_E)[None, :]
    tl.store(dz_ptr + offset_NE, dz_NE.to(dz_ptr.dtype.element_ty), mask=there_NE)
