"""The configs that are measured, their grouped programs, and the parts of a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from workload import draw_configs

from gpu_sections.device import CUDA, now, recorded, timed, wait
from gpu_sections.run import Run
from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.engine import groups
from headsweep.engine.programs.base import GroupKey
from headsweep.engine.programs.grouped.lanes import TrainLane
from headsweep.engine.programs.grouped.program import (
    GROUPED_PROGRAMS,
    GroupedLinearProgram,
    GroupedMLPProgram,
    GroupedProgram,
)
from headsweep.engine.programs.grouped.records import Tiles
from headsweep.engine.programs.linear import LinearProgram
from headsweep.engine.programs.mlp import MLPProgram
from headsweep.engine.slots import Slot
from headsweep.engine.tape import permutation


@contextmanager
def grouped_programs(*, on: bool = True) -> Iterator[None]:
    """Let a CPU's engine use the grouped programs too: what a GPU gets, under the interpreter."""
    kept = dict(groups.PROGRAMS)
    if not CUDA:
        groups.PROGRAMS["mlp"] = GroupedMLPProgram if on else MLPProgram
        groups.PROGRAMS["linear"] = GroupedLinearProgram if on else LinearProgram
    try:
        yield
    finally:
        groups.PROGRAMS.update(kept)


def mlp(widths: Sequence[int], batch: int, **more: object) -> Config:
    """Return an MLP for timing."""
    base = Config.model_validate({"head": {"kind": "mlp"}})
    values = {"head.hidden_dims": tuple(widths), "training.batch_size": batch}
    return with_values(base, {**values, "head.dropout": 0.3, **more}, where="gpu")


def drawn_configs(run: Run, study: str, count: int) -> list[Config]:
    """Return configs as a study draws them, for one epoch."""
    narrow: list[str] = []
    if run.sizes.smallest:
        small = {"mlp_visual": ["head.width=16"], "retrieval": ["head.dim=8", "head.neighbours=5"]}
        narrow = small.get(study, [])
    return draw_configs(study, count, 1, narrow, seed=0)


def workloads(run: Run) -> dict[str, tuple[str, list[Config]]]:
    """Return what steps are timed on, by name: the program, and the configs."""
    s, found = run.sizes, {}
    for count in s.slots:
        heads = [mlp([s.hidden, s.hidden], 64)] * count
        found[f"{count} x [{s.hidden},{s.hidden}] b64"] = ("grouped_mlp", heads)
    found[f"{s.slots[0]} x [64] b64"] = ("grouped_mlp", [mlp([64], 64)] * s.slots[0])
    drawn = drawn_configs(run, "mlp_visual", s.mixed)
    for batch in (64, 256):
        same = [with_values(c, {"training.batch_size": batch}, where="gpu") for c in drawn]
        found[f"{s.mixed} as the MLP study draws, b{batch}"] = ("grouped_mlp", same)
    found[f"{s.mixed} as the MLP study draws, both batch sizes"] = ("grouped_mlp", drawn)
    linear = Config.model_validate({})
    for count in s.linear_slots:
        for batch in (64, 256):
            heads = [with_values(linear, {"training.batch_size": batch}, where="gpu")] * count
            found[f"{count} linear b{batch}"] = ("grouped_linear", heads)
    return found


@torch.no_grad()
def build(run: Run, name: str, configs: Sequence[Config], tiles: Tiles | None = None,
          precision: str = "float32") -> tuple[GroupedProgram, list[Slot]]:  # fmt: skip
    """Return a program with one slot for each config, on as many rows as the timed steps read."""
    largest = max(c.training.batch_size for c in configs)
    inputs = run.first_rows(min(run.sizes.steps * largest, run.sizes.rows))
    kind = GROUPED_PROGRAMS[name]
    if tiles is not None:
        shapes = {"tiles": tiles, "tall_tiles": tiles}
        kind = type(kind.__name__, (kind,), shapes)
    program = kind(GroupKey(name, 0, precision), inputs)  # type: ignore[arg-type]
    assert isinstance(program, GroupedProgram)
    slots = [groups.new_slot(i, c, name, inputs.n_train) for i, c in enumerate(configs)]
    for slot in slots:
        program.admit(slot)
    return program, slots


@torch.no_grad()
def epoch_seconds(program: GroupedProgram, slots: Sequence[Slot], rounds: int = 2) -> float:
    """Return the seconds of an epoch's steps, the best of some, after one that compiles."""
    order = permutation(0, 0, program.inputs.n_train)
    taken = []
    for _ in range(rounds + 1):
        wait()
        begun = now()
        program.train_epoch(order, 0)
        wait()
        taken.append(now() - begun)
        for slot in slots:
            slot.epoch += 1
    return min(taken[1:])


def launches(lane: TrainLane) -> int:
    """Return the launches of one step."""
    before = lane.launch.launches
    lane.clock[:1].zero_()
    lane.launch_step()
    return lane.launch.launches - before


def part_seconds(lane: TrainLane) -> dict[str, float]:
    """Return the seconds of the parts of a step, each recorded and replayed by itself."""
    lane.clock[:1].zero_()
    parts = {"forward": lane._forward, "backward": lane._backward, "update": lane._update}

    def update() -> None:
        lane._update()
        lane.clock[:1].zero_()

    parts["update"] = update
    return {name: timed(recorded(part), 20 if CUDA else 1) for name, part in parts.items()}


@torch.no_grad()
def prepared_lane(program: GroupedProgram) -> TrainLane:
    """Return the only lane of a program, its tables written and one step taken."""
    program._upload(permutation(0, 0, program.inputs.n_train))
    members = list(program.members.values())
    for member in members:
        program.x.add(member.variant)
    lane = program._lane(members[0].batch_size)
    lane.enter(members)
    lane.begin_epoch(1, 0, program.inputs.n_train)
    lane.launch_step()
    wait()
    return lane


@torch.no_grad()
def validate_seconds(program: GroupedProgram) -> float:
    """Return the seconds of scoring all slots once."""
    program.validate()
    program.validate()
    wait()
    begun = now()
    program.validate()
    wait()
    return now() - begun
