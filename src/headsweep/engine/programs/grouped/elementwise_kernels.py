# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
"""Kernels of all operations but products: rows, norms, activations, dropout, losses, vectors."""

import triton
import triton.language as tl

from headsweep.engine.programs.grouped import records
from headsweep.engine.programs.grouped.product_kernels import _updated

BIAS = tl.constexpr(records.BIAS)
UNITS_OUT = tl.constexpr(records.UNITS_OUT)
WIDTH_OUT = tl.constexpr(records.WIDTH_OUT)
LINEAR = tl.constexpr(records.LINEAR)
OUTPUT = tl.constexpr(records.OUTPUT)
ERROR = tl.constexpr(records.ERROR)
NORMED = tl.constexpr(records.NORMED)
RECIPROCAL = tl.constexpr(records.RECIPROCAL)
VECTOR_GRADIENT = tl.constexpr(records.VECTOR_GRADIENT)
SCALE = tl.constexpr(records.SCALE)
SHIFT = tl.constexpr(records.SHIFT)
ACTIVATION = tl.constexpr(records.ACTIVATION)
LAYER = tl.constexpr(records.LAYER)
SLOT = tl.constexpr(records.SLOT)
VECTOR_PARTIAL = tl.constexpr(records.VECTOR_PARTIAL)
LENGTH = tl.constexpr(records.LENGTH)


@triton.jit(do_not_specialize=["rows"])
def gather_kernel(
    variants,
    inputs,
    activations,
    order,
    clock,
    rows,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Copy the rows of the present minibatch, of every input variant.

    `clock` holds the minibatches taken, the key of the seed, the first minibatch's number on the
    tape, and how many rows of `order` are read in an epoch. Rows that a short last minibatch lacks
    are copies of the first row of the order.
    """
    variant = variants + tl.program_id(1) * 4
    source = tl.load(variant)
    if source < 0:
        return
    width = tl.load(variant + 1).to(tl.int32) * 16
    target = activations + tl.load(variant + 2) * 16
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    number = tl.load(clock).to(tl.int32) * rows + row
    number = tl.where(number < tl.load(clock + 3), number, 0)
    example = tl.load(order + number)
    column = tl.arange(0, COLUMNS)
    for start in range(0, width, COLUMNS):
        at = start + column
        mask = (row < rows)[:, None] & (at < width)[None, :]
        place = inputs + source * 16 + example[:, None] * width + at[None, :]
        x = tl.load(place, mask=mask, other=0.0)
        tl.store(target + row[:, None] * width + at[None, :], x, mask=mask)


@triton.jit
def _sigmoids(z):
    """Return sigmoid(z), sigmoid(-z) and log(sigmoid(z)), each to full relative accuracy."""
    t = tl.exp(-tl.abs(z))
    p = tl.where(z >= 0, 1.0, t) / (1.0 + t)
    q = tl.where(z >= 0, t, 1.0) / (1.0 + t)
    return p, q, tl.where(z < 0, z, 0.0) - _log1p(t)


@triton.jit
def _log1p(t):
    """Return log(1 + t) for -1 < t <= 1 without losing a small t (Kahan)."""
    u = 1.0 + t
    d = u - 1.0
    return tl.where(d == 0, t, tl.log(u) * (t / tl.where(d == 0, 1.0, d)))


@triton.jit
def _power(x, exponent):
    """Return `x ** exponent` for x in [0, 1] and an exponent of at least -1."""
    power = tl.exp(exponent * tl.log(tl.maximum(x, 1e-37)))
    at_zero = tl.where(exponent > 0, 0.0, power)
    return tl.where(exponent == 0, 1.0, tl.where(x <= 0, at_zero, power))


@triton.jit
def _tanh(y):
    """Return tanh(y), by a series where the exponential form would cancel."""
    t = tl.exp(-2.0 * tl.abs(y))
    large = tl.where(y >= 0, 1.0, -1.0) * (1.0 - t) / (1.0 + t)
    s = y * y
    small = y * (1.0 + s * (-0.3333333333 + s * (0.1333333333 - s * 0.05396825397)))
    return tl.where(tl.abs(y) < 0.2, small, large)


@triton.jit
def _activated(y, kind):
    """Return the activation that `kind` numbers (see `records.ACTIVATIONS`)."""
    if kind == 0:
        a = tl.where(y <= 0, 0.0, y)
    elif kind == 1:
        a = 0.5 * y * (1.0 + tl.erf(y * 0.7071067811865476))
    elif kind == 2:
        p, _q, _ = _sigmoids(y)
        a = y * p
    else:
        a = _tanh(y)
    return a


@triton.jit
def _slope(y, kind):
    """Return the derivative of the activation."""
    if kind == 0:
        d = tl.where(y <= 0, 0.0, 1.0)
    elif kind == 1:
        density = 0.3989422804014327 * tl.exp(-0.5 * y * y)
        d = 0.5 * (1.0 + tl.erf(y * 0.7071067811865476)) + y * density
    elif kind == 2:
        p, q, _ = _sigmoids(y)
        d = p * (1.0 + y * q)
    else:
        a = _tanh(y)
        d = 1.0 - a * a
    return d


@triton.jit
def _mixed(x):
    """Return the hash `lowbias32` of uint32 numbers (see `numerics.dropout_noise`)."""
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _dropout_factor(clock, layer, position, hyper):
    """Return 1 / (1 - p), or 0 for dropped inputs, by position (int32)."""
    step = (tl.load(clock) + tl.load(clock + 2)).to(tl.uint32)
    layer_key = (layer + 1).to(tl.uint32)
    key = _mixed(_mixed(tl.load(clock + 1).to(tl.uint32) ^ (step * 0x9E3779B9)) ^ layer_key)
    bits = _mixed(position.to(tl.uint32) + key)
    noise = bits.to(tl.int32, bitcast=True).to(tl.float32) * 2.3283064365386963e-10 + 0.5
    return tl.where(noise > tl.load(hyper + 6), tl.load(hyper + 7), 0.0)


@triton.jit(do_not_specialize=["rows"])
def activation_kernel(
    tiles,
    maps,
    weights,
    activations,
    hypers,
    clock,
    rows,
    TRAIN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Normalize, activate and drop the units of a layer."""
    tile = tiles + 2 * tl.program_id(0)
    index = tl.load(tile)
    if index < 0:
        return
    row = tl.load(tile + 1) * ROWS + tl.arange(0, ROWS)
    record = maps + index * LENGTH
    linear = activations + tl.load(record + LINEAR) * 16
    output = activations + tl.load(record + OUTPUT) * 16
    width = tl.load(record + WIDTH_OUT).to(tl.int32) * 16
    n_units = tl.load(record + UNITS_OUT).to(tl.int32)
    scale = tl.load(record + SCALE)
    kind = tl.load(record + ACTIVATION).to(tl.int32)
    layer = tl.load(record + LAYER).to(tl.int32)
    hyper = hypers + tl.load(record + SLOT) * 16
    inside = (row < rows)[:, None]
    column = tl.arange(0, COLUMNS)
    mean = tl.zeros((ROWS,), tl.float32)
    reciprocal = tl.zeros((ROWS,), tl.float32) + 1.0
    if scale >= 0:
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for start in range(0, width, COLUMNS):
            at = start + column
            mask = inside & (at < width)[None, :]
            z = tl.load(linear + row[:, None] * width + at[None, :], mask=mask, other=0.0)
            total += tl.where((at < n_units)[None, :], z, 0.0)
        mean = tl.sum(total, 1) / n_units
        square = tl.zeros((ROWS, COLUMNS), tl.float32)
        for start in range(0, width, COLUMNS):
            at = start + column
            mask = inside & (at < width)[None, :]
            z = tl.load(linear + row[:, None] * width + at[None, :], mask=mask, other=0.0)
            d = tl.where((at < n_units)[None, :], z - mean[:, None], 0.0)
            square += d * d
        reciprocal = 1.0 / tl.sqrt(tl.sum(square, 1) / n_units + 1e-5)
        if TRAIN:
            tl.store(
                activations + tl.load(record + RECIPROCAL) * 16 + row, reciprocal, mask=row < rows
            )
    for start in range(0, width, COLUMNS):
        at = start + column
        mask = inside & (at < width)[None, :]
        place = row[:, None] * width + at[None, :]
        y = tl.load(linear + place, mask=mask, other=0.0)
        if scale >= 0:
            y = (y - mean[:, None]) * reciprocal[:, None]
            if TRAIN:
                tl.store(activations + tl.load(record + NORMED) * 16 + place, y, mask=mask)
            factor = tl.load(weights + scale * 16 + at, mask=at < n_units, other=0.0)
            shift = weights + tl.load(record + SHIFT) * 16 + at
            y = y * factor[None, :] + tl.load(shift, mask=at < n_units, other=0.0)[None, :]
        a = _activated(y, kind)
        if TRAIN:  # noqa: SIM102 (known when the kernel is compiled; the other is not)
            if tl.load(hyper + 6) >= 0:
                position = row[:, None] * n_units + at[None, :]
                a = a * _dropout_factor(clock, layer, position, hyper)
        tl.store(output + place, tl.where((at < n_units)[None, :], a, 0.0), mask=mask)


@triton.jit
def _error_before_activation(
    activations, weights, record, hyper, clock, place, position, at, mask, n_units
):
    """Return the errors of the activation's input, and the normalized values (or the input)."""
    scale = tl.load(record + SCALE)
    kind = tl.load(record + ACTIVATION).to(tl.int32)
    layer = tl.load(record + LAYER).to(tl.int32)
    source = tl.where(scale >= 0, tl.load(record + NORMED), tl.load(record + LINEAR)) * 16
    x = tl.load(activations + source + place, mask=mask, other=0.0)
    y = x
    if scale >= 0:
        factor = tl.load(weights + scale * 16 + at, mask=at < n_units, other=0.0)
        shift = weights + tl.load(record + SHIFT) * 16 + at
        y = x * factor[None, :] + tl.load(shift, mask=at < n_units, other=0.0)[None, :]
    error = tl.load(activations + tl.load(record + ERROR) * 16 + place, mask=mask, other=0.0)
    if tl.load(hyper + 6) >= 0:
        error = error * _dropout_factor(clock, layer, position, hyper)
    error = error * _slope(y, kind)
    return tl.where((at < n_units)[None, :], error, 0.0), x


@triton.jit(do_not_specialize=["rows"])
def activation_error_kernel(
    tiles,
    maps,
    weights,
    activations,
    hypers,
    clock,
    rows,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Take errors of a layer's output back through dropout, activation and norm, in place."""
    tile = tiles + 2 * tl.program_id(0)
    index = tl.load(tile)
    if index < 0:
        return
    row = tl.load(tile + 1) * ROWS + tl.arange(0, ROWS)
    record = maps + index * LENGTH
    linear = activations + tl.load(record + LINEAR) * 16
    errors = activations + tl.load(record + ERROR) * 16
    width = tl.load(record + WIDTH_OUT).to(tl.int32) * 16
    n_units = tl.load(record + UNITS_OUT).to(tl.int32)
    scale = tl.load(record + SCALE)
    hyper = hypers + tl.load(record + SLOT) * 16
    inside = (row < rows)[:, None]
    column = tl.arange(0, COLUMNS)
    mean = tl.zeros((ROWS,), tl.float32)
    slope = tl.zeros((ROWS,), tl.float32)
    reciprocal = tl.zeros((ROWS,), tl.float32)
    if scale >= 0:
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        along = tl.zeros((ROWS, COLUMNS), tl.float32)
        for start in range(0, width, COLUMNS):
            at = start + column
            mask = inside & (at < width)[None, :]
            place = row[:, None] * width + at[None, :]
            position = row[:, None] * n_units + at[None, :]
            error, x = _error_before_activation(
                activations, weights, record, hyper, clock, place, position, at, mask, n_units
            )
            tl.store(linear + place, error, mask=mask)
            factor = tl.load(weights + scale * 16 + at, mask=at < n_units, other=0.0)
            total += error * factor[None, :]
            along += error * factor[None, :] * x
        mean = tl.sum(total, 1) / n_units
        slope = tl.sum(along, 1) / n_units
        reciprocal = tl.load(
            activations + tl.load(record + RECIPROCAL) * 16 + row, mask=row < rows, other=0.0
        )
    for start in range(0, width, COLUMNS):
        at = start + column
        mask = inside & (at < width)[None, :]
        place = row[:, None] * width + at[None, :]
        position = row[:, None] * n_units + at[None, :]
        error, x = _error_before_activation(
            activations, weights, record, hyper, clock, place, position, at, mask, n_units
        )
        if scale >= 0:
            factor = tl.load(weights + scale * 16 + at, mask=at < n_units, other=0.0)
            error = error * factor[None, :] - mean[:, None] - slope[:, None] * x
            error = tl.where((at < n_units)[None, :], error * reciprocal[:, None], 0.0)
        tl.store(errors + place, error, mask=mask)


@triton.jit
def _loss_slope(z, y, pos_weight, hyper, kind):
    """Return the derivative of a loss with respect to logits (see `numerics.losses`)."""
    p, q, log_p = _sigmoids(z)
    if kind == 0:
        slope = p - y
    elif kind == 1:
        slope = p * (1.0 - y) - pos_weight * y * q
    elif kind == 2:
        gamma = tl.load(hyper + 9)
        alpha = tl.load(hyper + 10)
        positive = _power(q, gamma) * (gamma * p * log_p - q)
        negative = _power(p, gamma) * (p - gamma * q * (log_p - z))
        slope = y * alpha * positive + (1.0 - y) * (1.0 - alpha) * negative
    else:
        gamma_neg = tl.load(hyper + 11)
        gamma_pos = tl.load(hyper + 12)
        shifted = tl.maximum(p - tl.load(hyper + 13), 1e-8)
        bounded = tl.minimum(shifted, 0.9999999)
        positive = _power(q, gamma_pos) * (gamma_pos * p * log_p - q)
        negative = _power(shifted, gamma_neg) / (1.0 - bounded)
        negative -= gamma_neg * _power(shifted, gamma_neg - 1.0) * _log1p(-bounded)
        negative = tl.where(shifted > 1e-8, p * q * negative, 0.0)
        slope = y * positive + (1.0 - y) * negative
    return slope


@triton.jit(do_not_specialize=["rows"])
def loss_kernel(
    tiles,
    maps,
    activations,
    hypers,
    kinds,
    targets,
    labelled,
    entries,
    pos_weights,
    order,
    clock,
    rows,
    MASKED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Compute the errors of the logits: the loss's slope over rows times labels.

    With `MASKED`, the slope is 0 where `labelled` is, and is divided by the number of labelled
    entries of the minibatch, which `entries` has by step.
    """
    tile = tiles + 2 * tl.program_id(0)
    index = tl.load(tile)
    if index < 0:
        return
    row = tl.load(tile + 1) * ROWS + tl.arange(0, ROWS)
    record = maps + index * LENGTH
    logits = activations + tl.load(record + LINEAR) * 16
    errors = activations + tl.load(record + ERROR) * 16
    width = tl.load(record + WIDTH_OUT).to(tl.int32) * 16
    n_labels = tl.load(record + UNITS_OUT).to(tl.int32)
    slot = tl.load(record + SLOT).to(tl.int32)
    hyper = hypers + slot * 16
    kind = tl.load(kinds + slot * 4)
    first = tl.load(clock).to(tl.int32) * rows
    present = tl.minimum(rows, tl.load(clock + 3).to(tl.int32) - first)
    if MASKED:
        weight = 1.0 / tl.load(entries + tl.load(clock))
    else:
        weight = 1.0 / (present * n_labels).to(tl.float32)
    read = row < present
    example = tl.load(order + first + row, mask=read, other=0)
    smoothing = tl.load(hyper + 8)
    for start in range(0, width, COLUMNS):
        at = start + tl.arange(0, COLUMNS)
        place = row[:, None] * width + at[None, :]
        there = read[:, None] & (at < n_labels)[None, :]
        z = tl.load(logits + place, mask=there, other=0.0)
        y = tl.load(targets + example[:, None] * n_labels + at[None, :], mask=there, other=0.0)
        y = y * (1.0 - smoothing) + 0.5 * smoothing
        pos_weight = tl.load(pos_weights + at, mask=at < n_labels, other=1.0)
        pos_weight = tl.minimum(pos_weight, tl.load(hyper + 14))
        slope = _loss_slope(z, y, pos_weight[None, :], hyper, kind)
        if MASKED:
            of_label = labelled + example[:, None] * n_labels + at[None, :]
            slope = slope * tl.load(of_label, mask=there, other=0.0)
        error = tl.where(there, slope * weight, 0.0)
        tl.store(errors + place, error, mask=(row < rows)[:, None] & (at < width)[None, :])


@triton.jit
def _update_vector(p_at, m_at, v_at, mask, g, hyper, rate, sgd):
    """Update a part of one vector of parameters."""
    p = tl.load(p_at, mask=mask, other=0.0)
    m = tl.load(m_at, mask=mask, other=0.0)
    v = tl.load(v_at, mask=mask, other=0.0)
    p, m, v = _updated(p, m, v, g, hyper, rate, sgd)
    tl.store(p_at, p, mask=mask)
    tl.store(m_at, m, mask=mask)
    tl.store(v_at, v, mask=mask)


@triton.jit(do_not_specialize=["rows", "slots"])
def vector_kernel(
    tiles,
    maps,
    weights,
    firsts,
    seconds,
    activations,
    gradients,
    partials,
    hypers,
    kinds,
    rates,
    clock,
    rows,
    slots,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Compute the gradients of biases, scales and shifts.

    They are applied at once, or kept with their sum of squares where the slot clips.
    """
    tile = tiles + 2 * tl.program_id(0)
    index = tl.load(tile)
    if index < 0:
        return
    number = tl.load(tile + 1)
    record = maps + index * LENGTH
    at = number * COLUMNS + tl.arange(0, COLUMNS)
    width = tl.load(record + WIDTH_OUT).to(tl.int32) * 16
    n_units = tl.load(record + UNITS_OUT).to(tl.int32)
    scale = tl.load(record + SCALE)
    slot = tl.load(record + SLOT).to(tl.int32)
    errors = activations + tl.load(record + ERROR) * 16
    behind = activations + tl.load(record + LINEAR) * 16
    normed = activations + tl.load(record + NORMED) * 16
    bias_sum = tl.zeros((ROWS, COLUMNS), tl.float32)
    scale_sum = tl.zeros((ROWS, COLUMNS), tl.float32)
    shift_sum = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, rows, ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < rows)[:, None] & (at < width)[None, :]
        place = row[:, None] * width + at[None, :]
        bias_sum += tl.load(errors + place, mask=mask, other=0.0)
        if scale >= 0:
            error = tl.load(behind + place, mask=mask, other=0.0)
            shift_sum += error
            scale_sum += error * tl.load(normed + place, mask=mask, other=0.0)
    there = at < n_units
    bias_g = tl.sum(bias_sum, 0)
    scale_g = tl.sum(scale_sum, 0)
    shift_g = tl.sum(shift_sum, 0)
    hyper = hypers + slot * 16
    rate = rates + (tl.load(clock).to(tl.int32) * slots + slot) * 4
    sgd = tl.load(kinds + slot * 4 + 1) == 1
    if tl.load(kinds + slot * 4 + 2) == 1:
        kept = gradients + tl.load(record + VECTOR_GRADIENT) * 16 + at
        tl.store(kept, bias_g, mask=at < width)
        tl.store(kept + width, scale_g, mask=at < width)
        tl.store(kept + 2 * width, shift_g, mask=at < width)
        squares = bias_g * bias_g + scale_g * scale_g + shift_g * shift_g
        total = tl.sum(tl.where(there, squares, 0.0), 0)
        tl.store(partials + tl.load(record + VECTOR_PARTIAL) + number, total)
    else:
        b = tl.load(record + BIAS) * 16 + at
        _update_vector(weights + b, firsts + b, seconds + b, there, bias_g, hyper, rate, sgd)
        if scale >= 0:
            c = scale * 16 + at
            d = tl.load(record + SHIFT) * 16 + at
            _update_vector(weights + c, firsts + c, seconds + c, there, scale_g, hyper, rate, sgd)
            _update_vector(weights + d, firsts + d, seconds + d, there, shift_g, hyper, rate, sgd)


@triton.jit
def clip_kernel(sums, partials, hypers, scales, BLOCK: tl.constexpr):
    """Compute the factor that brings the gradients of each slot to its clip norm.

    `sums` holds the first partial sum of squares and their number by slot; none where the slot
    does not clip.
    """
    slot = tl.program_id(0)
    first = tl.load(sums + 2 * slot)
    count = tl.load(sums + 2 * slot + 1).to(tl.int32)
    if count == 0:
        return
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(partials + first + at, mask=at < count, other=0.0)
    norm = tl.sqrt(tl.sum(total, 0))
    scale = tl.load(hypers + slot * 16 + 15) / (norm + 1e-6)
    tl.store(scales + slot, tl.where(scale > 1.0, 1.0, scale))


@triton.jit(do_not_specialize=["slots"])
def clipped_vector_kernel(
    tiles,
    maps,
    weights,
    firsts,
    seconds,
    gradients,
    hypers,
    kinds,
    rates,
    scales,
    clock,
    slots,
    COLUMNS: tl.constexpr,
):
    """Apply the gradients of vectors that `vector_kernel` has stored."""
    tile = tiles + 2 * tl.program_id(0)
    index = tl.load(tile)
    if index < 0:
        return
    record = maps + index * LENGTH
    at = tl.load(tile + 1) * COLUMNS + tl.arange(0, COLUMNS)
    width = tl.load(record + WIDTH_OUT).to(tl.int32) * 16
    there = at < tl.load(record + UNITS_OUT).to(tl.int32)
    scale = tl.load(record + SCALE)
    slot = tl.load(record + SLOT).to(tl.int32)
    hyper = hypers + slot * 16
    rate = rates + (tl.load(clock).to(tl.int32) * slots + slot) * 4
    sgd = tl.load(kinds + slot * 4 + 1) == 1
    factor = tl.load(scales + slot)
    kept = gradients + tl.load(record + VECTOR_GRADIENT) * 16 + at
    g = tl.load(kept, mask=there, other=0.0) * factor
    b = tl.load(record + BIAS) * 16 + at
    _update_vector(weights + b, firsts + b, seconds + b, there, g, hyper, rate, sgd)
    if scale >= 0:
        g = tl.load(kept + width, mask=there, other=0.0) * factor
        c = scale * 16 + at
        _update_vector(weights + c, firsts + c, seconds + c, there, g, hyper, rate, sgd)
        g = tl.load(kept + 2 * width, mask=there, other=0.0) * factor
        d = tl.load(record + SHIFT) * 16 + at
        _update_vector(weights + d, firsts + d, seconds + d, there, g, hyper, rate, sgd)


@triton.jit(do_not_specialize=["rows", "n_rows"])
def scores_kernel(
    tiles,
    maps,
    activations,
    scores,
    clock,
    rows,
    n_rows,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Store the logits of one pass over a split as `(K, c, n)`."""
    tile = tiles + 2 * tl.program_id(0)
    index = tl.load(tile)
    if index < 0:
        return
    row = tl.load(tile + 1) * ROWS + tl.arange(0, ROWS)
    record = maps + index * LENGTH
    logits = activations + tl.load(record + LINEAR) * 16
    width = tl.load(record + WIDTH_OUT).to(tl.int32) * 16
    n_labels = tl.load(record + UNITS_OUT).to(tl.int32)
    example = tl.load(clock).to(tl.int32) * rows + row
    read = (row < rows) & (example < n_rows)
    target = scores + tl.load(record + SLOT) * n_labels * n_rows
    for start in range(0, width, COLUMNS):
        at = start + tl.arange(0, COLUMNS)
        there = read[:, None] & (at < n_labels)[None, :]
        z = tl.load(logits + row[:, None] * width + at[None, :], mask=there, other=0.0)
        tl.store(target + at[None, :] * n_rows + example[:, None], z, mask=there)


@triton.jit
def tick_kernel(clock):
    """Count a minibatch."""
    tl.store(clock, tl.load(clock) + 1)
