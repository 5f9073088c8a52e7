"""The dashboard, served in a thread and asked or opened."""

from __future__ import annotations

import http.client
import io
import json
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
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


def answered(app: Any, path: str, query: str = "", accept: str = "identity") -> tuple[str, Any]:
    """Return the status and the parsed JSON of a request."""
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8080",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "HTTP_ACCEPT_ENCODING": accept,
    }
    begun: list[Any] = []
    body = b"".join(app(environ, lambda *start: begun.append(start)))
    status, headers, *_ = begun[-1]
    assert int(dict(headers)["Content-Length"]) == len(body)
    if dict(headers).get("Content-Encoding") == "deflate":
        body = zlib.decompress(body)
    return status, json.loads(body)


def comparable(answer: dict[str, Any]) -> dict[str, Any]:
    """Sort the choices of united search spaces, whose order is that of a set."""
    for space in ("intersection_search_space", "union_search_space"):
        for param in answer.get(space, []):
            param["distribution"].get("choices", []).sort(key=str)
    return answer
