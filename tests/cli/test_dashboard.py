"""The dashboard serves optuna-dashboard on this machine only, and read-only by default."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import create_trial
from sqlalchemy import event

from headsweep.settings import WorkerSettings
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.storage.optuna_tables import trial_id
from headsweep.studies.storages import open_storage
from headsweep.studies.study import StoredStudy
from headsweep.studies.worker_session import join
from tests.helpers.chromium import Page, browse
from tests.helpers.dashboard import ask, open_page, served
from tests.helpers.study_specs import make_spec


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[BatchedStorage]:
    """A storage with one study."""
    storage = open_storage(f"sqlite:///{tmp_path}/study.db", create=True)
    optuna.create_study(study_name="seen", storage=storage)
    yield storage
    storage.database.close()


@pytest.fixture
def port(storage: BatchedStorage) -> Iterator[int]:
    with served(storage) as port:
        yield port


def studies(port: int) -> list[str]:
    status, body = ask(port, "GET", "/api/studies")
    assert status == 200
    return [study["study_name"] for study in json.loads(body)["study_summaries"]]


def test_dashboard_shows_the_studies_of_the_storage(port):
    assert studies(port) == ["seen"]
    assert ask(port, "GET", "/dashboard/", Host=f"localhost:{port}")[0] == 200
    assert ask(port, "HEAD", "/dashboard/")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "anything"])
def test_dashboard_with_a_writing_method_is_refused(port, method):
    assert ask(port, method, "/api/studies/1")[0] == 405
    assert ask(port, method, "/api/studies")[0] == 405
    assert studies(port) == ["seen"]


@pytest.mark.parametrize("path", ["/api", "/api/studies/1/note", "/new", "/artifacts/../study.db"])
def test_dashboard_with_an_unknown_route_is_refused(port, path):
    assert ask(port, "GET", path)[0] == 403


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1:1", " "])
def test_dashboard_with_a_foreign_host_is_refused(storage, writable, host):
    """DNS rebinding: a site whose name resolves to 127.0.0.1 sends that name as Host."""
    with served(storage, writable=writable) as port:
        named = host.format(port=port)
        assert ask(port, "GET", "/api/studies", Host=named)[0] == 403
        assert ask(port, "DELETE", "/api/studies/1", Host=named)[0] == 403
        assert studies(port) == ["seen"]


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_dashboard_with_a_foreign_origin_is_refused(storage, writable, origin):
    with served(storage, writable=writable) as port:
        assert ask(port, "GET", "/api/studies", Origin=origin)[0] == 403
        assert ask(port, "DELETE", "/api/studies/1", Origin=origin)[0] == 403
        assert studies(port) == ["seen"]


def test_dashboard_when_writable_writes(storage):
    with served(storage, writable=True) as port:
        own = {"Origin": f"http://127.0.0.1:{port}", "Content-Type": "application/json"}
        note = json.dumps({"version": 1, "body": "seen by people"})
        assert ask(port, "PUT", "/api/studies/1/note", body=note, **own)[0] == 204
        assert ask(port, "DELETE", "/api/studies/1", **own)[0] == 204
        assert studies(port) == []


def test_dashboard_on_a_taken_port_is_a_usage_error(headsweep, tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    open_storage(url, create=True).database.close()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = headsweep("dashboard", "--storage", url, "--port", port)
    assert ended.code == 2
    assert f"port {port} cannot be used" in ended.err


def statements_of_a_refresh(storage: BatchedStorage) -> int:
    """Return the number of SQL statements for a study page whose trials were already read."""
    statements: list[object] = []
    event.listen(storage.database.engine, "before_cursor_execute", lambda *a: statements.append(a))
    # A new server, since optuna-dashboard caches its data for some seconds.
    with served(storage) as port:
        assert ask(port, "GET", "/api/studies/1")[0] == 200
    return len(statements)


def test_dashboard_refresh_reads_only_new_trials(storage):
    """Trials are cached: a refresh with 70 trials costs as many statements as one with 10."""
    study = optuna.load_study(study_name="seen", storage=storage)
    costs = []
    for n in (10, 60):
        study.add_trials(
            [create_trial(value=i / n, intermediate_values={1: 0.1, 3: i / n}) for i in range(n)]
        )
        storage.sync(1)
        costs.append(statements_of_a_refresh(storage))
    assert costs[0] == costs[1] < 25


# In a real browser.


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, chromium: None) -> Iterator[Page]:
    with browse(tmp_path_factory.mktemp("chromium")) as page:
        yield page


def test_dashboard_of_a_running_study_is_shown_in_a_browser(tmp_path, page):
    """Running trials of another connection are shown, and their new values after a reload."""
    url = f"sqlite:///{tmp_path}/study.db"
    with contextlib.closing(open_storage(url, create=True).database):
        StoredStudy.create(make_spec(tmp_path), open_storage(url))
    with join("probe", url, WorkerSettings(), worker="one") as session:
        first, *others = [trial_id(trial) for trial in session.claim(4).trials]
        for epoch in (1, 3):
            for key in (first, *others)[epoch > 1 :]:
                session.report(key, epoch, 0.5 + epoch / 100)
            if epoch == 1:
                session.complete(first, 0.625, epochs=1)
            session.flush()
            with served(open_storage(url)) as port:
                open_page(page, port, "/studies/1")
                page.wait_for("probe")
                page.wait_for("History")
                open_page(page, port, "/studies/1/trials?numbers=1")
                page.wait_for("Running")
                page.wait_for("training.learning_rate")
                status, body = ask(port, "GET", "/api/studies/1")
            assert status == 200
            trials = json.loads(body)["trials"]
            assert [trial["state"] for trial in trials] == ["Complete", *["Running"] * 3]
            assert trials[1]["intermediate_values"][-1]["step"] == epoch
            assert page.complaints == []
