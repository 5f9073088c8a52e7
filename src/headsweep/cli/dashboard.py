"""optuna-dashboard on the storage: loopback only and read-only, for it knows no users."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import click
from optuna.storages import BaseStorage
from optuna_dashboard import wsgi

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

LOOPBACK = "127.0.0.1"
READING = ("GET", "HEAD")


def serve(storage: BaseStorage, *, port: int) -> None:
    """Serve the dashboard until interrupted.

    Raises:
        click.BadParameter: the port is taken.
    """
    app = guarded(wsgi(storage), port=port)
    try:
        server = make_server(LOOPBACK, port, app, _Server, _QuietHandler)
    except OSError as error:
        raise click.BadParameter(
            f"the port must be free, found {port}: {error.strerror}", param_hint="'--port'"
        ) from None
    with server, suppress(KeyboardInterrupt):
        click.echo(f"http://{LOOPBACK}:{server.server_port}/ (read-only; Ctrl-C ends it)")
        server.serve_forever()


def guarded(app: WSGIApplication, *, port: int) -> WSGIApplication:
    """The application, answering only requests that read and that name this very host.

    A foreign Host header means that a web page has made its own name point here (DNS rebinding).
    """
    hosts = {f"{name}:{port}" for name in (LOOPBACK, "localhost")}

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in READING:
            return _refuse(start_response, "405 Method Not Allowed", "only reading is allowed")
        if environ.get("HTTP_HOST") not in hosts:
            return _refuse(start_response, "403 Forbidden", "the host must be this machine")
        return app(environ, start_response)

    return answer


def _refuse(start_response: StartResponse, status: str, law: str) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{law}\n".encode()]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keep the terminal for the address."""
