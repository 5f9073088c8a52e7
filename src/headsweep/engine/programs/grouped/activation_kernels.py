# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
"""Kernels of layer norm, activation and dropout, forward and backward."""

import triton
import triton.language as tl

from headsweep.engine.programs.grouped.elementary_functions import sigmoids, tanh
from headsweep.engine.programs.grouped.record_fields import (
    ACTIVATION,
    ERROR,
    LAYER,
    LENGTH,
    LINEAR,
    NORMED,
    OUTPUT,
    RECIPROCAL,
    SCALE,
    SHIFT,
    SLOT,
    UNITS_OUT,
    WIDTH_OUT,
)


@triton.jit
def _activated(y, kind):
    """Return the activation that `kind` numbers (see `records.ACTIVATIONS`)."""
    if kind == 0:
        a = tl.where(y <= 0, 0.0, y)
    elif kind == 1:
        a = 0.5 * y * (1.0 + tl.erf(y * 0.7071067811865476))
    elif kind == 2:
        p, _q, _ = sigmoids(y)
        a = y * p
    else:
        a = tanh(y)
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
        p, q, _ = sigmoids(y)
        d = p * (1.0 + y * q)
    else:
        a = tanh(y)
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
        offset = row[:, None] * width + at[None, :]
        y = tl.load(linear + offset, mask=mask, other=0.0)
        if scale >= 0:
            y = (y - mean[:, None]) * reciprocal[:, None]
            if TRAIN:
                tl.store(activations + tl.load(record + NORMED) * 16 + offset, y, mask=mask)
            factor = tl.load(weights + scale * 16 + at, mask=at < n_units, other=0.0)
            shift = weights + tl.load(record + SHIFT) * 16 + at
            y = y * factor[None, :] + tl.load(shift, mask=at < n_units, other=0.0)[None, :]
        a = _activated(y, kind)
        if TRAIN:  # noqa: SIM102 (known when the kernel is compiled; the other is not)
            if tl.load(hyper + 6) >= 0:
                position = row[:, None] * n_units + at[None, :]
                a = a * _dropout_factor(clock, layer, position, hyper)
        tl.store(output + offset, tl.where((at < n_units)[None, :], a, 0.0), mask=mask)


@triton.jit
def _error_before_activation(
    activations, weights, record, hyper, clock, offset, position, at, mask, n_units
):
    """Return the errors of the activation's input, and the normalized values (or the input)."""
    scale = tl.load(record + SCALE)
    kind = tl.load(record + ACTIVATION).to(tl.int32)
    layer = tl.load(record + LAYER).to(tl.int32)
    source = tl.where(scale >= 0, tl.load(record + NORMED), tl.load(record + LINEAR)) * 16
    x = tl.load(activations + source + offset, mask=mask, other=0.0)
    y = x
    if scale >= 0:
        factor = tl.load(weights + scale * 16 + at, mask=at < n_units, other=0.0)
        shift = weights + tl.load(record + SHIFT) * 16 + at
        y = x * factor[None, :] + tl.load(shift, mask=at < n_units, other=0.0)[None, :]
    error = tl.load(activations + tl.load(record + ERROR) * 16 + offset, mask=mask, other=0.0)
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
            offset = row[:, None] * width + at[None, :]
            position = row[:, None] * n_units + at[None, :]
            error, x = _error_before_activation(
                activations, weights, record, hyper, clock, offset, position, at, mask, n_units
            )
            tl.store(linear + offset, error, mask=mask)
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
        offset = row[:, None] * width + at[None, :]
        position = row[:, None] * n_units + at[None, :]
        error, x = _error_before_activation(
            activations, weights, record, hyper, clock, offset, position, at, mask, n_units
        )
        if scale >= 0:
            factor = tl.load(weights + scale * 16 + at, mask=at < n_units, other=0.0)
            error = error * factor[None, :] - mean[:, None] - slope[:, None] * x
            error = tl.where((at < n_units)[None, :], error * reciprocal[:, None], 0.0)
        tl.store(errors + offset, error, mask=mask)
