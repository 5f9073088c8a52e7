"""optuna-dashboard on the storage: loopback only and read-only, for it knows no users."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import click
from optuna.artifacts import FileSystemArtifactStore
from optuna_dashboard import wsgi

from headsweep.studies.storage import BatchedStorage
from headsweep.studies.store import artifact_folder

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

LOOPBACK = "127.0.0.1"
READING = ("GET", "HEAD")
PAGES = re.compile(
    r"/|/favicon\.ico|/dashboard(/.*)?|/static/.+|/csv/\d+"
    r"|/api/meta|/api/studies|/api/studies/\d+(/param_importances|/plot/\w+)?"
    r"|/artifacts/\d+(/\d+)?/[0-9a-f-]+"
)
"""The routes of optuna-dashboard that only read."""


def serve(storage: BatchedStorage, *, port: int, writable: bool) -> None:
    """Serve the dashboard until interrupted.

    Raises:
        click.BadParameter: the port is taken.
    """
    app = guarded(application(storage), port=port, writable=writable)
    try:
        server = make_server(LOOPBACK, port, app, Server, QuietHandler)
    except OSError as error:
        raise click.BadParameter(
            f"the port must be free, found {port}: {error.strerror}", param_hint="'--port'"
        ) from None
    mode = "WRITABLE by whoever reaches this port" if writable else "read-only"
    with server, suppress(KeyboardInterrupt):
        click.echo(f"http://{LOOPBACK}:{server.server_port}/ ({mode}; Ctrl-C ends it)")
        server.serve_forever()


def application(storage: BatchedStorage) -> WSGIApplication:
    """optuna-dashboard on a storage, with the artifacts of its studies."""
    app: WSGIApplication = wsgi(storage, FileSystemArtifactStore(artifact_folder(storage)))
    return app


def guarded(app: WSGIApplication, *, port: int, writable: bool = False) -> WSGIApplication:
    """The application, answering only requests of this very host, and only those that read.

    A foreign Host header means that a web page has made its own name point here (DNS rebinding), a
    foreign Origin that a page from elsewhere asks.

    Args:
        app: optuna-dashboard.
        port: at which it is served.
        writable: whether any method and route may pass.
    """
    hosts = {f"{name}:{port}" for name in (LOOPBACK, "localhost")}
    origins = {None, *(f"http://{host}" for host in hosts)}

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("HTTP_HOST") not in hosts:
            return _refuse(start_response, "403 Forbidden", "the host must be this machine")
        if environ.get("HTTP_ORIGIN") not in origins:
            return _refuse(start_response, "403 Forbidden", "the origin must be this dashboard")
        if not writable and environ["REQUEST_METHOD"] not in READING:
            return _refuse(start_response, "405 Method Not Allowed", "only reading is allowed")
        if not writable and not PAGES.fullmatch(environ["PATH_INFO"]):
            return _refuse(start_response, "403 Forbidden", "the route must be one that reads")
        return app(environ, start_response)

    return answer


def _refuse(start_response: StartResponse, status: str, law: str) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{law}\n".encode()]


class Server(ThreadingMixIn, WSGIServer):
    """One thread a request, none of which outlives the server."""

    daemon_threads = True


class QuietHandler(WSGIRequestHandler):
    """A handler that logs nothing."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keep the terminal for the address."""
