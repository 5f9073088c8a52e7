"""Steps of grouped kernels: lanes train the slots of one batch size each, one lane scores all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headsweep.config.training_section import Precision
from headsweep.engine.programs.grouped import product_kernels as products
from headsweep.engine.programs.grouped.activation_kernels import (
    activation_error_kernel,
    activation_kernel,
)
from headsweep.engine.programs.grouped.arena import InputArena, WeightArena
from headsweep.engine.programs.grouped.loss_inputs import LossInputs
from headsweep.engine.programs.grouped.loss_kernels import loss_kernel
from headsweep.engine.programs.grouped.members import Member
from headsweep.engine.programs.grouped.rates import step_rates
from headsweep.engine.programs.grouped.recording import GraphedStep, Launcher
from headsweep.engine.programs.grouped.records import Tiles
from headsweep.engine.programs.grouped.row_kernels import gather_kernel, scores_kernel, tick_kernel
from headsweep.engine.programs.grouped.tables import DeviceTables, Region, membership
from headsweep.engine.programs.grouped.vector_kernels import (
    clip_kernel,
    clipped_vector_kernel,
    vector_kernel,
)

CLIP_BLOCK = 1024
TRITON_PRECISION: dict[Precision, str] = {"float32": "tf32x3", "tf32": "tf32", "bf16": "bf16"}


class _Lane:
    """Slots whose minibatches have the same number of rows, and the tables that name them."""

    train: bool

    def __init__(
        self,
        rows: int,
        weights: WeightArena,
        inputs: InputArena,
        order: Tensor,
        precision: Precision,
        tiles: Tiles,
    ) -> None:
        device = weights.device
        self.rows, self.arena, self.inputs, self.order = rows, weights, inputs, order
        self.tile_shapes = tiles
        self.members: list[Member] = []
        self.tables = DeviceTables(device)
        self.launch = Launcher()
        self.graphed = GraphedStep(device)
        self.clock = torch.zeros(4, dtype=torch.int64, device=device)
        """Minibatches taken, key of the seed, number of the first, rows that are read."""
        self._seen: tuple[Any, ...] = ()
        precise: dict[str, Any] = {
            "PRECISION": TRITON_PRECISION[precision],
            "EMULATED": device.type == "cpu",
        }
        self._products = (
            precise
            | {
                "ROWS": tiles.rows,
                "OUTPUTS": tiles.outputs,
                "DEPTH": tiles.depth,
                "num_warps": tiles.warps,
                "num_stages": tiles.stages,
            }
            | _register_limit(tiles.registers)
        )
        self._updates = (
            precise
            | {
                "UNITS": tiles.weight_rows,
                "COLUMNS": tiles.weight_columns,
                "DEPTH": tiles.update_depth,
                "num_warps": tiles.update_warps,
                "num_stages": tiles.update_stages,
            }
            | _register_limit(tiles.update_registers)
        )

    def enter(self, members: Sequence[Member]) -> None:
        """Write the tables for these slots."""
        self.members = list(members)
        new = membership(
            members, self.inputs.offsets, self.rows, self.tile_shapes, train=self.train
        )
        kernels = self.tables.depth > 0, self.tables.clips
        if self.tables.load(new):
            new_kernels = kernels != (self.tables.depth > 0, self.tables.clips)
            self.graphed.forget(new_kernels=new_kernels)

    def set_clock(self, *values: int) -> None:
        """Write the clock; discard the recorded step if the arenas were reallocated."""
        self.tables.upload(self.clock, np.array(values, np.int64))
        arena = self.arena
        seen = (arena.weights, arena.firsts, arena.seconds, self.inputs.data)
        addresses = tuple(tensor.data_ptr() for tensor in seen)
        if addresses != self._seen:
            self.graphed.forget()
            self._seen = addresses

    def step(self) -> None:
        """Take one step, as a recorded graph if possible."""
        self.graphed(self.launch_step)

    def launch_step(self) -> None:
        """Start all kernels of a step."""
        raise NotImplementedError

    def _forward(self) -> None:
        """Start the kernels of the forward pass, from rows to logits."""
        t, tables = self.tile_shapes, self.tables
        self.launch(
            gather_kernel, (-(-self.rows // t.gather_rows), len(tables.variants)),
            tables.variants, self.inputs.data, tables.activations, self.order, self.clock,
            self.rows, ROWS=t.gather_rows, COLUMNS=t.gather_columns,
        )  # fmt: skip
        for depth in range(tables.depth):
            self._product(("product", depth), products.product_kernel)
            self._tiled(
                activation_kernel, ("activation", depth), self.arena.weights,
                tables.activations, tables.hypers, self.clock, self.rows,
                TRAIN=self.train, ROWS=t.norm_rows, COLUMNS=t.norm_columns,
            )  # fmt: skip
        self._product(("output", 0), products.product_kernel)

    def _product(self, region: Region, kernel: Any) -> None:
        row_tiles = -(-self.rows // self.tile_shapes.rows)
        self._tiled(
            kernel, region, self.arena.weights, self.tables.activations, self.rows, row_tiles,
            **self._products,
        )  # fmt: skip

    def _tiled(self, kernel: Any, region: Region, *args: Any, **meta: Any) -> None:
        tiles = self.tables.tiles[region]
        self.launch(kernel, len(tiles), tiles, self.tables.maps, *args, **meta)


def _register_limit(registers: int | None) -> dict[str, Any]:
    return {} if registers is None else {"maxnreg": registers}


class TrainLane(_Lane):
    """Train steps of all slots of one batch size."""

    train = True

    def __init__(
        self,
        rows: int,
        steps: int,
        inputs_of_loss: LossInputs,
        weights: WeightArena,
        inputs: InputArena,
        order: Tensor,
        precision: Precision,
        tiles: Tiles,
    ) -> None:
        super().__init__(rows, weights, inputs, order, precision, tiles)
        self.steps = steps
        self.loss = inputs_of_loss
        self.entries = torch.ones(steps, device=weights.device)
        """Labelled entries of every minibatch of an epoch; read where labels are blank."""
        self.rates = torch.zeros(0, device=weights.device)

    @property
    def taken(self) -> int:
        """Number of minibatches of the present epoch that all slots of the lane have taken."""
        (taken,) = {m.slot.step - m.slot.epoch * self.steps for m in self.members}
        return taken

    def begin_epoch(self, seed_key: int, first_step: int, rows_read: int) -> int:
        """Write the rates and clock of an epoch.

        Returns:
            How many of its steps are left.
        """
        taken = self.taken
        slots = len(self.tables.hypers)
        if self.rates.shape[:2] != (self.steps, slots):
            self.rates = torch.zeros(self.steps, slots, 4, device=self.arena.device)
            self.graphed.forget()
        left = self.steps - taken
        rates = np.zeros((self.steps, slots, 4), np.float32)
        rates[taken:, : len(self.members)] = step_rates([m.slot for m in self.members], left)
        self.tables.upload(self.rates, rates)
        if self.loss.labelled_in_row is not None:
            self.tables.upload(self.entries, self._labelled_entries(rows_read))
        self.set_clock(taken, seed_key, first_step, rows_read)
        return left

    def _labelled_entries(self, rows_read: int) -> NDArray[np.float32]:
        """Return the labelled entries of every minibatch, at least 1."""
        counts = self.loss.labelled_in_order()[:rows_read]
        starts = range(0, rows_read, self.rows)
        entries = [max(1, int(counts[start : start + self.rows].sum())) for start in starts]
        return np.array(entries, np.float32)

    def launch_step(self) -> None:
        """Start the kernels of a training step: forward, losses, backward, update."""
        self._forward()
        self._backward()
        self._update()

    def _backward(self) -> None:
        t, tables = self.tile_shapes, self.tables
        self._tiled(
            loss_kernel, ("loss", 0), tables.activations, tables.hypers, tables.kinds,
            self.loss.targets, self.loss.labelled, self.entries, self.loss.pos_weight, self.order,
            self.clock, self.rows, MASKED=self.loss.labelled_in_row is not None,
            ROWS=t.loss_rows, COLUMNS=t.loss_columns,
        )  # fmt: skip
        if tables.depth:
            self._product(("output_error", 0), products.input_error_kernel)
        for depth in reversed(range(tables.depth)):
            self._tiled(
                activation_error_kernel, ("activation", depth), self.arena.weights,
                tables.activations, tables.hypers, self.clock, self.rows,
                ROWS=t.norm_rows, COLUMNS=t.norm_columns,
            )  # fmt: skip
            if depth:
                self._product(("input_error", depth), products.input_error_kernel)

    def _update(self) -> None:
        t, tables, arena = self.tile_shapes, self.tables, self.arena
        moments = arena.weights, arena.firsts, arena.seconds
        slots = len(tables.hypers)
        self._tiled(
            vector_kernel, ("vector", 0), *moments, tables.activations,
            tables.gradients, tables.partials, tables.hypers, tables.kinds, self.rates,
            self.clock, self.rows, slots, ROWS=t.vector_rows, COLUMNS=t.vector_columns,
        )  # fmt: skip
        if self.tables.clips:
            self._clip()
        self._tiled(
            products.update_kernel, ("update", 0), *moments, tables.activations, tables.hypers,
            tables.kinds, self.rates, tables.scales, self.clock, self.rows, slots,
            **self._updates,
        )  # fmt: skip
        if self.tables.clips:
            self._tiled(
                clipped_vector_kernel, ("clipped_vector", 0), *moments,
                tables.gradients, tables.hypers, tables.kinds, self.rates, tables.scales,
                self.clock, slots, COLUMNS=t.vector_columns,
            )  # fmt: skip
        self.launch(tick_kernel, 1, self.clock)

    def _clip(self) -> None:
        """Compute the factors of the gradients of slots with a clip norm."""
        tables = self.tables
        self._tiled(
            products.gradient_norm_kernel, ("norm", 0), tables.activations, tables.partials,
            self.rows, **self._updates,
        )  # fmt: skip
        self.launch(
            clip_kernel, len(tables.hypers), tables.sums, tables.partials,
            tables.hypers, tables.scales, BLOCK=CLIP_BLOCK,
        )  # fmt: skip


class ScoreLane(_Lane):
    """Passes of all slots over the validation split."""

    train = False

    def __init__(
        self,
        rows: int,
        weights: WeightArena,
        inputs: InputArena,
        order: Tensor,
        precision: Precision,
        tiles: Tiles,
    ) -> None:
        super().__init__(rows, weights, inputs, order, precision, tiles)
        self._scores: Tensor = torch.zeros(0, device=weights.device)

    def scores(self, n_rows: int, n_labels: int) -> Tensor:
        """Return logits `(K, c, n)` of all slots."""
        slots = len(self.tables.hypers)
        if self._scores.shape != (slots, n_labels, n_rows):
            self._scores = torch.zeros(slots, n_labels, n_rows, device=self.arena.device)
            self.graphed.forget()
        self.set_clock(0, 0, 0, n_rows)
        for _ in range(-(-n_rows // self.rows)):
            self.step()
        return self._scores[: len(self.members)]

    def launch_step(self) -> None:
        """Start the kernels of a pass that stores logits."""
        t, tables = self.tile_shapes, self.tables
        self._forward()
        self._tiled(
            scores_kernel, ("score", 0), tables.activations, self._scores, self.clock,
            self.rows, self._scores.shape[2], ROWS=t.loss_rows, COLUMNS=t.loss_columns,
        )  # fmt: skip
        self.launch(tick_kernel, 1, self.clock)
