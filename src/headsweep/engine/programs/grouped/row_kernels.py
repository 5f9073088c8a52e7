# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
"""Kernels that read the rows of a minibatch, store the logits of a pass, and count minibatches."""

import triton
import triton.language as tl

from headsweep.engine.programs.grouped.record_fields import (
    LENGTH,
    LINEAR,
    SLOT,
    UNITS_OUT,
    WIDTH_OUT,
)


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
        address = inputs + source * 16 + example[:, None] * width + at[None, :]
        x = tl.load(address, mask=mask, other=0.0)
        tl.store(target + row[:, None] * width + at[None, :], x, mask=mask)


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
        mask = read[:, None] & (at < n_labels)[None, :]
        z = tl.load(logits + row[:, None] * width + at[None, :], mask=mask, other=0.0)
        tl.store(target + at[None, :] * n_rows + example[:, None], z, mask=mask)


@triton.jit
def tick_kernel(clock):
    """Count a minibatch."""
    tl.store(clock, tl.load(clock) + 1)
