"""MLP and linear heads of any shape in one recorded step for each batch size.

A step reads rows, rates, noise and records from tables on the device, so that one recording serves
all memberships; a change of membership rewrites the tables. Every tile's sums run in an order that
its own slot's shape determines, so a slot's bits do not depend on its neighbours at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headsweep.engine.inputs import Inputs
from headsweep.engine.numerics.dropout_noise import seed_key
from headsweep.engine.programs.base import GroupKey, Program, by_batch_size
from headsweep.engine.programs.grouped.arena import InputArena, WeightArena
from headsweep.engine.programs.grouped.lanes import ScoreLane, TrainLane
from headsweep.engine.programs.grouped.loss_inputs import LossInputs
from headsweep.engine.programs.grouped.members import Member, new_member
from headsweep.engine.programs.grouped.records import INTERPRETED, UNIT, Tiles, units
from headsweep.engine.slots import Slot
from headsweep.engine.tape import batch_bounds
from headsweep.heads.base import Head
from headsweep.heads.registry import build_head

ROWS_A_PASS = 512
"""Validation rows scored at once, which bounds the memory of their activations."""

TALL = 128
"""Rows of a minibatch beyond which larger tiles are faster."""

SMALLEST_TILE = 16
"""Least rows and columns of a product's tile."""


class GroupedProgram(Program):
    """Slots of any input variant, batch size, shape, loss and optimizer.

    Attributes:
        tiles: shapes of tiles on a GPU.
        tall_tiles: the same for minibatches of more than `TALL` rows.
        interpreted: shapes of tiles under Triton's interpreter.
    """

    tiles = Tiles(norm_rows=2, norm_columns=512)
    tall_tiles = Tiles(update_depth=32, update_warps=2, update_stages=3, update_registers=None)
    interpreted = INTERPRETED

    def __init__(self, key: GroupKey, inputs: Inputs) -> None:
        super().__init__(key, inputs)
        device = inputs.device
        self.members: dict[int, Member] = {}
        self.arena = WeightArena(device)
        self.x = InputArena(lambda variant: inputs.matrix(variant, valid=False), device)
        self.x_valid = InputArena(lambda variant: inputs.matrix(variant, valid=True), device)
        self.order = torch.zeros(inputs.n_train, dtype=torch.int64, device=device)
        self.loss_inputs = LossInputs.of(inputs)
        self.lanes: dict[int, TrainLane] = {}
        n_valid = len(inputs.valid_targets)
        rows = min(ROWS_A_PASS, units(n_valid) * UNIT)
        self.score_lane = ScoreLane(
            rows, self.arena, self.x_valid, torch.arange(n_valid, device=device), "float32",
            self.tiles_for(rows),
        )  # fmt: skip
        self._stale: set[int] = set()
        """Batch sizes whose slots have changed."""
        self._scores_stale = False

    def tiles_for(self, rows: int) -> Tiles:
        """Return the shapes of tiles for minibatches of `rows`."""
        if self.inputs.device.type != "cuda":
            return fitted(self.interpreted, rows)
        return fitted(self.tall_tiles if rows > TALL else self.tiles, rows)

    def admit(self, slot: Slot) -> None:
        """Give the slot memory; it enters the tables before the next step."""
        member = new_member(slot, self.inputs.shape(slot.config), slot.batch_size, self.arena)
        self.members[slot.number] = member
        self._changed(member)

    def evict(self, slot: Slot) -> None:
        """Free the slot's memory."""
        member = self.members.pop(slot.number)
        self.arena.release(member.offset, member.size)
        self._changed(member)

    def train_epoch(self, order: Tensor, position: int) -> None:
        """Write tables, rates and clocks, then start all steps without waiting for the device."""
        self._upload(order)
        self.loss_inputs.order = order
        for member in self.members.values():
            self.x.add(member.variant)
        used: list[tuple[TrainLane, int]] = []
        for rows, slots in by_batch_size([m.slot for m in self.members.values()]).items():
            lane = self._lane(rows)
            if rows in self._stale or not lane.members:
                lane.enter([self.members[slot.number] for slot in slots])
                self._stale.discard(rows)
            first = position * lane.steps
            last = batch_bounds(self.inputs.n_train, rows)[-1][1]
            left = lane.begin_epoch(seed_key(self.key.seed), first, last)
            used.append((lane, left))
        for rows in self._stale:
            self.lanes.pop(rows, None)  # nobody is left there
        self._stale.clear()
        self._take_steps(used)

    def validate(self) -> tuple[list[Slot], Tensor]:
        """Return logits of all slots, computed some rows at a time."""
        members = list(self.members.values())
        if self._scores_stale:
            for member in members:
                self.x_valid.add(member.variant)
            self.score_lane.enter(members)
            self._scores_stale = False
        n_valid, n_labels = self.inputs.valid_targets.shape
        with _Streams([self.score_lane]) as streams:
            streams.enter(self.score_lane)
            scores = self.score_lane.scores(n_valid, n_labels)
        return [member.slot for member in members], scores

    def keep_best(self, slot: Slot) -> None:
        """Copy the slot's weights."""
        member, arena = self.members[slot.number], self.arena
        best, now = (arena.part(a, member.offset, member.size) for a in (arena.best, arena.weights))
        best.copy_(now)

    def state(self, slot: Slot) -> dict[str, Tensor]:
        """Return views of the slot's weights, best weights and moments."""
        member, arena = self.members[slot.number], self.arena
        names = self.state_names(member)
        weights, best, firsts, seconds = (
            member.views(a) for a in (arena.weights, arena.best, arena.firsts, arena.seconds)
        )
        state = dict(zip(names, weights, strict=True))
        state |= {f"best.{name}": tensor for name, tensor in zip(names, best, strict=True)}
        if slot.config.training.optimizer == "sgd":
            return state | {f"momentum.{i}": moment for i, moment in enumerate(firsts)}
        state |= {f"exp_avg.{i}": moment for i, moment in enumerate(firsts)}
        return state | {f"exp_avg_sq.{i}": moment for i, moment in enumerate(seconds)}

    def best_head(self, slot: Slot) -> Head:
        """Return a plain module with the best weights."""
        member, config = self.members[slot.number], slot.config
        head = build_head(config.head, self.inputs.shape(config), seed=config.training.seed)
        best = zip(member.names, member.views(self.arena.best), strict=True)
        head.load_state_dict({name: tensor.cpu() for name, tensor in best})
        return head

    def state_names(self, member: Member) -> Sequence[str]:
        """Return the names of a slot's weights in `state`, as in the program of a CPU."""
        return member.names

    def _changed(self, member: Member) -> None:
        self._stale.add(member.batch_size)
        self._scores_stale = True

    def _upload(self, order: Tensor) -> None:
        if self.inputs.device.type == "cuda":
            order = order.pin_memory()
        self.order.copy_(order, non_blocking=True)

    def _lane(self, rows: int) -> TrainLane:
        """Return the lane of a batch size."""
        if rows not in self.lanes:
            steps = len(batch_bounds(self.inputs.n_train, rows))
            self.lanes[rows] = TrainLane(
                rows, steps, self.loss_inputs, self.arena, self.x, self.order,
                self.key.precision, self.tiles_for(rows),
            )  # fmt: skip
        return self.lanes[rows]

    def _take_steps(self, used: Sequence[tuple[TrainLane, int]]) -> None:
        """Take the steps of all lanes, in turn, so that all end at about the same time."""
        turns = sorted(
            ((step + 1) / left, number)
            for number, (_, left) in enumerate(used)
            for step in range(left)
        )
        taken = [0] * len(used)
        try:
            with _Streams([lane for lane, _ in used]) as streams:
                for _, number in turns:
                    lane = used[number][0]
                    streams.enter(lane)
                    lane.step()
                    taken[number] += 1
        finally:
            for (lane, _), steps in zip(used, taken, strict=True):
                for member in lane.members:
                    member.slot.step += steps


class GroupedMLPProgram(GroupedProgram):
    """MLP heads."""


class GroupedLinearProgram(GroupedProgram):
    """Linear heads."""

    def state_names(self, member: Member) -> Sequence[str]:
        """Return the names that `LinearProgram` uses."""
        return [name.removeprefix("output.") for name in member.names]


GROUPED_PROGRAMS: dict[str, type[Program]] = {
    "grouped_linear": GroupedLinearProgram,
    "grouped_mlp": GroupedMLPProgram,
}


def fitted(tiles: Tiles, rows: int) -> Tiles:
    """Return tiles that are no taller than minibatches of `rows` need."""
    height = max(SMALLEST_TILE, 1 << (rows - 1).bit_length())
    changes = {"rows": min(tiles.rows, height), "update_depth": min(tiles.update_depth, height)}
    return Tiles(**{**vars(tiles), **changes})


class _Streams:
    """Runs lanes on their own streams, between earlier and later work of the current stream."""

    def __init__(self, lanes: Sequence[TrainLane | ScoreLane]) -> None:
        self.lanes = [lane for lane in lanes if lane.graphed.stream is not None]
        self.current: torch.cuda.Stream | None = None

    def __enter__(self) -> _Streams:
        if self.lanes:
            self.present = torch.cuda.current_stream()
            for lane in self.lanes:
                assert lane.graphed.stream is not None
                lane.graphed.stream.wait_stream(self.present)
        return self

    def enter(self, lane: TrainLane | ScoreLane) -> None:
        """Make a lane's stream the current one."""
        if lane.graphed.stream is not None and lane.graphed.stream is not self.current:
            torch.cuda.set_stream(lane.graphed.stream)
            self.current = lane.graphed.stream

    def __exit__(self, *error: object) -> None:
        if self.lanes:
            torch.cuda.set_stream(self.present)
            for lane in self.lanes:
                assert lane.graphed.stream is not None
                self.present.wait_stream(lane.graphed.stream)
