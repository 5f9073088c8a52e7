"""A study that is deleted, replaced or restored while a process works on it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
import psycopg
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from headsweep.errors import StudyDeletedError
from headsweep.settings import WorkerSettings
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.storage.optuna_tables import trial_id
from headsweep.studies.storages import open_storage
from headsweep.studies.study import StoredStudy
from headsweep.studies.worker_session import WorkerSession, join
from tests.helpers.postgres import Server
from tests.helpers.study_specs import DOCUMENT, make_spec

OTHER_SPACE = {"training.learning_rate": {"type": "float", "low": 0.2, "high": 0.3}}


def create(tmp_path: Path, url: str, name: str, space: dict[str, object] | None = None) -> None:
    study = {"name": name, "n_trials": 6, "seed": 7}
    spec = make_spec(tmp_path, study=study, space=space or DOCUMENT["space"])
    StoredStudy.create(spec, url).close()


@contextmanager
def stock(url: str) -> Iterator[RDBStorage]:
    """Optuna's own storage on the same database, as used by another program."""
    storage = RDBStorage(url.replace("postgresql://", "postgresql+psycopg://"))
    yield storage
    storage.remove_session()
    storage.engine.dispose()


def delete(name: str, url: str) -> None:
    with stock(url) as storage:
        optuna.delete_study(study_name=name, storage=storage)


def trials_of(study_id: int, url: str) -> list[FrozenTrial]:
    """Return the trials as another process reads them."""
    with closing(open_storage(url).database) as database:
        return BatchedStorage(database, create=False).get_all_trials(study_id)


@pytest.fixture
def session(tmp_path: Path, store_url: str) -> Iterator[WorkerSession]:
    """A worker that runs two trials of study A."""
    create(tmp_path, store_url, "A")
    with join("A", store_url, WorkerSettings(), worker="old") as session:
        session.claim(2)
        yield session


def work_on(session: WorkerSession) -> None:
    """Do what a worker does until its trials are complete."""
    held = sorted(session.running)
    for key in held:
        session.report(key, 1, 0.5)
    session.flush()
    for key in held:
        session.complete(key, 0.9, epochs=1)
    session.flush()


@pytest.mark.parametrize(
    "act",
    [
        work_on,
        lambda session: session.claim(2),
        lambda session: session.renew(session.running),
        lambda session: session.hand_back(crashed=True),
        lambda session: session.trials_to_prune(sorted(session.running)),
        lambda session: session.storage.set_study_user_attr(session.study_id, "effort:old", {}),
        lambda session: session.study.pin_data({"train.csv": "1"}),
        lambda session: session.study.summary(),
    ],
    ids=["flush", "claim", "renew", "hand back", "verdicts", "attribute", "pin", "summary"],
)
def test_worker_when_its_study_is_deleted_stops_and_spares_the_next_study(
    tmp_path: Path, store_url: str, session: WorkerSession, act
) -> None:
    delete("A", store_url)
    create(tmp_path, store_url, "B", OTHER_SPACE)
    with join("B", store_url, WorkerSettings(), worker="new") as other:
        if store_url.startswith("sqlite"):
            assert other.study_id == session.study_id
        ours = other.claim(2).trials
        before = other.storage.get_all_trials(other.study_id)
        with pytest.raises(StudyDeletedError, match=r"^study 'A' was deleted$"):
            act(session)
        assert len(ours) == 2
        for trial in trials_of(other.study_id, store_url):
            assert 0.2 <= trial.params["training.learning_rate"] <= 0.3
            assert trial.intermediate_values == {}
        other.storage.sync(other.study_id)
        assert other.storage.get_all_trials(other.study_id) == before


def test_worker_when_its_lease_thread_notices_first_spares_the_next_study(
    tmp_path: Path, store_url: str, session: WorkerSession
) -> None:
    """The next report must not be written to a trial of another program."""
    delete("A", store_url)
    create(tmp_path, store_url, "B", OTHER_SPACE)
    with join("B", store_url, WorkerSettings(), worker="new") as other:
        other.claim(2)
        for act in (lambda: session.renew(session.running), lambda: work_on(session)):
            with pytest.raises(StudyDeletedError):
                act()
        assert all(t.intermediate_values == {} for t in trials_of(other.study_id, store_url))


def test_worker_when_its_study_is_created_again_under_the_same_name_stops(
    tmp_path: Path, store_url: str, session: WorkerSession
) -> None:
    delete("A", store_url)
    create(tmp_path, store_url, "A")
    with pytest.raises(StudyDeletedError, match=r"^study 'A' was deleted$"):
        work_on(session)
    with StoredStudy.open("A", store_url) as study:
        assert study.trials() == []


def test_worker_when_its_study_is_renamed_stops(store_url: str, session: WorkerSession) -> None:
    session.storage.database.write(
        lambda c: c.exec_driver_sql("UPDATE studies SET study_name = 'Z'"), study_id=None
    )
    with pytest.raises(StudyDeletedError, match="study 'A' was renamed to 'Z'"):
        work_on(session)


def test_flush_when_trials_were_taken_over_or_deleted_drops_them(
    store_url: str, session: WorkerSession
) -> None:
    """A row that is owned by another worker, or was deleted, is not written."""
    taken, gone = sorted(session.running)

    def meddle(connection) -> None:
        connection.exec_driver_sql(
            f"UPDATE trial_user_attributes SET value_json = '\"other\"' "
            f"WHERE key = 'worker' AND trial_id = {taken}"
        )
        for table in ("trial_heartbeats", "trial_params", "trial_user_attributes", "trials"):
            connection.exec_driver_sql(f"DELETE FROM {table} WHERE trial_id = {gone}")

    session.storage.database.write(meddle, study_id=session.study_id)
    for key in (taken, gone):
        session.complete(key, 0.9, epochs=1)
    assert session.flush() == {taken, gone}
    assert session.running == frozenset()
    (left,) = trials_of(session.study_id, store_url)
    assert (left.state, left.value, trial_id(left)) == (TrialState.RUNNING, None, taken)


def test_worker_when_the_sqlite_file_is_replaced_stops(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    create(tmp_path, url, "A")
    backup = tmp_path / "backup.db"
    with (
        closing(sqlite3.connect(tmp_path / "studies.db")) as source,
        closing(sqlite3.connect(backup)) as target,
    ):
        source.backup(target)
    with join("A", url, WorkerSettings(), worker="old") as session:
        session.claim(2)
        for end in ("", "-wal", "-shm"):
            (tmp_path / f"studies.db{end}").unlink(missing_ok=True)
        with pytest.raises(StudyDeletedError, match="deleted while this process used it"):
            session.renew(session.running)
        shutil.move(backup, tmp_path / "studies.db")
        with pytest.raises(StudyDeletedError, match="'A' was replaced or restored"):
            work_on(session)
    with StoredStudy.open("A", url) as study:
        assert study.trials() == []


def test_worker_when_the_postgresql_database_is_restored_stops(
    tmp_path: Path, postgres: Server
) -> None:
    """The restored copy has the same token and will reuse the ids that the worker holds."""
    name = postgres.new_database()
    url = postgres.url(name)
    create(tmp_path, url, "A")
    with join("A", url, WorkerSettings(), worker="old") as session:
        session.storage.database.close()
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}_backup" TEMPLATE "{name}"')
        session.claim(2)
        session.storage.database.close()
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}"')
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{name}_backup"')
        with join("A", url, WorkerSettings(), worker="new") as other:
            assert [trial.number for trial in other.claim(2).trials] == [0, 1]
            with pytest.raises(StudyDeletedError, match="'A' was replaced or restored"):
                work_on(session)
            states = [t.state for t in other.storage.get_all_trials(other.study_id)]
            assert states == [TrialState.RUNNING] * 2


def test_session_of_an_old_study_gives_it_a_token_once(tmp_path: Path, store_url: str) -> None:
    create(tmp_path, store_url, "A")
    storage = open_storage(store_url)
    storage.database.write(
        lambda c: c.exec_driver_sql(
            "DELETE FROM study_user_attributes WHERE key = 'headsweep:token'"
        ),
        study_id=None,
    )
    tokens = []
    for worker in ("one", "two"):
        with join("A", store_url, WorkerSettings(), worker=worker):
            tokens.append(storage.get_study_user_attrs(1)["headsweep:token"])
    storage.database.close()
    assert tokens[0] == tokens[1]
    assert len(tokens[0]) == 32


# The following tests use one storage object, like a dashboard that stays open.


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[BatchedStorage]:
    storage = open_storage(f"sqlite:///{tmp_path}/studies.db", create=True)
    yield storage
    storage.database.close()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_storage_when_a_study_is_deleted_forgets_it(
    tmp_path: Path, storage: BatchedStorage, elsewhere: bool
) -> None:
    """Pending changes, distributions and trials of the first study do not reach the second."""
    first = storage.create_new_study([StudyDirection.MAXIMIZE], "first")
    for _ in range(2):
        key = storage.create_new_trial(first)
        storage.set_trial_param(key, "x", 0.5, FloatDistribution(0.1, 1, log=True))
        storage.set_trial_intermediate_value(key, 1, 0.25)
    assert len(storage.get_all_trials(first)) == 2
    url = f"sqlite:///{tmp_path}/studies.db"
    if elsewhere:
        delete("first", url)
        with stock(url) as other:
            other.create_new_study([StudyDirection.MAXIMIZE], "second")
    else:
        storage.delete_study(first)
        storage.create_new_study([StudyDirection.MAXIMIZE], "second")
    assert storage.get_study_id_from_name("second") == first
    assert storage.get_all_trials(first) == []
    assert storage.get_study_name_from_id(first) == "second"
    again = storage.create_new_trial(first)
    storage.set_trial_param(again, "x", 3, FloatDistribution(0, 9))  # not logarithmic here
    storage.set_trial_state_values(again, TrialState.COMPLETE, [0.5])
    (trial,) = trials_of(first, url)
    assert (trial.params, trial.intermediate_values) == ({"x": 3}, {})
    assert storage.get_all_trials(first) == [trial]


def test_flush_when_the_study_was_deleted_elsewhere_raises(
    tmp_path: Path, storage: BatchedStorage
) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    first = storage.create_new_study([StudyDirection.MAXIMIZE], "first")
    key = storage.create_new_trial(first)
    delete("first", url)
    with stock(url) as other:
        second = other.create_new_study([StudyDirection.MAXIMIZE], "second")
        assert (second, other.create_new_trial(second)) == (first, key)
        with pytest.raises(StudyDeletedError, match="study 'first' was deleted"):
            storage.set_trial_state_values(key, TrialState.COMPLETE, [0.5])
        assert other.get_trial(key).state == TrialState.RUNNING


def test_read_when_another_process_ended_our_trial_returns_what_it_wrote(
    tmp_path: Path, store_url: str
) -> None:
    """optuna-dashboard does this: it asks in one process and tells in another."""
    storage = open_storage(store_url, create=True)
    study = optuna.create_study(study_name="asked", storage=storage, direction="maximize")
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    storage.set_trial_intermediate_value(trial._trial_id, 1, 0.25)
    with stock(store_url) as other:
        optuna.load_study(study_name="asked", storage=other).tell(trial.number, 0.75)
    assert storage.get_trial(trial._trial_id).state == TrialState.COMPLETE
    assert study.trials[0].value == 0.75
    assert [t.value for t in study.get_trials(states=(TrialState.COMPLETE,))] == [0.75]
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        trial.set_user_attr("late", 1)
    storage.database.close()


def test_worker_when_its_study_is_deleted_ends_with_one_line_and_exit_code_1(
    tmp_path: Path, headsweep
) -> None:
    """`headsweep status` names a study that is deleted between two reads, without a KeyError."""
    url = f"sqlite:///{tmp_path}/studies.db"
    create(tmp_path, url, "A")
    with StoredStudy.open("A", url) as study:
        delete("A", url)
        with pytest.raises(StudyDeletedError, match=r"^study 'A' was deleted$") as error:
            study.trials()
        assert error.value.exit_code == 1
        with pytest.raises(StudyDeletedError):
            study.summary()
    assert headsweep("status", "A", "--storage", url).code == 2
