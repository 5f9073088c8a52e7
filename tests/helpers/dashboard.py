"""The dashboard, served in a thread and asked or opened."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from wsgiref.simple_server import make_server

from headsweep.cli.dashboard import QuietHandler, Server, application, guarded
from headsweep.cli.dashboard_study import quick
from headsweep.storage.batched_storage import BatchedStorage
from tests.helpers.chromium import Page


@contextmanager
def served(storage: BatchedStorage, *, writable: bool = False) -> Iterator[int]:
    """The port at which a storage is served."""
    server = make_server("127.0.0.1", 0, lambda *asked: app(*asked), Server, QuietHandler)
    app = guarded(quick(application(storage), storage), port=server.server_port, writable=writable)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(port: int, method: str, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = headers.pop("body", None)
    connection.request(method, path, body=body, headers=headers)
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


def open_page(page: Page, port: int, path: str) -> None:
    page.complaints.clear()
    site = f"http://127.0.0.1:{port}/"
    page.visit(f"{site}dashboard{path}", site=site)
