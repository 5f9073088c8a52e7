"""The dashboard serves optuna-dashboard to this machine alone, and only to be read."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from wsgiref.simple_server import make_server

import optuna
import pytest
from optuna_dashboard import wsgi

from headsweep.cli.dashboard import guarded
from headsweep.studies.store import open_storage


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A served store that holds one study."""
    storage = open_storage(f"sqlite:///{tmp_path}/study.db", create=True)
    optuna.create_study(study_name="seen", storage=storage)
    server = make_server("127.0.0.1", 0, lambda environ, start: app(environ, start))
    app = guarded(wsgi(storage), port=server.server_port)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()
    storage.database.close()


def ask(port: int, method: str, path: str, host: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, headers={"Host": host} if host else {})
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


def test_it_shows_the_studies_of_the_store(port):
    status, body = ask(port, "GET", "/api/studies")
    assert status == 200
    assert [s["study_name"] for s in json.loads(body)["study_summaries"]] == ["seen"]
    assert ask(port, "GET", "/dashboard/", f"localhost:{port}")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_it_refuses_to_change_anything(port, method):
    assert ask(port, method, "/api/studies/1")[0] == 405
    _, body = ask(port, "GET", "/api/studies")
    assert len(json.loads(body)["study_summaries"]) == 1


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1:1", ""])
def test_it_refuses_a_foreign_host(port, host):
    """A page that points its own name at 127.0.0.1 sends that name."""
    assert ask(port, "GET", "/api/studies", host.format(port=port) or " ")[0] == 403


def test_a_taken_port_is_a_usage_error(headsweep, tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    open_storage(url, create=True).database.close()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = headsweep("dashboard", "--storage", url, "--port", port)
    assert ended.code == 2
    assert "the port must be free" in ended.err
