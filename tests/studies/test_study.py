"""Creating, opening and continuing studies; refusals; passwords are never shown."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from headsweep.errors import StorageError, StudyError
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.storage.connections import open_database, shown_url
from headsweep.studies.storages import open_storage
from headsweep.studies.study import StoredStudy
from tests.helpers.study_specs import make_spec


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[BatchedStorage]:
    storage = open_storage(f"sqlite:///{tmp_path}/folder/studies.db", create=True)
    yield storage
    storage.database.close()


def test_open_after_create_returns_the_same_spec(tmp_path: Path, storage: BatchedStorage) -> None:
    spec = make_spec(tmp_path)
    StoredStudy.create(spec, storage)
    assert StoredStudy.open("probe", storage).spec == spec
    assert storage.get_study_directions(1) == [optuna.study.StudyDirection.MAXIMIZE]


def test_create_with_another_definition_is_refused(tmp_path: Path, storage: BatchedStorage) -> None:
    study_id = StoredStudy.create(make_spec(tmp_path), storage).study_id
    elsewhere = make_spec(tmp_path, "paths.data_root=elsewhere")
    assert StoredStudy.create(elsewhere, storage).study_id == study_id
    assert StoredStudy.open("probe", storage).spec.config.paths.data_root == "elsewhere"
    with pytest.raises(StudyError, match="max_epochs was 9 and is 8"):
        StoredStudy.create(make_spec(tmp_path, "training.max_epochs=8"), storage)


def test_create_with_a_smaller_budget_is_refused(tmp_path: Path, storage: BatchedStorage) -> None:
    StoredStudy.create(make_spec(tmp_path), storage)
    StoredStudy.create(make_spec(tmp_path, "study.n_trials=50"), storage)
    assert StoredStudy.open("probe", storage).spec.n_trials == 50
    with pytest.raises(StudyError, match="may only grow from 50, found 40"):
        StoredStudy.create(make_spec(tmp_path), storage)


def test_create_over_a_study_of_stock_optuna_is_refused(
    tmp_path: Path, storage: BatchedStorage
) -> None:
    optuna.create_study(storage=storage, study_name="probe", direction="maximize").ask()
    with pytest.raises(StudyError, match=r"trials of another program \(1 RUNNING\)"):
        StoredStudy.create(make_spec(tmp_path), storage)


def test_open_when_the_study_is_missing_names_those_that_exist(
    tmp_path: Path, storage: BatchedStorage
) -> None:
    StoredStudy.create(make_spec(tmp_path), storage)
    with pytest.raises(StudyError, match="no study named 'prob'; studies there: probe"):
        StoredStudy.open("prob", storage)


def test_pin_data_when_the_data_changed_is_refused(tmp_path: Path, storage: BatchedStorage) -> None:
    study = StoredStudy.create(make_spec(tmp_path), storage)
    data = {"train manifest": "aa", "train visual features": "bb"}
    study.pin_data(data)
    study.pin_data(data)
    assert study.pinned_data() == data
    with pytest.raises(StudyError, match="train manifest: the data changed since the study began"):
        study.pin_data(data | {"train manifest": "cc"})


def test_next_worker_index_counts_from_zero(tmp_path: Path, storage: BatchedStorage) -> None:
    study = StoredStudy.create(make_spec(tmp_path), storage)
    assert [study.next_worker_index() for _ in range(3)] == [0, 1, 2]


def test_open_storage_from_four_processes_at_once_creates_it_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    program = (
        "import sys; from headsweep.studies.storages import open_storage;"
        "open_storage(sys.argv[1], create=True)"
    )
    racers = [subprocess.Popen([sys.executable, "-c", program, url]) for _ in range(4)]
    assert [racer.wait() for racer in racers] == [0, 0, 0, 0]


def test_stored_study_and_stock_optuna_share_a_database(
    tmp_path: Path, storage: BatchedStorage
) -> None:
    study_id = StoredStudy.create(make_spec(tmp_path), storage).study_id
    theirs = optuna.load_study(
        study_name="probe", storage=f"sqlite:///{tmp_path}/folder/studies.db"
    )
    trial = theirs.ask()
    trial.suggest_float("training.learning_rate", 1e-5, 1e-1, log=True)
    trial.report(0.5, 1)
    (running,) = storage.get_all_trials(study_id)
    theirs.tell(trial, 0.75)
    (finished,) = storage.get_all_trials(study_id)
    assert running.intermediate_values == {1: 0.5}
    assert finished.value == 0.75
    assert finished == theirs.trials[0]


SECRET = "s3cr@t/p%ss"
QUOTED = "s3cr%40t%2Fp%25ss"
UNREACHABLE = [
    f"postgresql://user:{QUOTED}@127.0.0.1:1/studies",
    f"postgresql+psycopg://user@127.0.0.1:1/studies?password={QUOTED}",
]


@pytest.mark.parametrize("url", UNREACHABLE)
def test_open_storage_when_unreachable_hides_the_password(url: str) -> None:
    with pytest.raises(StorageError) as refused:
        open_storage(url)
    message = str(refused.value)
    assert "127.0.0.1" in message
    assert "\n" not in message
    for secret in (SECRET, QUOTED, "s3cr"):
        assert secret not in message
        assert secret not in shown_url(url)
    assert refused.value.__suppress_context__


@pytest.mark.parametrize(
    ("url", "law"),
    [
        ("mysql://user:s3cret@host/studies", "unsupported storage 'mysql'"),
        ("sqlite://", "unsupported storage 'sqlite'"),
        ("sqlite:///a?b.db", r"sqlite:///a: a SQLite URL must not have options .* write %3F"),
        ("studies.db", "must read sqlite:///FILE"),
        ("postgresql://user:s3cret@host:port/x", "must read sqlite:///FILE"),
        ("sqlite:///nowhere/studies.db", "no such file"),
    ],
)
def test_open_storage_with_another_url_is_refused(url: str, law: str) -> None:
    with pytest.raises(StorageError, match=law) as refused:
        open_storage(url)
    assert "s3cret" not in str(refused.value)


def test_open_storage_on_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "studies.db").write_text("not a database" * 1000)
    with pytest.raises(StorageError, match="file is not a database"):
        open_storage(f"sqlite:///{tmp_path}/studies.db", create=True)


def test_open_storage_with_another_schema_version_is_refused(
    tmp_path: Path, storage: BatchedStorage
) -> None:
    with storage.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'v9.9.9'")
    with pytest.raises(StorageError, match=r"Optuna's version .*, found v9\.9\.9"):
        open_storage(f"sqlite:///{tmp_path}/folder/studies.db")


def test_open_storage_without_create_makes_no_tables(tmp_path: Path) -> None:
    open_database(f"sqlite:///{tmp_path}/studies.db", create=True).close()
    with pytest.raises(StorageError, match="no studies there"):
        open_storage(f"sqlite:///{tmp_path}/studies.db")
