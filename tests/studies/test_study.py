"""Studies in a store: created once, continued, refused; and no password ever shown."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from headsweep.errors import StorageError, StudyError
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.storage.connections import open_database, shown_url
from headsweep.studies.study import (
    create_or_continue,
    load_spec,
    next_worker_index,
    open_storage,
    pin_data,
    pinned_data,
)
from tests.helpers.study_specs import make_spec


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[BatchedStorage]:
    storage = open_storage(f"sqlite:///{tmp_path}/folder/studies.db", create=True)
    yield storage
    storage.database.close()


def test_a_study_is_read_as_it_was_created(tmp_path: Path, storage: BatchedStorage) -> None:
    spec = make_spec(tmp_path)
    create_or_continue(spec, storage)
    assert load_spec("probe", storage) == spec
    assert storage.get_study_directions(1) == [optuna.study.StudyDirection.MAXIMIZE]


def test_a_study_is_continued_under_its_definition_alone(
    tmp_path: Path, storage: BatchedStorage
) -> None:
    study_id = create_or_continue(make_spec(tmp_path), storage)
    elsewhere = make_spec(tmp_path, "paths.data_root=elsewhere")
    assert create_or_continue(elsewhere, storage) == study_id
    assert load_spec("probe", storage).config.paths.data_root == "elsewhere"
    with pytest.raises(StudyError, match="max_epochs was 9 and is 8"):
        create_or_continue(make_spec(tmp_path, "training.max_epochs=8"), storage)


def test_a_budget_may_grow_and_not_shrink(tmp_path: Path, storage: BatchedStorage) -> None:
    create_or_continue(make_spec(tmp_path), storage)
    create_or_continue(make_spec(tmp_path, "study.n_trials=50"), storage)
    assert load_spec("probe", storage).n_trials == 50
    with pytest.raises(StudyError, match="may only grow from 50, found 40"):
        create_or_continue(make_spec(tmp_path), storage)


def test_a_study_of_stock_optuna_is_not_taken_over(tmp_path: Path, storage: BatchedStorage) -> None:
    optuna.create_study(storage=storage, study_name="probe", direction="maximize").ask()
    with pytest.raises(StudyError, match=r"trials of another program \(1 RUNNING\)"):
        create_or_continue(make_spec(tmp_path), storage)


def test_a_study_that_is_not_there_is_named_beside_those_that_are(
    tmp_path: Path, storage: BatchedStorage
) -> None:
    create_or_continue(make_spec(tmp_path), storage)
    with pytest.raises(StudyError, match=r"found no 'prob' \(there: probe\)"):
        load_spec("prob", storage)


def test_a_study_stays_with_its_data(tmp_path: Path, storage: BatchedStorage) -> None:
    study_id = create_or_continue(make_spec(tmp_path), storage)
    data = {"train manifest": "aa", "train visual features": "bb"}
    pin_data(study_id, data, storage)
    pin_data(study_id, data, storage)
    assert pinned_data(study_id, storage) == data
    with pytest.raises(StudyError, match="train manifest: the data must be those"):
        pin_data(study_id, data | {"train manifest": "cc"}, storage)


def test_every_worker_has_its_own_number(tmp_path: Path, storage: BatchedStorage) -> None:
    study_id = create_or_continue(make_spec(tmp_path), storage)
    assert [next_worker_index(study_id, storage) for _ in range(3)] == [0, 1, 2]


def test_processes_may_race_to_create_a_store(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    program = (
        "import sys; from headsweep.studies.study import *; open_storage(sys.argv[1], create=True)"
    )
    racers = [subprocess.Popen([sys.executable, "-c", program, url]) for _ in range(4)]
    assert [racer.wait() for racer in racers] == [0, 0, 0, 0]


def test_stock_optuna_reads_and_writes_the_same_database(
    tmp_path: Path, storage: BatchedStorage
) -> None:
    study_id = create_or_continue(make_spec(tmp_path), storage)
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
def test_an_unreachable_storage_is_refused_without_its_password(url: str) -> None:
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
        ("mysql://user:s3cret@host/studies", "found mysql"),
        ("sqlite://", "found sqlite"),
        ("studies.db", "must read sqlite:///FILE"),
        ("postgresql://user:s3cret@host:port/x", "must read sqlite:///FILE"),
        ("sqlite:///nowhere/studies.db", "the storage must exist, found none"),
    ],
)
def test_other_storages_are_refused(url: str, law: str) -> None:
    with pytest.raises(StorageError, match=law) as refused:
        open_storage(url)
    assert "s3cret" not in str(refused.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "studies.db").write_text("not a database" * 1000)
    with pytest.raises(StorageError, match="file is not a database"):
        open_storage(f"sqlite:///{tmp_path}/studies.db", create=True)


def test_a_schema_of_another_version_is_refused(tmp_path: Path, storage: BatchedStorage) -> None:
    with storage.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'v9.9.9'")
    with pytest.raises(StorageError, match=r"Optuna's version .*, found v9\.9\.9"):
        open_storage(f"sqlite:///{tmp_path}/folder/studies.db")


def test_the_first_write_creates_and_a_read_does_not(tmp_path: Path) -> None:
    open_database(f"sqlite:///{tmp_path}/studies.db", create=True).close()
    with pytest.raises(StorageError, match="must hold studies, found none"):
        open_storage(f"sqlite:///{tmp_path}/studies.db")
