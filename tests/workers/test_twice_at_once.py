"""Two writers at once, and clocks that jump: nothing is lost or duplicated.

Racing workers are in `tests/workers/test_worker.py`, processes that pack one data set at once in
`tests/data/test_packing.py`, two leaderboards in one folder in `tests/leaderboard/test_staging.py`.
"""

import datetime
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState

from headsweep.atomic_files import new_folder, replacing
from headsweep.config.overrides import compose_config
from headsweep.data.packing import pack
from headsweep.errors import OutputError, StudyError
from headsweep.leaderboard import unblinding as firewall
from headsweep.settings import EngineSettings, WorkerSettings
from headsweep.single_run import train
from headsweep.storage import optuna_tables
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.storage.claims import heartbeats
from headsweep.storage.optuna_tables import trial_id
from headsweep.studies.storages import open_storage
from headsweep.studies.study import StoredStudy
from headsweep.studies.worker_session import WorkerSession
from headsweep.workers.lease import Lease
from tests.helpers.clock import Clock, held_clock
from tests.helpers.data_sets import write_split
from tests.helpers.exact_budget import assert_exact
from tests.helpers.study_specs import make_spec

pytestmark = pytest.mark.hardening

SETTINGS = WorkerSettings(lease_s=60.0)
TWO_HOURS_S = 7200.0
LONG_S = 30.0


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


@pytest.fixture
def storage(tmp_path: Path, url: str) -> Iterator[BatchedStorage]:
    storage = open_storage(url, create=True)
    StoredStudy.create(make_spec(tmp_path, "study.n_trials=6"), storage)
    yield storage
    storage.database.close()


@pytest.fixture
def clock() -> Iterator[Clock]:
    with held_clock() as clock:
        yield clock


def join(url: str, name: str) -> WorkerSession:
    return WorkerSession(StoredStudy.open("probe", url), SETTINGS, worker=name)


def finish(session: WorkerSession, clock: Clock) -> None:
    """Work until the study is over. The clock moves on when there is nothing to claim."""
    with session:
        for _ in range(50):
            batch = session.claim(4)
            for trial in batch.trials:
                session.complete(trial_id(trial), 0.5, epochs=9)
            session.flush()
            if batch.over:
                return
            clock.set_by(0 if batch.trials else SETTINGS.lease_s + 1)
    raise AssertionError("the study must end")


def test_claim_when_the_clock_was_set_back_still_expires_dead_workers(
    storage: BatchedStorage, url: str, clock: Clock
) -> None:
    """Heartbeats of a dead worker were once in the future for two hours, so nobody took over."""
    dead, alive = join(url, "dead"), join(url, "alive")
    lost = dead.claim(2).trials
    kept = alive.claim(2).trials
    dead.storage.database.close()
    clock.set_by(-TWO_HOURS_S)

    witness = join(url, "witness")
    witness.claim(1)
    running = storage.get_all_trials(1, states=(TrialState.RUNNING,))
    assert {t.number for t in running} >= {t.number for t in (*lost, *kept)}
    beats = storage.database.read(lambda c: heartbeats(c, [trial_id(t) for t in running]))
    assert max(beats.values()) <= clock.now()

    clock.set_by(0.7 * SETTINGS.lease_s)
    alive.renew(alive.running)
    witness.renew(witness.running)
    clock.set_by(0.7 * SETTINGS.lease_s)
    witness.claim(1)
    states = {t.number: t.state for t in storage.get_all_trials(1)}
    assert [states[t.number] for t in (*lost, *kept)] == [TrialState.FAIL] * 2 + [
        TrialState.RUNNING
    ] * 2
    for session in (alive, witness):
        for key in session.running:
            session.complete(key, 0.25, epochs=9)
        assert session.flush() == frozenset()
        session.storage.database.close()
    finish(join(url, "last"), clock)
    assert_exact(storage.get_all_trials(1), 6)


@pytest.mark.parametrize("jump_s", [1.0, TWO_HOURS_S])
def test_flush_after_the_clock_jumped_forward_counts_every_trial_once(
    storage: BatchedStorage, url: str, clock: Clock, jump_s: float
) -> None:
    """As by NTP, or after a laptop's sleep in which the monotonic clock stopped: no fencing.

    Fails if `write_changes` writes to trials that are not RUNNING.
    """
    with join(url, "slept") as slept, join(url, "other") as other:
        held = slept.claim(3).trials
        clock.set_by(jump_s)
        taken = other.claim(6).trials
        for session, value in ((other, 0.5), (slept, 0.75)):
            for key in session.running:
                session.complete(key, value, epochs=9)
        other.flush()
        lost = slept.flush()
    assert lost == (frozenset(map(trial_id, held)) if jump_s > SETTINGS.lease_s else frozenset())
    assert len(taken) == (6 if jump_s > SETTINGS.lease_s else 3)
    finish(join(url, "last"), clock)
    trials = storage.get_all_trials(1)
    assert_exact(trials, 6)
    values = [t.value for t in trials if t.state == TrialState.COMPLETE]
    assert values.count(0.75) == (0 if jump_s > SETTINGS.lease_s else 3)


def test_lease_when_the_monotonic_clock_jumped_is_fenced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on systems whose monotonic clock counts sleep."""
    now = 1000.0
    monkeypatch.setattr("headsweep.workers.lease.time", SimpleNamespace(monotonic=lambda: now))
    lease = Lease(lambda _: None, 60.0)
    lease.set_trials(frozenset({1}), since=now)
    now += 59
    assert not lease.fenced()
    now += TWO_HOURS_S
    assert lease.fenced()


def test_study_when_the_time_zone_changes_stores_utc(
    storage: BatchedStorage, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables store UTC; a trial has the local time of the reader, as in Optuna.

    Fails if `to_local` ignores the time zone, or if `utc_now` returns local time.
    """
    before = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago", "Europe/Berlin"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        optuna_tables._utc_offset.cache_clear()
        with join(url, zone) as session:
            (trial,) = session.claim(1).trials
            session.complete(trial_id(trial), 0.5, epochs=9)
            session.flush()
            assert StoredStudy.open("probe", storage).summary().live_workers == 0
        known = storage.get_all_trials(1)[-1]
        assert known.datetime_start is not None
        assert abs(datetime.datetime.now() - known.datetime_start) < datetime.timedelta(minutes=9)
        other = join(url, f"{zone}, alive")
        other.claim(1)
        assert StoredStudy.open("probe", storage).summary().live_workers == 1
        other.hand_back(crashed=False)
        other.storage.database.close()
    monkeypatch.delenv("TZ")
    time.tzset()
    optuna_tables._utc_offset.cache_clear()
    after = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    with storage.database.engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT datetime_start, datetime_complete FROM trials WHERE datetime_start NOT NULL"
        ).all()
    times = [datetime.datetime.fromisoformat(value) for row in rows for value in row if value]
    assert len(times) >= 9
    assert before <= min(times) <= max(times) <= after
    finish(join(url, "last"), Clock())
    assert_exact(storage.get_all_trials(1), 6)


def test_pack_when_a_feature_file_has_an_older_date_packs_again(tmp_path: Path) -> None:
    """The age of a packed file alone does not prove that it is current."""
    from headsweep.config.data_sections import ColumnsConfig
    from headsweep.data.manifest import read_manifest

    table = write_split(tmp_path, "train", {"train_1_a_1": (1, 0), "train_2_a_1": (0, 1)})
    manifest = read_manifest(table, ColumnsConfig(), None)
    places = (tmp_path / "features", tmp_path / "cache")
    first = pack(manifest, "visual", *places, progress=False)
    file = tmp_path / "features/image/train_1_a_1.npz"
    file.write_bytes((tmp_path / "features/image/train_2_a_1.npz").read_bytes())
    then = time.time() - TWO_HOURS_S
    os.utime(file, (then, then))
    second = pack(manifest, "visual", *places, progress=False)
    assert second.fingerprint != first.fingerprint
    assert (second.matrix[0] == second.matrix[1]).all()


def test_open_test_by_two_callers_at_once_records_one_and_refuses_the_other(
    storage: BatchedStorage, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second opening, for other finalists, once overwrote the first."""
    monkeypatch.setattr(firewall, "load_test", lambda *_: ())
    monkeypatch.setattr(firewall, "digests_of_test", lambda *_: {})
    refused: list[str] = []

    def second() -> None:
        try:
            firewall.open_test(StoredStudy.open("probe", url), [1, 2], None, None, ())
        except StudyError as error:
            refused.append(str(error))

    thread = threading.Thread(target=second)

    def commit() -> str:
        """Start the second opening after the first has read that test was never opened."""
        if threading.current_thread() is not thread:
            thread.start()
            thread.join(0.5)
        return "commit"

    monkeypatch.setattr(firewall, "code_commit", commit)
    openings, _ = firewall.open_test(StoredStudy.open("probe", storage), [0, 1], None, None, ())
    thread.join(LONG_S)
    study = optuna.load_study(study_name="probe", storage=storage)
    assert firewall.past_openings(study) == openings
    assert [opening.trials for opening in openings] == [(0, 1)]
    assert "the test set was already opened" in refused[0]


def test_replacing_by_two_writers_at_once_makes_the_second_wait(tmp_path: Path) -> None:
    """Both once wrote into one partial file. Fails without the lock in `_claim`."""
    path = tmp_path / "state.safetensors"
    begun = threading.Event()

    def second() -> None:
        begun.set()
        with replacing(path) as file:
            file.write(b"second" * 1000)

    thread = threading.Thread(target=second)
    with replacing(path) as file:
        file.write(b"first" * 1000)
        thread.start()
        begun.wait(LONG_S)
        thread.join(0.2)
        file.write(b"first" * 1000)
        file.flush()
    thread.join(LONG_S)
    assert path.read_bytes() == b"second" * 1000
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_new_folder_by_two_writers_at_once_is_refused_to_the_second(tmp_path: Path) -> None:
    """The second writer once emptied the folder that the first was filling."""
    ended: list[BaseException] = []

    def second() -> None:
        try:
            with new_folder(tmp_path / "data") as folder:
                (folder / "second").touch()
        except OSError as error:
            ended.append(error)

    thread = threading.Thread(target=second)
    with new_folder(tmp_path / "data") as folder:
        (folder / "first").touch()
        thread.start()
        thread.join(0.2)
        assert [p.name for p in folder.iterdir()] == ["first"]
    thread.join(LONG_S)
    assert [p.name for p in tmp_path.rglob("*")] == ["data", "first"]
    assert "not empty" in str(ended[0])


def test_train_in_the_folder_of_a_running_train_is_refused(tmp_path: Path, monkeypatch) -> None:
    """Two runs in one folder once mixed their lines and states."""
    monkeypatch.setenv("HEADSWEEP_CACHE", str(tmp_path / "cache"))
    write_split(tmp_path, "train", {f"train_{i}_a_1": (i % 2, i // 6) for i in range(12)})
    write_split(tmp_path, "valid", {f"valid_{i}_a_1": (i % 2, i // 4) for i in range(8)})
    config = compose_config(
        [
            f"paths.data_root={tmp_path}/features",
            f"paths.manifest_dir={tmp_path}/manifests",
            f"paths.checkpoint_dir={tmp_path}/run",
            *("head=linear", "training.max_epochs=2", "training.batch_size=4"),
        ],
        where="test",
    )
    settings = EngineSettings(device="cpu", slots=1)
    refused: list[str] = []

    def train_again(_: object) -> None:
        with pytest.raises(OutputError) as error:
            train(config, settings, progress=False)
        refused.append(str(error.value))

    train(config, settings, progress=False, on_epoch=train_again)
    assert len(refused) == 2
    assert "one run at a time may write to a folder, found another at work" in refused[0]
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    train(config, settings, progress=False)  # the lock was released at the end of the run
