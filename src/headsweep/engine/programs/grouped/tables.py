"""Tables on the device that describe a membership: records, tiles, hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headsweep.engine.inputs import Variant
from headsweep.engine.programs.grouped import records as r
from headsweep.engine.programs.grouped.members import Member

Region = tuple[str, int]
"""A kernel and its hidden layer; 0 where it has none."""

EMPTY = -1
SLACK = 1.25
"""Capacity of a table over its need, so that few changes of membership need a new recording."""
WASTE = 8
"""A table that is this many times larger than needed is reallocated."""


@dataclass(frozen=True)
class Membership:
    """Tables on the host.

    Attributes:
        maps: records `(n, LENGTH)`.
        tiles: of every region.
        variants: offset of the rows in the input arena, width of a row, and offset of the
            minibatch, `(v, 4)`, in units.
        hypers: `(K, 16)`.
        kinds: `(K, 4)`.
        sums: first partial sum of squares and their number, `(K, 2)`.
        activations: units of activations.
        gradients: units of kept vector gradients.
    """

    maps: r.Records
    tiles: Mapping[Region, NDArray[np.int32]]
    variants: NDArray[np.int64]
    hypers: NDArray[np.float32]
    kinds: NDArray[np.int32]
    sums: NDArray[np.int64]
    activations: int
    gradients: int

    @property
    def depth(self) -> int:
        """Most hidden layers of a slot."""
        return int(self.maps[:, r.LAYER].max(initial=-1)) + 1


def membership(
    members: Sequence[Member],
    inputs: Mapping[Variant, tuple[int, int]],
    rows: int,
    tiles: r.Tiles,
    *,
    train: bool,
) -> Membership:
    """Lay out all slots that are computed together.

    Args:
        members: the slots, in the order of their numbers in the tables.
        inputs: offset and width of the rows of every variant in the input arena, in units.
        rows: of a minibatch.
        tiles: shapes of tiles.
        train: whether there is a backward pass.

    Returns:
        The tables of all slots.
    """
    variants, x_start, top = _variant_table(members, inputs, rows)
    parts, partials, gradients = [], 0, 0
    sums = np.zeros((len(members), 2), np.int64)
    for slot, member in enumerate(members):
        part, size = member.records(rows, train=train)
        part = part.copy()
        part[:, r.IN_ACTIVATIONS] += top
        part[0, [r.INPUT, r.INPUT_ERROR]] = x_start[member.variant], 0
        part[:, r.SLOT] = slot
        top += size
        if train and member.slot.config.training.clip_norm is not None:
            gradients = _add_vector_gradients(part, gradients)
            sums[slot] = partials, _add_partials(part, partials, tiles)
            partials += int(sums[slot, 1])
        parts.append(part)
    maps = np.concatenate(parts)
    return Membership(
        maps=maps,
        tiles=_train_tiles(maps, sums[:, 1] > 0, rows, tiles)
        if train
        else _score_tiles(maps, rows, tiles),
        variants=variants,
        hypers=np.stack([member.hypers for member in members]),
        kinds=np.stack([member.kinds for member in members]),
        sums=sums,
        activations=top,
        gradients=gradients,
    )


def _variant_table(
    members: Sequence[Member], inputs: Mapping[Variant, tuple[int, int]], rows: int
) -> tuple[NDArray[np.int64], dict[Variant, int], int]:
    table, start, top = [], {}, 0
    for variant in dict.fromkeys(member.variant for member in members):
        offset, width = inputs[variant]
        table.append((offset, width, top, 0))
        start[variant] = top
        top += width * rows
    return np.array(table, np.int64), start, top


def _add_vector_gradients(part: r.Records, start: int) -> int:
    """Reserve memory for the gradients of three vectors a map.

    Returns:
        Its end.
    """
    ends = start + np.cumsum(3 * part[:, r.WIDTH_OUT])
    part[:, r.VECTOR_GRADIENT] = ends - 3 * part[:, r.WIDTH_OUT]
    return int(ends[-1])


def _add_partials(part: r.Records, start: int, tiles: r.Tiles) -> int:
    """Assign numbers to the partial sums of a slot's gradients.

    Returns:
        How many there are.
    """
    weights, vectors = r.weight_tiles(part, tiles), r.vector_tiles(part, tiles)
    ends = start + np.cumsum(weights + vectors)
    part[:, r.PARTIAL] = ends - weights - vectors
    part[:, r.VECTOR_PARTIAL] = ends - vectors
    return int(ends[-1]) - start


def _forward_tiles(maps: r.Records, rows: int, tiles: r.Tiles) -> dict[Region, NDArray[np.int32]]:
    layer, width_in = maps[:, r.LAYER], maps[:, r.WIDTH_IN]
    products = r.product_tiles(maps, rows, tiles)
    blocks = r.row_tiles(maps, rows, tiles.norm_rows)
    regions: dict[Region, NDArray[np.int32]] = {
        ("output", 0): r.tile_list(maps, layer < 0, products, width_in)
    }
    for depth in range(int(layer.max(initial=-1)) + 1):
        here = layer == depth
        regions["product", depth] = r.tile_list(maps, here, products, width_in)
        regions["activation", depth] = r.tile_list(maps, here, blocks, maps[:, r.WIDTH_OUT])
    return regions


def _score_tiles(maps: r.Records, rows: int, tiles: r.Tiles) -> dict[Region, NDArray[np.int32]]:
    blocks = r.row_tiles(maps, rows, tiles.loss_rows)
    score = r.tile_list(maps, maps[:, r.LAYER] < 0, blocks, maps[:, r.WIDTH_OUT])
    return {**_forward_tiles(maps, rows, tiles), ("score", 0): score}


def _train_tiles(
    maps: r.Records, clips: NDArray[np.bool_], rows: int, tiles: r.Tiles
) -> dict[Region, NDArray[np.int32]]:
    layer, cost = maps[:, r.LAYER], maps[:, r.UNITS_OUT]
    clipped = clips[maps[:, r.SLOT]]
    everywhere = np.ones(len(maps), bool)
    vectors, weights = r.vector_tiles(maps, tiles), r.weight_tiles(maps, tiles)
    errors = r.input_error_tiles(maps, rows, tiles)
    blocks = r.row_tiles(maps, rows, tiles.loss_rows)
    first = np.diff(maps[:, r.SLOT], prepend=-1) > 0
    regions = {
        **_forward_tiles(maps, rows, tiles),
        ("loss", 0): r.tile_list(maps, layer < 0, blocks, cost),
        ("output_error", 0): r.tile_list(maps, (layer < 0) & ~first, errors, cost),
        ("vector", 0): r.tile_list(maps, everywhere, vectors, cost),
        ("norm", 0): r.tile_list(maps, clipped, weights, cost),
        ("update", 0): r.tile_list(maps, everywhere, weights, cost),
        ("clipped_vector", 0): r.tile_list(maps, clipped, vectors, cost),
    }
    for depth in range(1, int(layer.max(initial=-1)) + 1):
        regions["input_error", depth] = r.tile_list(maps, layer == depth, errors, cost)
    return regions


class DeviceTables:
    """The tables of a membership on the device, with room to grow.

    `load` says whether memory has moved, so that what was recorded must be recorded anew.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.step = 16 if device.type == "cuda" else 2  # an interpreted empty tile takes time
        self.depth = 0
        self.clips = False
        """Whether a slot clips, or once did; the recorded step then has the kernels for it."""
        self.tiles: dict[Region, Tensor] = {}
        empty = torch.zeros(0, device=device)
        self.maps = self.variants = self.sums = empty.long()
        self.hypers = self.activations = self.gradients = self.partials = self.scales = empty
        self.kinds = empty.int()
        self._all_tiles = empty.int()

    def load(self, new: Membership) -> bool:
        """Copy a membership to the device.

        Returns:
            Whether the recorded graphs are outdated.
        """
        clips = self.clips or bool(new.sums[:, 1].any())
        moved = self._fit_tiles(new) | self._fit(new) | (clips != self.clips)
        self.clips = clips
        self._upload(new)
        return moved

    def upload(self, target: Tensor, values: NDArray[np.generic]) -> None:
        """Copy values to the beginning of a tensor, without waiting for the device."""
        source = torch.from_numpy(values)
        if self.device.type == "cuda":
            source = source.pin_memory()
        target[: len(source)].copy_(source, non_blocking=True)

    def _upload(self, new: Membership) -> None:
        host = np.full((len(self._all_tiles), 2), EMPTY, np.int32)
        start = 0
        for region, tiles in self.tiles.items():
            if region in new.tiles:
                host[start : start + len(new.tiles[region])] = new.tiles[region]
            start += len(tiles)
        self.upload(self._all_tiles, host)
        self.upload(self.maps, new.maps)
        variants = np.full((len(self.variants), 4), EMPTY, np.int64)
        variants[: len(new.variants)] = new.variants
        self.upload(self.variants, variants)
        sums = np.zeros((len(self.sums), 2), np.int64)
        sums[: len(new.sums)] = new.sums
        self.upload(self.sums, sums)
        self.upload(self.hypers, new.hypers)
        self.upload(self.kinds, new.kinds)

    def _fit_tiles(self, new: Membership) -> bool:
        """Return buffers for all tiles."""
        need = {region: len(tiles) for region, tiles in new.tiles.items()}
        room = {region: len(tiles) for region, tiles in self.tiles.items()}
        enough = all(room.get(region, 0) >= count for region, count in need.items())
        wasted = sum(room.values()) > WASTE * (sum(need.values()) + 1024)
        if enough and not wasted:
            return False
        self.depth = new.depth if wasted else max(self.depth, new.depth)
        sizes = {region: _roomy(count, self.step) for region, count in need.items()}
        if not wasted:
            sizes = {
                region: max(room.get(region, 0), sizes.get(region, 0)) for region in room | sizes
            }
        self._all_tiles = torch.zeros(sum(sizes.values()), 2, dtype=torch.int32, device=self.device)
        parts = torch.split(self._all_tiles, list(sizes.values()))
        self.tiles = dict(zip(sizes, parts, strict=True))
        return True

    def _fit(self, new: Membership) -> bool:
        """Return buffers for everything except tiles."""
        slots, partials = len(new.hypers), int(new.sums.sum(axis=1).max(initial=0))
        grown = [
            self._grow("maps", len(new.maps), r.LENGTH, torch.int64),
            self._grow("variants", len(new.variants), 4, torch.int64),
            self._grow("sums", slots, 2, torch.int64),
            self._grow("hypers", slots, 16, torch.float32),
            self._grow("kinds", slots, 4, torch.int32),
            self._grow("scales", slots, 1, torch.float32),
            self._grow("partials", partials, 1, torch.float32),
            self._grow("activations", new.activations, r.UNIT, torch.float32),
            self._grow("gradients", new.gradients, r.UNIT, torch.float32),
        ]
        return any(grown)

    def _grow(self, name: str, rows: int, columns: int, dtype: torch.dtype) -> bool:
        if rows <= len(getattr(self, name)):
            return False
        setattr(self, name, torch.zeros(0, device=self.device))  # gives the old memory back
        room = rows + 2 if name == "variants" else _roomy(rows, self.step)
        setattr(self, name, torch.zeros(room, columns, dtype=dtype, device=self.device))
        return True


def _roomy(count: int, step: int) -> int:
    """Return a capacity above `count`, a multiple of `step`."""
    return -(-int(count * SLACK) // step) * step + step
