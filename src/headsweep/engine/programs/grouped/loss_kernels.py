# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
"""Kernel of the losses: their derivative with respect to the logits."""

import triton
import triton.language as tl

from headsweep.engine.programs.grouped.elementary_functions import log1p, power, sigmoids
from headsweep.engine.programs.grouped.record_fields import (
    ERROR,
    LENGTH,
    LINEAR,
    SLOT,
    UNITS_OUT,
    WIDTH_OUT,
)


@triton.jit
def _loss_slope(z, y, pos_weight, hyper, kind):
    """Return the derivative of a loss with respect to logits (see `numerics.losses`)."""
    p, q, log_p = sigmoids(z)
    if kind == 0:
        slope = p - y
    elif kind == 1:
        slope = p * (1.0 - y) - pos_weight * y * q
    elif kind == 2:
        gamma = tl.load(hyper + 9)
        alpha = tl.load(hyper + 10)
        positive = power(q, gamma) * (gamma * p * log_p - q)
        negative = power(p, gamma) * (p - gamma * q * (log_p - z))
        slope = y * alpha * positive + (1.0 - y) * (1.0 - alpha) * negative
    else:
        gamma_neg = tl.load(hyper + 11)
        gamma_pos = tl.load(hyper + 12)
        shifted = tl.maximum(p - tl.load(hyper + 13), 1e-8)
        bounded = tl.minimum(shifted, 0.9999999)
        positive = power(q, gamma_pos) * (gamma_pos * p * log_p - q)
        negative = power(shifted, gamma_neg) / (1.0 - bounded)
        negative -= gamma_neg * power(shifted, gamma_neg - 1.0) * log1p(-bounded)
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
        offset = row[:, None] * width + at[None, :]
        mask = read[:, None] & (at < n_labels)[None, :]
        z = tl.load(logits + offset, mask=mask, other=0.0)
        y = tl.load(targets + example[:, None] * n_labels + at[None, :], mask=mask, other=0.0)
        y = y * (1.0 - smoothing) + 0.5 * smoothing
        pos_weight = tl.load(pos_weights + at, mask=at < n_labels, other=1.0)
        pos_weight = tl.minimum(pos_weight, tl.load(hyper + 14))
        slope = _loss_slope(z, y, pos_weight[None, :], hyper, kind)
        if MASKED:
            of_label = labelled + example[:, None] * n_labels + at[None, :]
            slope = slope * tl.load(of_label, mask=mask, other=0.0)
        error = tl.where(mask, slope * weight, 0.0)
        tl.store(errors + offset, error, mask=(row < rows)[:, None] & (at < width)[None, :])
