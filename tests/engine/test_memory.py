"""When memory runs out, groups are split; only a trial that does not fit alone fails."""

import pytest
import torch
from torch import Tensor

from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.engine import groups
from headsweep.engine.engine import Engine
from headsweep.engine.hardware.memory import ran_out_of_memory
from headsweep.engine.programs.base import Program
from headsweep.engine.programs.linear import LinearProgram
from headsweep.engine.programs.linear_rows import Rows
from headsweep.engine.programs.linear_stack import Stack
from headsweep.engine.programs.mlp import MLPBatch, MLPProgram, MLPTrainer
from headsweep.engine.programs.mlp_stacked import StackedMLPProgram
from headsweep.engine.slots import EpochReport, Slot
from headsweep.settings import EngineSettings
from tests.helpers.splits import config, make_split

SPLITS = make_split("train", 150, seed=1), make_split("valid", 90, seed=2)
SETTINGS = EngineSettings(device="cpu", slots=16)
CPU_MESSAGE = (
    "[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory: you tried to "
    "allocate 96 bytes. Error code 12 (Cannot allocate memory)"
)
RATES = (0.001, 0.003, 0.01, 0.02, 0.05)
LINEAR = [config(f"training.learning_rate={rate}") for rate in RATES]
MLPS = [
    config("head=mlp", f"head.width={8 * (1 + i)}", f"training.learning_rate={rate}")
    for i, rate in enumerate(RATES)
]


def exhausted(
    message: str = "CUDA out of memory. Tried to allocate 2 GiB.",
) -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError(message)


def train(configs: list[Config], epochs: int = 4) -> dict[int, list[EpochReport]]:
    """Return the reports of every config over some epochs, including failures."""
    engine = Engine(*SPLITS, SETTINGS)
    slots = [engine.admit(one).slot for one in configs]
    reports = [report for _ in range(epochs) for report in engine.run_epoch()]
    return {i: [r for r in reports if r.slot == slot] for i, slot in enumerate(slots)}


def assert_unchanged(
    monkeypatch: pytest.MonkeyPatch, kind: str, small: type[Program], configs: list[Config]
) -> None:
    """Check that a device with little memory gives the same numbers as one with enough."""
    expected = train(configs)
    monkeypatch.setitem(groups.PROGRAMS, kind, small)
    assert train(configs) == expected


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("error", [exhausted(), RuntimeError(CPU_MESSAGE)], ids=["cuda", "cpu"])
def test_run_epoch_when_memory_runs_out_halves_the_group_until_it_fits(
    monkeypatch: pytest.MonkeyPatch, limit: int, error: RuntimeError
) -> None:
    class Small(LinearProgram):
        def train_batch(self, stack: Stack, rows: Rows) -> None:
            if len(self.members) > limit:
                raise error
            super().train_batch(stack, rows)

    assert_unchanged(monkeypatch, "linear", Small, LINEAR)


@pytest.mark.parametrize("step", [0, 2, 4])
def test_run_epoch_when_memory_runs_out_midway_takes_no_step_twice(
    monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The first two slots have taken steps when the third runs out of memory; the others none."""

    class Small(MLPProgram):
        def trainer(self, slot: Slot) -> MLPTrainer:
            trainer = super().trainer(slot)
            compute = trainer.compute_gradients

            def compute_or_refuse(batch: MLPBatch) -> None:
                if (slot.number, slot.step) == (2, step) and not refused:
                    refused.append(step)
                    raise exhausted()
                compute(batch)

            trainer.compute_gradients = compute_or_refuse  # type: ignore[method-assign]
            return trainer

    refused: list[int] = []
    assert_unchanged(monkeypatch, "mlp", Small, MLPS)
    assert refused == [step]


def test_run_epoch_when_memory_runs_out_between_batch_sizes_takes_no_step_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Slots of batch size 32 have then finished the epoch; some of batch size 64 have started."""

    class Small(MLPProgram):
        def trainer(self, slot: Slot) -> MLPTrainer:
            trainer = super().trainer(slot)
            compute = trainer.compute_gradients

            def compute_or_refuse(batch: MLPBatch) -> None:
                if (slot.number, slot.step) == (4, 1) and not refused:
                    refused.append([member.slot.step for member in self.members.values()])
                    raise exhausted()
                compute(batch)

            trainer.compute_gradients = compute_or_refuse  # type: ignore[method-assign]
            return trainer

    refused: list[list[int]] = []
    mixed = [
        with_values(one, {"training.batch_size": 32 * (1 + i // 3)}, where="test")
        for i, one in enumerate(MLPS)
    ]
    assert_unchanged(monkeypatch, "mlp", Small, mixed)
    assert refused == [[5, 5, 5, 3, 1]]


def test_run_epoch_when_memory_runs_out_in_validation_trains_nothing_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Small(MLPProgram):
        def validate(self) -> tuple[list[Slot], Tensor]:
            if len(self.members) > 2:
                raise exhausted()
            return super().validate()

    assert_unchanged(monkeypatch, "mlp", Small, MLPS)


def test_run_epoch_when_memory_runs_out_halves_stacked_mlps_within_rounding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Halved groups have other shapes, for which a BLAS rounds differently."""

    class Small(StackedMLPProgram):
        def train_epoch(self, order: Tensor, position: int) -> None:
            if len(self.members) > 2:
                super().train_epoch(order[: 2 * self.batch_size], position)
                raise exhausted()
            super().train_epoch(order, position)

    monkeypatch.setitem(groups.PROGRAMS, "mlp", StackedMLPProgram)
    expected = train(MLPS)
    monkeypatch.setitem(groups.PROGRAMS, "mlp", Small)
    for i, reports in train(MLPS).items():
        losses = [report.loss for report in expected[i]]
        assert [report.loss for report in reports] == pytest.approx(losses, rel=1e-4)


def test_run_epoch_when_groups_fit_one_at_a_time_parks_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All programs together share the memory, so each is moved to the host for the next."""
    alive: set[Program] = set()

    class Small(LinearProgram):
        def admit(self, slot: Slot) -> None:
            super().admit(slot)
            alive.add(self)
            present = {group._program for group in engine._groups}
            if len(alive & present) > 1:
                raise exhausted()

    both = [LINEAR[0], LINEAR[1], config("training.seed=1"), config("training.seed=2")]
    expected = train(both)
    monkeypatch.setitem(groups.PROGRAMS, "linear", Small)
    engine = Engine(*SPLITS, SETTINGS)
    slots = [engine.admit(one).slot for one in both]
    reports = [report for _ in range(4) for report in engine.run_epoch()]
    for i, slot in enumerate(slots):
        assert [report for report in reports if report.slot == slot] == expected[i]
    assert len(engine._groups) == 3  # none was halved


def test_run_epoch_when_a_trial_does_not_fit_alone_fails_it_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Small(MLPProgram):
        def train_epoch(self, order: Tensor, position: int) -> None:
            if any(member.slot.config == MLPS[3] for member in self.members.values()):
                raise exhausted("CUDA out of memory. Tried to allocate 9 GiB.\nGPU 0 has …")
            super().train_epoch(order, position)

    expected = train(MLPS, epochs=1)
    monkeypatch.setitem(groups.PROGRAMS, "mlp", Small)
    reports = train(MLPS, epochs=1)
    (failed,) = reports.pop(3)
    assert failed.finished
    assert failed.failure == (
        "does not fit into memory even alone: CUDA out of memory. Tried to allocate 9 GiB. "
        "Lower training.batch_size, or use a smaller head"
    )
    assert reports == {i: report for i, report in expected.items() if i != 3}


def test_admit_when_memory_runs_out_lets_the_trial_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(LinearProgram):
        def admit(self, slot: Slot) -> None:
            if len(self.members) == 2:
                raise exhausted()
            super().admit(slot)

    expected = train(LINEAR)
    monkeypatch.setitem(groups.PROGRAMS, "linear", Small)
    assert train(LINEAR) == expected


def test_admit_after_a_group_was_halved_keeps_it_small(monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(LinearProgram):
        def train_batch(self, stack: Stack, rows: Rows) -> None:
            if len(self.members) > 2:
                refused.append(len(self.members))
                raise exhausted()
            super().train_batch(stack, rows)

    refused: list[int] = []
    monkeypatch.setitem(groups.PROGRAMS, "linear", Small)
    engine = Engine(*SPLITS, SETTINGS)
    for one in LINEAR[:3]:
        engine.admit(one)
    engine.run_epoch()
    for one in LINEAR[3:]:
        engine.admit(one)
    engine.run_epoch()
    assert refused == [3]
    assert all(len(group.slots) <= 2 for group in engine._groups)


def test_park_keeps_snapshots_heads_and_eviction_working(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots, heads and eviction of parked slots still work."""
    engine = Engine(*SPLITS, SETTINGS)
    slots = [engine.admit(one).slot for one in LINEAR[:3]]
    engine.run_epoch()
    snapshots = [engine.snapshot(slot) for slot in slots]
    heads = [engine.predictor(slot).head.state_dict() for slot in slots]
    (group,) = engine._groups
    group.park()
    for slot, snapshot, head in zip(slots, snapshots, heads, strict=True):
        again = engine.snapshot(slot)
        assert all(again.tensors[name].equal(t) for name, t in snapshot.tensors.items())
        present = engine.predictor(slot).head.state_dict()
        assert all(present[name].equal(tensor) for name, tensor in head.items())
    group.park()
    engine.evict(slots[0])
    assert {report.slot for report in engine.run_epoch()} == set(slots[1:])


def test_run_epoch_on_another_fault_raises_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(LinearProgram):
        def train_batch(self, stack: Stack, rows: Rows) -> None:
            raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setitem(groups.PROGRAMS, "linear", Broken)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(LINEAR)


def test_ran_out_of_memory_behind_another_error_is_true() -> None:
    """This happens when a graph recording that ran out of memory cannot be ended either."""

    def record() -> None:
        try:
            raise exhausted()
        finally:
            raise RuntimeError("capture failed because of a previous error")

    with pytest.raises(RuntimeError, match="capture failed") as raised:
        record()
    assert ran_out_of_memory(raised.value)


def test_ran_out_of_memory_of_the_cpu_allocator_is_true() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60)
    assert ran_out_of_memory(raised.value)
