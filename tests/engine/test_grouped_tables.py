"""Parts of the grouped programs: memory arenas, initial weights, learning rates, tiles."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.engine.inputs import Variant
from headsweep.engine.numerics.schedule import learning_rate
from headsweep.engine.programs.grouped import records as r
from headsweep.engine.programs.grouped.arena import InputArena, WeightArena
from headsweep.engine.programs.grouped.members import InitialWeights, new_member, parameter_shapes
from headsweep.engine.programs.grouped.rates import step_rates
from headsweep.engine.slots import Slot
from headsweep.heads.base import HeadShape
from headsweep.heads.registry import build_head
from tests.helpers.splits import config

CPU = torch.device("cpu")
SHAPE = HeadShape({"visual": 20}, "visual", 3)
HEADS = [
    config(),
    config("head=mlp", "head.hidden_dims=[7,33]", "head.norm=layer", "head.dropout=0.2"),
    config("head=mlp", "head.hidden_dims=[16]", "head.activation=tanh"),
    config("head=mlp", "head.hidden_dims=[5,5,5]", "head.dropout=0.5"),
]


@given(st.lists(st.integers(1, 9) | st.just(0), max_size=40))
def test_arena_parts_never_overlap_and_join_when_released(sizes: list[int]) -> None:
    """A size of 0 means that the oldest part is released."""
    arena = WeightArena(CPU)
    held: list[tuple[int, int]] = []
    for size in sizes:
        if size:
            held.append((arena.allocate(size), size))
        elif held:
            arena.release(*held.pop(0))
        ends = sorted((start, start + length) for start, length in held)
        assert all(a[1] <= b[0] for a, b in pairwise(ends))
        assert all(end <= arena.capacity for _, end in ends)
        taken = sum(length for _, length in held)
        assert sum(length for _, length in arena._free) == arena.capacity - taken
    for part in held:
        arena.release(*part)
    assert arena._free == ([(0, arena.capacity)] if arena.capacity else [])


def test_weight_arena_when_it_grows_keeps_what_it_holds() -> None:
    arena = WeightArena(CPU)
    start = arena.allocate(2)
    arena.part(arena.weights, start, 2).fill_(7.0)
    arena.allocate(50)
    assert bool((arena.part(arena.weights, start, 2) == 7.0).all())


def test_input_arena_when_variants_repeat_stores_each_once_padded_with_zeros() -> None:
    matrices = {
        Variant("visual", "l2"): torch.rand(5, 20),
        Variant("text", "none"): torch.rand(5, 16),
    }
    arena = InputArena(lambda variant: matrices[variant], CPU)
    for variant in [*matrices, *matrices]:
        arena.add(variant)
    assert len(arena.data) == 5 * 32 + 5 * 16
    for variant, matrix in matrices.items():
        start, width = arena.offsets[variant]
        rows = arena.data[start * 16 :][: 5 * width * 16].view(5, -1)
        assert rows[:, : matrix.shape[1]].equal(matrix)
        assert not rows[:, matrix.shape[1] :].any()


@pytest.mark.parametrize("one", HEADS, ids=str)
def test_place_gives_a_slot_the_weights_of_build_head(one: Config) -> None:
    """Equal to the bit, also for a second head that uses the same cached random numbers."""
    arena = WeightArena(CPU)
    for number in range(2):
        member = new_member(Slot(number, one, 32, 1, 1), SHAPE, 32, arena)
        head = build_head(one.head, SHAPE, seed=one.training.seed)
        views = zip(member.names, member.views(arena.weights), strict=True)
        state = head.state_dict()
        assert list(state) == list(member.names)
        assert all(view.equal(state[name]) for name, view in views)
        assert not any(view.any() for view in member.views(arena.firsts))
        arena.part(arena.firsts, member.offset, member.size).fill_(1.0)
        arena.release(member.offset, member.size)


@pytest.mark.parametrize("one", HEADS, ids=str)
def test_parameter_shapes_of_any_head_equal_its_parameters(one: Config) -> None:
    head = build_head(one.head, SHAPE, seed=0)
    expected = {name: tuple(p.shape) for name, p in head.named_parameters()}
    found = parameter_shapes(one.head, SHAPE)
    assert found == expected
    assert list(found) == list(expected)


def test_initial_weights_beyond_capacity_are_dropped_and_drawn_again() -> None:
    kept = InitialWeights(capacity_bytes=4000)
    first = kept.of(HEADS[1].head, SHAPE, 1, pinned=False).clone()
    for seed in range(2, 6):
        kept.of(HEADS[1].head, SHAPE, seed, pinned=False)
    assert kept._bytes <= max(4000, first.nbytes)
    assert kept.of(HEADS[1].head, SHAPE, 1, pinned=False).equal(first)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.7, 2.0])
def test_step_rates_with_any_schedule_equal_its_learning_rates(
    schedule: str, warmup: float
) -> None:
    values = {"training.schedule": schedule, "training.warmup_epochs": warmup}
    one = with_values(config("training.weight_decay=0.3"), values, where="test")
    slots = [Slot(i, one, 32, 7, 4, step=7 * i) for i in range(3)]
    rates = step_rates(slots, 7)
    for k, slot in enumerate(slots):
        for i in range(7):
            rate = learning_rate(one.training, slot.step + i, 7)
            count = slot.step + i + 1
            expected = [
                rate, 1 - rate * 0.3, rate / (1 - 0.9**count), (1 - 0.999**count) ** -0.5,
            ]  # fmt: skip
            assert rates[i, k] == pytest.approx(expected, rel=1e-6)


def test_step_rates_of_a_slot_beside_others_are_unchanged() -> None:
    slots = [Slot(i, one, 32, 9, 4, step=i) for i, one in enumerate([*HEADS, *HEADS])]
    together = step_rates(slots, 9)
    for k, slot in enumerate(slots):
        assert np.array_equal(step_rates([slot], 9)[:, 0], together[:, k])


def test_tile_list_covers_every_matrix_once_and_orders_by_cost() -> None:
    maps = np.zeros((3, r.LENGTH), np.int64)
    maps[:, r.UNITS_OUT] = [5, 70, 16]
    maps[:, r.WIDTH_IN] = [1, 4, 2]
    counts = r.product_tiles(maps, 100, r.Tiles(rows=64, outputs=32))
    tiles = r.tile_list(maps, np.array([True, True, False]), counts, maps[:, r.WIDTH_IN])
    assert tiles.tolist() == [[1, i] for i in range(6)] + [[0, i] for i in range(2)]


@pytest.mark.slow
def test_every_grouped_kernel_compiles_for_an_h100(tmp_path: Path) -> None:
    """Triton has its own assembler, so no GPU is needed. Triton's interpreter checks no types."""
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-m", "tests.helpers.compile_grouped_kernels"],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert len(json.loads(result.stdout)) == 23
