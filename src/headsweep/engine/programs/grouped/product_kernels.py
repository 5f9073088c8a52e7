# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
"""Matrix products over a table of tiles, and the update that follows a weight gradient.

A program instance computes one tile, and adds its products up in one order that depends on the
shape of its own slot alone. Widths are multiples of 16 floats (see `records`): columns beyond the
true width hold zeros in weights, activations and errors, so only rows need exact masks.
"""

import triton
import triton.language as tl

from headsweep.engine.programs.grouped.record_fields import (
    BIAS,
    ERROR,
    INPUT,
    INPUT_ERROR,
    LENGTH,
    LINEAR,
    PARTIAL,
    SLOT,
    UNITS_OUT,
    WEIGHT,
    WIDTH_IN,
    WIDTH_OUT,
)


@triton.jit
def _to_bf16(x):
    """Return float32 numbers rounded to 8 significant bits, as a conversion to bfloat16 does."""
    bits = x.to(tl.int32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
    return tl.where(x == x, rounded.to(tl.float32, bitcast=True), x)


@triton.jit
def _to_tf32(x):
    """Return float32 numbers rounded to 11 significant bits, away from zero from halfway."""
    bits = (x.to(tl.int32, bitcast=True) + 0x1000) & -8192
    return tl.where(tl.abs(x) < float("inf"), bits.to(tl.float32, bitcast=True), x)


@triton.jit
def _add_product(x, y, total, PRECISION: tl.constexpr, EMULATED: tl.constexpr):
    """Return `total` plus the product of two tiles; `EMULATED` rounds without tensor cores."""
    if PRECISION == "bf16":
        if EMULATED:
            total = tl.dot(_to_bf16(x), _to_bf16(y), total, input_precision="ieee")
        else:
            total = tl.dot(x.to(tl.bfloat16), y.to(tl.bfloat16), total)
    elif PRECISION == "tf32":
        if EMULATED:
            total = tl.dot(_to_tf32(x), _to_tf32(y), total, input_precision="ieee")
        else:
            total = tl.dot(x, y, total, input_precision="tf32")
    else:
        total = tl.dot(x, y, total, input_precision="tf32x3")
    return total


@triton.jit(do_not_specialize=["rows", "row_tiles"])
def product_kernel(
    tiles,
    maps,
    weights,
    activations,
    rows,
    row_tiles,
    PRECISION: tl.constexpr,
    EMULATED: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Compute `input @ weight.T + bias` of every map."""
    tile = tiles + 2 * tl.program_id(0)
    index = tl.load(tile)
    if index < 0:
        return
    number = tl.load(tile + 1)
    record = maps + index * LENGTH
    weight = weights + tl.load(record + WEIGHT) * 16
    bias = weights + tl.load(record + BIAS) * 16
    source = activations + tl.load(record + INPUT) * 16
    target = activations + tl.load(record + LINEAR) * 16
    width_in = tl.load(record + WIDTH_IN).to(tl.int32) * 16
    width_out = tl.load(record + WIDTH_OUT).to(tl.int32) * 16
    units_out = tl.load(record + UNITS_OUT).to(tl.int32)
    row = (number % row_tiles) * ROWS + tl.arange(0, ROWS)
    unit = (number // row_tiles) * OUTPUTS + tl.arange(0, OUTPUTS)
    k = tl.arange(0, DEPTH)
    x_at = source + row[:, None] * width_in + k[None, :]
    w_at = weight + unit[None, :] * width_in + k[:, None]
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for start in range(0, width_in, DEPTH):
        inside = start + k < width_in
        x = tl.load(x_at + start, mask=(row < rows)[:, None] & inside[None, :], other=0.0)
        w = tl.load(w_at + start, mask=(unit < units_out)[None, :] & inside[:, None], other=0.0)
        total = _add_product(x, w, total, PRECISION, EMULATED)
    total += tl.load(bias + unit, mask=unit < units_out, other=0.0)[None, :]
    there = (row < rows)[:, None] & (unit < width_out)[None, :]
    tl.store(target + row[:, None] * width_out + unit[None, :], total, mask=there)


@triton.jit(do_not_specialize=["rows", "row_tiles"])
def input_error_kernel(
    tiles,
    maps,
    weights,
    activations,
    rows,
    row_tiles,
    PRECISION: tl.constexpr,
    EMULATED: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Compute `error @ weight`, the errors of the input of every map."""
    tile = tiles + 2 * tl.program_id(0)
    index = tl.load(tile)
    if index < 0:
        return
    number = tl.load(tile + 1)
    record = maps + index * LENGTH
    weight = weights + tl.load(record + WEIGHT) * 16
    source = activations + tl.load(record + ERROR) * 16
    target = activations + tl.load(record + INPUT_ERROR) * 16
    width_in = tl.load(record + WIDTH_IN).to(tl.int32) * 16
    width_out = tl.load(record + WIDTH_OUT).to(tl.int32) * 16
    units_out = tl.load(record + UNITS_OUT).to(tl.int32)
    row = (number % row_tiles) * ROWS + tl.arange(0, ROWS)
    unit = (number // row_tiles) * OUTPUTS + tl.arange(0, OUTPUTS)
    k = tl.arange(0, DEPTH)
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for start in range(0, units_out, DEPTH):
        at = start + k
        e = tl.load(
            source + row[:, None] * width_out + at[None, :],
            mask=(row < rows)[:, None] & (at < width_out)[None, :],
            other=0.0,
        )
        w = tl.load(
            weight + at[:, None] * width_in + unit[None, :],
            mask=(at < units_out)[:, None] & (unit < width_in)[None, :],
            other=0.0,
        )
        total = _add_product(e, w, total, PRECISION, EMULATED)
    there = (row < rows)[:, None] & (unit < width_in)[None, :]
    tl.store(target + row[:, None] * width_in + unit[None, :], total, mask=there)


@triton.jit
def _weight_gradient(
    record,
    activations,
    unit,
    column,
    rows,
    PRECISION: tl.constexpr,
    EMULATED: tl.constexpr,
    UNITS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Return a tile of `error.T @ input`."""
    source = activations + tl.load(record + INPUT) * 16
    errors = activations + tl.load(record + ERROR) * 16
    width_in = tl.load(record + WIDTH_IN).to(tl.int32) * 16
    width_out = tl.load(record + WIDTH_OUT).to(tl.int32) * 16
    k = tl.arange(0, DEPTH)
    total = tl.zeros((UNITS, COLUMNS), tl.float32)
    for start in range(0, rows, DEPTH):
        row = start + k
        inside = row < rows
        e = tl.load(  # transposed by its addresses: `tl.trans` would copy four bytes at a time
            errors + row[None, :] * width_out + unit[:, None],
            mask=inside[None, :] & (unit < width_out)[:, None],
            other=0.0,
        )
        x = tl.load(
            source + row[:, None] * width_in + column[None, :],
            mask=inside[:, None] & (column < width_in)[None, :],
            other=0.0,
        )
        total = _add_product(e, x, total, PRECISION, EMULATED)
    return total


@triton.jit
def optimizer_step(p, m, v, g, hyper, rate, sgd):
    """Return parameters `p` and moments `m`, `v` after a step of PyTorch's AdamW or SGD."""
    if sgd:
        momentum = tl.load(hyper + 4)
        decay = tl.load(hyper + 5)
        m = momentum * m + (g + decay * p)
        p = p - tl.load(rate) * m
    else:
        p = p * tl.load(rate + 1)
        m = m + (g - m) * tl.load(hyper + 1)
        v = v * tl.load(hyper + 2) + g * g * tl.load(hyper + 3)
        p = p - tl.load(rate + 2) * m / (tl.sqrt(v) * tl.load(rate + 3) + tl.load(hyper + 4))
    return p, m, v


@triton.jit(do_not_specialize=["rows"])
def gradient_norm_kernel(
    tiles,
    maps,
    activations,
    partials,
    rows,
    PRECISION: tl.constexpr,
    EMULATED: tl.constexpr,
    UNITS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Compute the sum of squares of every tile of the weight gradients of slots that clip."""
    tile = tiles + 2 * tl.program_id(0)
    index = tl.load(tile)
    if index < 0:
        return
    number = tl.load(tile + 1)
    record = maps + index * LENGTH
    columns = tl.load(record + WIDTH_IN).to(tl.int32) * 16
    column_tiles = (columns + COLUMNS - 1) // COLUMNS
    unit = (number // column_tiles) * UNITS + tl.arange(0, UNITS)
    column = (number % column_tiles) * COLUMNS + tl.arange(0, COLUMNS)
    g = _weight_gradient(
        record, activations, unit, column, rows, PRECISION, EMULATED, UNITS, COLUMNS, DEPTH
    )
    tl.store(partials + tl.load(record + PARTIAL) + number, tl.sum(tl.sum(g * g, 1), 0))


@triton.jit(do_not_specialize=["rows", "slots"])
def update_kernel(
    tiles,
    maps,
    weights,
    firsts,
    seconds,
    activations,
    hypers,
    kinds,
    rates,
    scales,
    clock,
    rows,
    slots,
    PRECISION: tl.constexpr,
    EMULATED: tl.constexpr,
    UNITS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Return a tile of a weight gradient in registers, and update weights and moments at once."""
    tile = tiles + 2 * tl.program_id(0)
    index = tl.load(tile)
    if index < 0:
        return
    number = tl.load(tile + 1)
    record = maps + index * LENGTH
    start = tl.load(record + WEIGHT) * 16
    width_in = tl.load(record + WIDTH_IN).to(tl.int32) * 16
    units_out = tl.load(record + UNITS_OUT).to(tl.int32)
    slot = tl.load(record + SLOT).to(tl.int32)
    column_tiles = (width_in + COLUMNS - 1) // COLUMNS
    first_unit = (number // column_tiles) * UNITS
    first_column = (number % column_tiles) * COLUMNS
    sgd = tl.load(kinds + slot * 4 + 1) == 1
    g = _weight_gradient(
        record, activations, first_unit + tl.arange(0, UNITS),
        first_column + tl.arange(0, COLUMNS), rows, PRECISION, EMULATED, UNITS, COLUMNS, DEPTH,
    )  # fmt: skip
    if tl.load(kinds + slot * 4 + 2) == 1:
        g = g * tl.load(scales + slot)
    # As a vector: in two dimensions Triton would bring weights and moments into the layout of the
    # product and back, which are nine passes through shared memory instead of one.
    g = tl.reshape(g, (UNITS * COLUMNS,))
    element = tl.arange(0, UNITS * COLUMNS)
    unit = first_unit + element // COLUMNS
    column = first_column + element % COLUMNS
    at = unit * width_in + column
    there = (unit < units_out) & (column < width_in)
    # Loaded late: what is held during the products would halve the tiles that run at once.
    p = tl.load(weights + start + at, mask=there, other=0.0)
    m = tl.load(firsts + start + at, mask=there, other=0.0)
    v = tl.load(seconds + start + at, mask=there, other=0.0)
    rate = rates + (tl.load(clock).to(tl.int32) * slots + slot) * 4
    p, m, v = optimizer_step(p, m, v, g, hypers + slot * 16, rate, sgd)
    tl.store(weights + start + at, p, mask=there)
    tl.store(firsts + start + at, m, mask=there)
    tl.store(seconds + start + at, v, mask=there)
