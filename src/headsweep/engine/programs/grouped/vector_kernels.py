# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
"""Kernels of vectors of parameters (biases, scales, shifts): gradients, clipping, updates."""

import triton
import triton.language as tl

from headsweep.engine.programs.grouped.product_kernels import optimizer_step
from headsweep.engine.programs.grouped.record_fields import (
    BIAS,
    ERROR,
    LENGTH,
    LINEAR,
    NORMED,
    SCALE,
    SHIFT,
    SLOT,
    UNITS_OUT,
    VECTOR_GRADIENT,
    VECTOR_PARTIAL,
    WIDTH_OUT,
)


@triton.jit
def _update_vector(p_at, m_at, v_at, mask, g, hyper, rate, sgd):
    """Update a part of one vector of parameters."""
    p = tl.load(p_at, mask=mask, other=0.0)
    m = tl.load(m_at, mask=mask, other=0.0)
    v = tl.load(v_at, mask=mask, other=0.0)
    p, m, v = optimizer_step(p, m, v, g, hyper, rate, sgd)
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

    They are applied at once, or stored with their sum of squares where the slot clips.
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
        offset = row[:, None] * width + at[None, :]
        bias_sum += tl.load(errors + offset, mask=mask, other=0.0)
        if scale >= 0:
            error = tl.load(behind + offset, mask=mask, other=0.0)
            shift_sum += error
            scale_sum += error * tl.load(normed + offset, mask=mask, other=0.0)
    is_unit = at < n_units
    bias_g = tl.sum(bias_sum, 0)
    scale_g = tl.sum(scale_sum, 0)
    shift_g = tl.sum(shift_sum, 0)
    hyper = hypers + slot * 16
    rate = rates + (tl.load(clock).to(tl.int32) * slots + slot) * 4
    sgd = tl.load(kinds + slot * 4 + 1) == 1
    if tl.load(kinds + slot * 4 + 2) == 1:
        stored = gradients + tl.load(record + VECTOR_GRADIENT) * 16 + at
        tl.store(stored, bias_g, mask=at < width)
        tl.store(stored + width, scale_g, mask=at < width)
        tl.store(stored + 2 * width, shift_g, mask=at < width)
        squares = bias_g * bias_g + scale_g * scale_g + shift_g * shift_g
        total = tl.sum(tl.where(is_unit, squares, 0.0), 0)
        tl.store(partials + tl.load(record + VECTOR_PARTIAL) + number, total)
    else:
        b = tl.load(record + BIAS) * 16 + at
        _update_vector(weights + b, firsts + b, seconds + b, is_unit, bias_g, hyper, rate, sgd)
        if scale >= 0:
            c = scale * 16 + at
            d = tl.load(record + SHIFT) * 16 + at
            _update_vector(weights + c, firsts + c, seconds + c, is_unit, scale_g, hyper, rate, sgd)
            _update_vector(weights + d, firsts + d, seconds + d, is_unit, shift_g, hyper, rate, sgd)


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
    is_unit = at < tl.load(record + UNITS_OUT).to(tl.int32)
    scale = tl.load(record + SCALE)
    slot = tl.load(record + SLOT).to(tl.int32)
    hyper = hypers + slot * 16
    rate = rates + (tl.load(clock).to(tl.int32) * slots + slot) * 4
    sgd = tl.load(kinds + slot * 4 + 1) == 1
    factor = tl.load(scales + slot)
    stored = gradients + tl.load(record + VECTOR_GRADIENT) * 16 + at
    g = tl.load(stored, mask=is_unit, other=0.0) * factor
    b = tl.load(record + BIAS) * 16 + at
    _update_vector(weights + b, firsts + b, seconds + b, is_unit, g, hyper, rate, sgd)
    if scale >= 0:
        g = tl.load(stored + width, mask=is_unit, other=0.0) * factor
        c = scale * 16 + at
        _update_vector(weights + c, firsts + c, seconds + c, is_unit, g, hyper, rate, sgd)
        g = tl.load(stored + 2 * width, mask=is_unit, other=0.0) * factor
        d = tl.load(record + SHIFT) * 16 + at
        _update_vector(weights + d, firsts + d, seconds + d, is_unit, g, hyper, rate, sgd)
