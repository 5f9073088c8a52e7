"""A PostgreSQL server that is stopped for a while: every reader and writer waits for it."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headsweep.errors import UnreachableStorageError
from headsweep.settings import WorkerSettings
from headsweep.storage import connections
from headsweep.storage.optuna_tables import trial_id
from headsweep.studies.storages import open_storage
from headsweep.studies.study import StoredStudy
from headsweep.studies.worker_session import join
from tests.helpers.command_line import Ended
from tests.helpers.dashboard import ask, served
from tests.helpers.postgres import Server, new_server
from tests.helpers.study_specs import make_spec

AWAY_S = 2.0

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """A server that these tests may stop."""
    server = new_server(Path("/tmp"))
    yield server
    server.stop()
    shutil.rmtree(server.folder)


@pytest.fixture
def url(own_server: Server, tmp_path: Path) -> str:
    """A study of four trials, two of them complete."""
    url = own_server.url(own_server.new_database())
    StoredStudy.create(make_spec(tmp_path, "study.n_trials=4"), url).close()
    with join("probe", url, WorkerSettings(), worker="one") as session:
        for trial in session.claim(2).trials:
            session.complete(trial_id(trial), 0.5, epochs=1)
        session.flush()
    return url


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    """Stop the server, and start it again `AWAY_S` later."""
    server.stop()
    again = threading.Timer(AWAY_S, server.start)
    again.start()
    yield
    again.join()


def test_commands_that_begin_while_the_server_is_stopped_wait(
    own_server: Server, url: str, tmp_path: Path, headsweep: Callable[..., Ended]
) -> None:
    for command in (("status",), ("export", "probe", "-o", tmp_path / "best.yaml")):
        with stopped(own_server):
            ended = headsweep(*command, "--storage", url)
        assert (ended.code, ended.err.count("Error")) == (0, 0), ended


def test_study_when_the_server_is_stopped_reads_and_writes_after_it_is_back(
    own_server: Server, url: str
) -> None:
    """`StoredStudy` is what `run`, `launch local`, `finalize` and the notebook use."""
    with StoredStudy.open("probe", url) as study:
        for act in (
            study.summary,
            lambda: study.pin_data({"train.csv": "1"}),
            lambda: study.amend_attr("note", lambda old: 1),
            lambda: study.storage.set_study_system_attr(study.study_id, "note", 1),
            lambda: study.storage.create_new_trial(study.study_id),
        ):
            began = time.monotonic()
            with stopped(own_server):
                act()
            assert time.monotonic() - began > AWAY_S / 2
        assert study.summary().states["RUNNING"] == 1


def test_worker_when_the_server_is_stopped_records_every_trial_once(
    own_server: Server, url: str
) -> None:
    with join("probe", url, WorkerSettings(), worker="one") as session:
        with stopped(own_server):
            trials = session.claim(2).trials
        for trial in trials:
            session.complete(trial_id(trial), 0.75, epochs=1)
        with stopped(own_server):
            assert session.flush() == frozenset()
        with stopped(own_server):
            assert session.claim(1).over
        assert [t.value for t in session.study.trials()] == [0.5, 0.5, 0.75, 0.75]


def test_dashboard_when_the_server_is_stopped_answers_when_it_is_back(
    own_server: Server, url: str
) -> None:
    with served(open_storage(url, outage_s=30)) as port:
        with stopped(own_server):
            status, body = ask(port, "GET", "/api/studies")
        assert (status, b"probe" in body) == (200, True)


def test_outage_that_lasts_too_long_ends_with_one_line(
    own_server: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "OUTAGE_S", 1.0)
    monkeypatch.setattr(connections, "OPENING_S", 0.5)
    with StoredStudy.open("probe", url) as study:
        own_server.stop()
        try:
            for act in (study.summary, lambda: open_storage(url)):
                began = time.monotonic()
                with pytest.raises(
                    UnreachableStorageError, match=r"^cannot reach postgres"
                ) as told:
                    act()
                assert "\n" not in str(told.value)
                assert time.monotonic() - began < 30
        finally:
            own_server.start()
