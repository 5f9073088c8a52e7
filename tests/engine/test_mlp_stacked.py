"""Stacked MLPs equal plain PyTorch, keep the slot contract, and read nothing from the host."""

import gc
import weakref

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headsweep.config.head_section import MLPConfig
from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.data.dataset import Split
from headsweep.engine import groups
from headsweep.engine.engine import Engine
from headsweep.engine.programs.mlp import MLPProgram
from headsweep.engine.programs.mlp_stacked import StackedMLPProgram
from headsweep.engine.train_configs import Trained, train_to_end
from headsweep.settings import EngineSettings
from tests.helpers.head_configs import MLP
from tests.helpers.plain_training import train_plainly
from tests.helpers.recorded_steps import Recorder, record
from tests.helpers.splits import config, make_split

SPLITS = make_split("train", 150, seed=1), make_split("valid", 90, seed=2)
SETTINGS = EngineSettings(device="cpu", slots=16)
CONFIGS = [
    *(one for one in MLP if isinstance(one.head, MLPConfig) and one.head.norm != "batch"),
    config("head=mlp", "head.hidden_dims=[24,8]", "training.loss=asymmetric"),
    config("head=mlp", "head.hidden_dims=[24,8,16]", "head.norm=layer", "head.activation=silu"),
    config("head=mlp", "head.width=16", "head.depth=3", "training.optimizer=sgd"),
    config("head=mlp", "head.width=16", "head.depth=2", "training.clip_norm=0.05"),
    config("head=mlp", "head.width=16", "training.loss=weighted_bce", "training.warmup_epochs=1"),
]
WATCHED = config("head=mlp", "head.width=16", "head.dropout=0.4", "head.norm=layer")


@pytest.fixture(autouse=True)
def stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the stacked program, as a GPU without Triton does."""
    monkeypatch.setitem(groups.PROGRAMS, "mlp", StackedMLPProgram)


def history(trained: Trained) -> list[float]:
    return [value for report in trained.history for value in (report.auprc_macro, report.loss)]


def test_program_name_on_a_gpu_is_stacked_and_on_a_cpu_not() -> None:
    for device_type, name in [("cuda", "stacked_mlp"), ("cpu", "mlp")]:
        assert groups.program_name(WATCHED, device_type) == name
    assert groups.PROGRAMS["stacked_mlp"] is StackedMLPProgram


def test_train_to_end_of_mixed_stacked_heads_equals_plain_training(
    splits: tuple[Split, Split],
) -> None:
    """Different depths, widths, activations, norms, dropouts, losses, optimizers share a step."""
    fused = train_to_end(CONFIGS, *splits, SETTINGS)
    for one, trained in zip(CONFIGS, fused, strict=True):
        values, head = train_plainly(one, *splits)
        reached = [report.auprc_macro for report in trained.history]
        assert reached == pytest.approx(values, abs=2e-4), one
        if trained.best_epoch == len(values):
            plain = head.state_dict()
            for name, tensor in trained.predictor.head.named_parameters():
                torch.testing.assert_close(tensor.detach(), plain[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("place", [0, 3, 7])
def test_stacked_head_beside_neighbours_of_equal_widths_keeps_every_bit(place: int) -> None:
    """This holds for a fixed group shape, for any neighbours and any position of the slot."""

    def among(values: list[dict[str, object]]) -> Trained:
        crowd = [with_values(WATCHED, v, where="test") for v in values]
        configs = [*crowd[:place], WATCHED, *crowd[place:]]
        return train_to_end(configs, *SPLITS, SETTINGS)[place]

    alike = among([{}] * 7)
    changed = among(
        [
            {"training.learning_rate": 0.5},
            {"training.optimizer": "sgd", "training.learning_rate": 0.3},
            {"training.loss": "focal", "training.focal_gamma": 3.0},
            {"head.activation": "gelu"},
            {"head.norm": "none", "head.dropout": 0.0},
            {"training.clip_norm": 0.01, "training.weight_decay": 0.5},
            {"head.activation": "tanh", "training.label_smoothing": 0.1},
        ]
    )
    assert history(changed) == history(alike)
    weights = changed.predictor.state_dict()
    for name, tensor in alike.predictor.state_dict().items():
        assert weights[name].equal(tensor), name


heads = st.builds(
    lambda widths, values: with_values(
        WATCHED, {"head.hidden_dims": widths, **values}, where="test"
    ),
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    st.fixed_dictionaries(
        {
            "training.learning_rate": st.floats(1e-4, 10.0),
            "head.activation": st.sampled_from(["relu", "gelu", "silu", "tanh"]),
            "head.norm": st.sampled_from(["none", "layer"]),
            "training.optimizer": st.sampled_from(["adamw", "sgd"]),
        }
    ),
)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(neighbours=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), heads), max_size=7))
def test_stacked_head_with_neighbours_that_come_and_go_changes_only_by_rounding(
    neighbours: list[tuple[int, int, Config]],
) -> None:
    engine = Engine(*SPLITS, SETTINGS)
    slot = engine.admit(WATCHED).slot
    leaving: list[tuple[int, int]] = []
    seen = []
    for epoch in range(WATCHED.training.max_epochs):
        for enters, stays, neighbour in neighbours:
            if enters == epoch:
                leaving.append((epoch + stays, engine.admit(neighbour).slot))
        seen += [report.loss for report in engine.run_epoch() if report.slot == slot]
        for leaves, number in [entry for entry in leaving if entry[0] <= epoch + 1]:
            engine.evict(number)
            leaving.remove((leaves, number))
    (alone,) = train_to_end([WATCHED], *SPLITS, SETTINGS)
    assert seen == pytest.approx([report.loss for report in alone.history], rel=1e-4)


def test_run_epoch_with_a_diverging_stacked_slot_fails_only_it() -> None:
    broken = config("head=mlp", "training.optimizer=sgd", "training.learning_rate=1e30")
    engine = Engine(*SPLITS, SETTINGS)
    ok, bad = engine.admit(WATCHED).slot, engine.admit(broken).slot
    reports = {report.slot: report for report in engine.run_epoch()}
    assert reports[bad].failure is not None
    assert reports[ok].failure is None


@pytest.mark.parametrize("goes_on_in", [StackedMLPProgram, MLPProgram])
def test_restore_of_a_snapshot_continues_in_either_mlp_program(
    monkeypatch: pytest.MonkeyPatch, goes_on_in: type[StackedMLPProgram | MLPProgram]
) -> None:
    """Also in the other program for MLPs, because both use the same tensor names."""
    whole = Engine(*SPLITS, SETTINGS)
    slot = whole.admit(WATCHED).slot
    for _ in range(2):
        whole.run_epoch()
    snapshot = whole.snapshot(slot)
    late = [whole.run_epoch()[0].loss for _ in range(2)]
    monkeypatch.setitem(groups.PROGRAMS, "mlp", goes_on_in)
    resumed = Engine(*SPLITS, SETTINGS)
    resumed.restore(WATCHED, snapshot)
    again = [resumed.run_epoch()[0].loss for _ in range(2)]
    assert again == (late if goes_on_in is StackedMLPProgram else pytest.approx(late, rel=1e-4))


def test_train_to_end_with_replayed_steps_gives_equal_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A later step needs no rows, learning rates, noise or counts from the host."""
    called = train_to_end(CONFIGS, *SPLITS, SETTINGS)
    original = StackedMLPProgram.__init__

    def recording(self: StackedMLPProgram, *args: object) -> None:
        original(self, *args)  # type: ignore[arg-type]
        self.record = record

    monkeypatch.setattr(StackedMLPProgram, "__init__", recording)
    replayed = train_to_end(CONFIGS, *SPLITS, SETTINGS)
    for one, other in zip(called, replayed, strict=True):
        assert history(other) == history(one)


def test_step_with_more_slots_adds_one_kernel_per_slot() -> None:
    """Except for one fused optimizer update per slot."""

    def kernels(count: int) -> int:
        engine = Engine(*SPLITS, SETTINGS)
        for i in range(count):
            slot = {"training.learning_rate": 0.001 * (i + 1), "head.dropout": 0.1 * (i % 5)}
            slot |= {"head.width": (8, 16)[i % 2], "head.depth": 1 + i % 2}
            engine.admit(with_values(WATCHED, slot, where="test"))
        engine.run_epoch()
        (group,) = engine._groups
        assert isinstance(group._program, StackedMLPProgram)
        assert group._program.stack is not None
        with Recorder() as recorder:
            group._program.stack.epoch.taken.zero_()
            group._program.stack.step()
        return len(recorder.kernels)

    assert kernels(12) - kernels(4) == 8


def test_evict_frees_the_old_stack_at_once() -> None:
    """Memory is freed at once, without waiting for Python's cyclic garbage collector."""
    engine = Engine(*SPLITS, SETTINGS)
    leaving, _ = (engine.admit(WATCHED).slot for _ in range(2))
    engine.run_epoch()
    (group,) = engine._groups
    assert isinstance(group._program, StackedMLPProgram)
    assert group._program.stack is not None
    before = weakref.ref(group._program.stack)
    gc.disable()
    try:
        engine.evict(leaving)
        assert before() is None
    finally:
        gc.enable()
