"""Recorded steps of retrieval heads equal those that the host starts one by one."""

import gc
import weakref

import pytest
import torch

from headsweep.config.values import with_values
from headsweep.data.dataset import Split
from headsweep.engine import groups
from headsweep.engine.engine import Engine
from headsweep.engine.inputs import Inputs
from headsweep.engine.programs.base import GroupKey
from headsweep.engine.programs.retrieval import RetrievalProgram
from headsweep.engine.programs.retrieval_recorded import RecordedRetrievalProgram
from headsweep.engine.train_configs import Trained, train_to_end
from headsweep.metrics.masking import BLANK
from headsweep.settings import EngineSettings
from tests.helpers.head_configs import RETRIEVAL, SMALL_RETRIEVAL
from tests.helpers.recorded_steps import record
from tests.helpers.splits import config, make_split

SPLITS = make_split("train", 150, seed=1), make_split("valid", 90, seed=2)
"""150 rows: four minibatches of 32, which are recorded, and a short one, which is not."""
SETTINGS = EngineSettings(device="cpu", slots=16)
CONFIGS = [
    *RETRIEVAL,
    config(*SMALL_RETRIEVAL, "training.clip_norm=0.05", "training.schedule=cosine"),
    config(*SMALL_RETRIEVAL, "training.batch_size=64", "training.warmup_epochs=1"),
    config(*SMALL_RETRIEVAL, "training.batch_size=64", "head.temperature=0.07"),
]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Record every step but the first one of a membership, as on a GPU."""
    original = RecordedRetrievalProgram.__init__

    def recording(self: RecordedRetrievalProgram, key: GroupKey, inputs: Inputs) -> None:
        original(self, key, inputs)
        self.record = record

    monkeypatch.setattr(RecordedRetrievalProgram, "__init__", recording)
    monkeypatch.setitem(groups.PROGRAMS, "retrieval", RecordedRetrievalProgram)


def weights_of(trained: Trained) -> dict[str, torch.Tensor]:
    return trained.predictor.head.state_dict()


def test_program_name_of_a_retrieval_head_on_a_gpu_is_recorded_and_on_a_cpu_not() -> None:
    for device_type, name in [("cuda", "recorded_retrieval"), ("cpu", "retrieval")]:
        assert groups.program_name(RETRIEVAL[0], device_type) == name
    assert groups.PROGRAMS["recorded_retrieval"] is RecordedRetrievalProgram
    assert groups.PROGRAMS["retrieval"] is RetrievalProgram


def test_train_to_end_with_replayed_steps_equals_steps_from_the_host(
    request: pytest.FixtureRequest, splits: tuple[Split, Split]
) -> None:
    """No rows, learning rates or counts are read from the host; rates are rounded to float32."""
    called = train_to_end(CONFIGS, *splits, SETTINGS)
    request.getfixturevalue("recorded")
    replayed = train_to_end(CONFIGS, *splits, SETTINGS)
    for one, other in zip(called, replayed, strict=True):
        assert [r.loss for r in other.history] == pytest.approx([r.loss for r in one.history])
        assert other.best_epoch == one.best_epoch
        for name, tensor in weights_of(one).items():
            torch.testing.assert_close(weights_of(other)[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("recorded")
def test_replayed_slot_beside_slots_that_come_and_go_keeps_every_bit() -> None:
    """Also where a membership is recorded again, and alone."""
    (alone,) = train_to_end([RETRIEVAL[2]], *SPLITS, SETTINGS)
    engine = Engine(*SPLITS, SETTINGS)
    slot = engine.admit(RETRIEVAL[2]).slot
    losses, visitor = [], None
    for epoch in range(len(alone.history)):
        if visitor is None:
            rate = {"training.learning_rate": 0.01 * (epoch + 1)}
            visitor = engine.admit(with_values(RETRIEVAL[0], rate, where="test")).slot
        else:
            engine.evict(visitor)
            visitor = None
        losses += [report.loss for report in engine.run_epoch() if report.slot == slot]
    assert losses == [report.loss for report in alone.history]


@pytest.mark.usefixtures("recorded")
def test_replayed_step_with_blank_labels_reads_nothing_from_the_host() -> None:
    """`record` fails if a step waits for a number of the device."""
    train, valid = SPLITS
    targets = train.targets.copy()
    targets[::7, 0] = BLANK
    masked = Split(**{**vars(train), "targets": targets})
    engine = Engine(masked, valid, SETTINGS)
    engine.admit(RETRIEVAL[2])
    (report,) = engine.run_epoch()
    assert report.failure is None


@pytest.mark.usefixtures("recorded")
def test_restore_of_a_snapshot_continues_to_the_bit() -> None:
    whole = Engine(*SPLITS, SETTINGS)
    slot = whole.admit(RETRIEVAL[2]).slot
    whole.run_epoch()
    snapshot = whole.snapshot(slot)
    late = [whole.run_epoch()[0].loss for _ in range(2)]
    resumed = Engine(*SPLITS, SETTINGS)
    resumed.restore(RETRIEVAL[2], snapshot)
    assert [resumed.run_epoch()[0].loss for _ in range(2)] == late


@pytest.mark.usefixtures("recorded")
def test_evict_frees_the_recording_at_once() -> None:
    engine = Engine(*SPLITS, SETTINGS)
    leaving, _ = (engine.admit(RETRIEVAL[0]).slot for _ in range(2))
    engine.run_epoch()
    (group,) = engine._groups
    assert isinstance(group._program, RecordedRetrievalProgram)
    (steps,) = map(weakref.ref, group._program.steps.values())
    gc.disable()
    try:
        engine.evict(leaving)
        assert steps() is None
    finally:
        gc.enable()


def test_train_to_end_with_steps_that_cannot_be_recorded_warns_and_equals_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(step: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    original = RecordedRetrievalProgram.__init__

    def refusing(self: RecordedRetrievalProgram, key: GroupKey, inputs: Inputs) -> None:
        original(self, key, inputs)
        self.record = refuse  # type: ignore[assignment]

    monkeypatch.setitem(groups.PROGRAMS, "retrieval", RecordedRetrievalProgram)
    (called,) = train_to_end([RETRIEVAL[2]], *SPLITS, SETTINGS)
    monkeypatch.setattr(RecordedRetrievalProgram, "__init__", refusing)
    (refused,) = train_to_end([RETRIEVAL[2]], *SPLITS, SETTINGS)
    assert [r.loss for r in refused.history] == [r.loss for r in called.history]
    (warning,) = caplog.records
    assert "cannot record a step" in warning.message
