"""The tables that grouped kernels read: one record a linear map, and lists of tiles.

A record is a row of int64 numbers. Offsets count units of 16 floats, so that a kernel that
multiplies them by 16 knows that its loads are aligned. A tile is a pair of int32 numbers: the
record, and the tile's number within the record's matrix; a record of -1 is an empty tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

UNIT = 16
"""Floats that an offset counts; rows of all matrices are padded with zeros to a multiple."""

WEIGHT = 0
BIAS = 1
WIDTH_IN = 2
"""Floats of a row of the input and of the weights, in units of 16."""
UNITS_OUT = 3
"""Outputs of the map, without padding."""
WIDTH_OUT = 4
"""Floats of a row of the output, in units of 16."""
INPUT = 5
LINEAR = 6
"""Output of the map `(b, width)`; of a normalized layer the backward pass then keeps there the
errors behind the normalization."""
OUTPUT = 7
"""Output of activation and dropout."""
ERROR = 8
"""Errors of the output, then of the map's output."""
INPUT_ERROR = 9
NORMED = 10
"""The normalized values."""
RECIPROCAL = 11
"""Reciprocal standard deviations `(b,)`."""
VECTOR_GRADIENT = 12
"""Gradients of bias, scale and shift, one after another, of slots with a clip norm."""
SCALE = 13
"""-1 where the layer is not normalized."""
SHIFT = 14
ACTIVATION = 15
LAYER = 16
"""Hidden layer, from 0; -1 for the map to the logits."""
SLOT = 17
PARTIAL = 18
"""First partial sum of squares of the weights' tiles, of slots with a clip norm; else -1."""
VECTOR_PARTIAL = 19
LENGTH = 24
"""Numbers a record."""

IN_ACTIVATIONS = (INPUT, LINEAR, OUTPUT, ERROR, INPUT_ERROR, NORMED, RECIPROCAL)
IN_WEIGHTS = (WEIGHT, BIAS, SCALE, SHIFT)

ACTIVATIONS = ("relu", "gelu", "silu", "tanh")
LOSSES = ("bce", "weighted_bce", "focal", "asymmetric")
OPTIMIZERS = ("adamw", "sgd")

Records = NDArray[np.int64]
Counts = NDArray[np.int64]


def units(width: int) -> int:
    """Return how many units of 16 floats hold `width` floats."""
    return -(-width // UNIT)


@dataclass(frozen=True)
class Tiles:
    """Shapes of the tiles that one program instance of a kernel computes.

    Attributes:
        rows: rows of a minibatch in a product's tile.
        outputs: units in a product's tile.
        depth: numbers added up at once in a product.
        weight_rows: rows of a weight matrix in an update's tile.
        weight_columns: columns of a weight matrix in an update's tile.
        update_depth: rows of a minibatch added up at once in a weight gradient.
        norm_rows: rows of a minibatch in a tile of norm, activation and dropout.
        norm_columns: units read at once there.
        loss_rows: rows of a minibatch in a tile of the losses.
        loss_columns: labels read at once there.
        vector_rows: rows of a minibatch added up at once in a bias gradient.
        vector_columns: units in a tile of the bias gradients.
        gather_rows: rows of a minibatch that are copied at once.
        gather_columns: numbers of a row that are copied at once.
        warps: warps of a product; `update_warps` of an update.
        stages: depth of a product's software pipeline; `update_stages` of an update's.
        registers: most registers of a thread in a product, None without a limit;
            `update_registers` in an update.
    """

    rows: int = 64
    outputs: int = 32
    depth: int = 32
    weight_rows: int = 32
    weight_columns: int = 64
    update_depth: int = 16
    norm_rows: int = 4
    norm_columns: int = 256
    loss_rows: int = 16
    loss_columns: int = 32
    vector_rows: int = 64
    vector_columns: int = 32
    gather_rows: int = 4
    gather_columns: int = 256
    warps: int = 4
    stages: int = 4
    registers: int | None = None
    update_warps: int = 4
    update_stages: int = 4
    update_registers: int | None = 96


INTERPRETED = Tiles(
    rows=64, outputs=128, depth=128, weight_rows=128, weight_columns=128, update_depth=64,
    norm_rows=64, norm_columns=128, loss_rows=64, vector_columns=128, gather_rows=64,
)  # fmt: skip
"""For Triton's interpreter, which takes about a millisecond a tile of any size."""


def product_tiles(records: Records, rows: int, tiles: Tiles) -> Counts:
    """Return tiles of the output of every map, for minibatches of `rows`."""
    return _blocks(records[:, UNITS_OUT], tiles.outputs) * -(-rows // tiles.rows)


def input_error_tiles(records: Records, rows: int, tiles: Tiles) -> Counts:
    """Return tiles of the errors of the input of every map."""
    return _blocks(records[:, WIDTH_IN] * UNIT, tiles.outputs) * -(-rows // tiles.rows)


def weight_tiles(records: Records, tiles: Tiles) -> Counts:
    """Return tiles of the weights of every map."""
    rows = _blocks(records[:, UNITS_OUT], tiles.weight_rows)
    return rows * _blocks(records[:, WIDTH_IN] * UNIT, tiles.weight_columns)


def vector_tiles(records: Records, tiles: Tiles) -> Counts:
    """Return tiles of the bias of every map; scale and shift are computed with it."""
    return _blocks(records[:, WIDTH_OUT] * UNIT, tiles.vector_columns)


def row_tiles(records: Records, rows: int, size: int) -> Counts:
    """Return blocks of `size` rows of a minibatch, the same for every map."""
    return np.full(len(records), -(-rows // size), np.int64)


def tile_list(
    records: Records, chosen: NDArray[np.bool_], counts: Counts, cost: Counts
) -> NDArray[np.int32]:
    """Return the tiles `(n, 2)` of the chosen records, those of costly records first."""
    index = np.flatnonzero(chosen)
    index = index[np.argsort(-cost[index], kind="stable")]
    repeats = counts[index]
    ends = np.cumsum(repeats)
    tiles = np.empty((int(repeats.sum()), 2), np.int32)
    tiles[:, 0] = np.repeat(index, repeats)
    tiles[:, 1] = np.arange(len(tiles)) - np.repeat(ends - repeats, repeats)
    return tiles


def relative_records(
    widths: Sequence[int],
    *,
    normed: bool,
    activation: str,
    offsets: Sequence[tuple[int, int, int, int]],
    rows: int,
    train: bool,
) -> tuple[Records, int]:
    """Lay out the activations of one slot.

    Args:
        widths: of the input, the hidden layers and the logits.
        normed: whether hidden layers are normalized.
        activation: of the hidden layers.
        offsets: of weight, bias, scale and shift of every map in the arena, in units.
        rows: of a minibatch.
        train: whether there is a backward pass.

    Returns:
        Records whose offsets of activations count from the slot's own beginning (those of the
        first map's input are 0), and the units of activations that the slot takes.
    """
    take = _Counter()
    last = len(widths) - 2
    records = np.zeros((last + 1, LENGTH), np.int64)
    output = error = 0
    for i, (width_in, width_out) in enumerate(pairwise(widths)):
        matrix = units(width_out) * rows
        record = records[i]
        record[[WEIGHT, BIAS, SCALE, SHIFT]] = offsets[i]
        record[[WIDTH_IN, UNITS_OUT, WIDTH_OUT]] = units(width_in), width_out, units(width_out)
        record[[INPUT, INPUT_ERROR]] = output, error
        record[LINEAR] = take(matrix)
        record[LAYER] = i if i < last else -1
        record[ACTIVATION] = ACTIVATIONS.index(activation)
        if i < last:
            record[OUTPUT] = output = take(matrix)
        if train:
            record[ERROR] = error = take(matrix)
            if normed and i < last:
                record[NORMED], record[RECIPROCAL] = take(matrix), take(units(rows))
    return records, take.taken


def _blocks(sizes: Counts, block: int) -> Counts:
    return -(-sizes // block)


class _Counter:
    """Allocates units one after another."""

    def __init__(self) -> None:
        self.taken = 0

    def __call__(self, count: int) -> int:
        start = self.taken
        self.taken += count
        return start
