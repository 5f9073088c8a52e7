"""Serve optuna-dashboard on the storage: on loopback and read-only, because it has no users."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import click
from optuna_dashboard import wsgi

from headsweep.cli import exits
from headsweep.cli.dashboard_study import quick
from headsweep.storage.artifacts import ArtifactFolder
from headsweep.storage.batched_storage import BatchedStorage

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

LOOPBACK = "127.0.0.1"
REQUEST_OUTAGE_S = 30.0
"""How long a request waits for an unreachable database; the page repeats it by itself."""
_READS = re.compile(
    r"/|/favicon\.ico|/dashboard(/.*)?|/static/.+|/csv/\d+"
    r"|/api/meta|/api/studies|/api/studies/\d+(/param_importances|/plot/\w+)?"
    r"|/artifacts/\d+(/\d+)?/[0-9a-f-]{36}"
)
_WRITES = {
    "POST": re.compile(
        r"/api/studies(/\d+/(rename|preference(/\w+)?|\d+/skip))?"
        r"|/api/trials/\d+/(tell|user-attrs)|/api/artifacts/\d+(/\d+)?"
    ),
    "PUT": re.compile(
        r"/api/studies/\d+(/\d+)?/note|/api/studies/\d+/preference_feedback_component"
    ),
    "DELETE": re.compile(
        r"/api/studies/\d+(/preference/\w+)?|/api/artifacts/\d+(/\d+)?/[0-9a-f-]{36}"
    ),
}
"""The routes of optuna-dashboard that read, and those that write, by their methods."""
_PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
_NO_PAGE = "sandbox; default-src 'none'"
"""The content security policy of all answers but the dashboard's own page."""


def serve(storage: BatchedStorage, *, port: int, writable: bool, all_points: bool = False) -> None:
    """Serve the dashboard until interrupted.

    Args:
        storage: the storage.
        port: where it is served.
        writable: whether it may change and delete studies.
        all_points: whether pages of large studies get every trial and its learning curve.

    Raises:
        click.BadParameter: the port is taken.
    """
    app = quick(application(storage), storage, all_points=all_points)
    app = guarded(app, port=port, writable=writable)
    logging.getLogger("optuna_dashboard").addHandler(OneLine())
    try:
        server = make_server(LOOPBACK, port, app, Server, QuietHandler)
    except OSError as error:
        raise click.BadParameter(
            f"port {port} cannot be used: {error.strerror}", param_hint="'--port'"
        ) from None
    mode = "WRITABLE by anyone who can reach this port" if writable else "read-only"
    with server, suppress(KeyboardInterrupt):
        click.echo(f"http://{LOOPBACK}:{server.server_port}/ ({mode}; Ctrl-C stops it)")
        server.serve_forever()


def application(storage: BatchedStorage) -> WSGIApplication:
    """Return optuna-dashboard on a storage, with the artifacts of its studies."""
    app: WSGIApplication = wsgi(storage, ArtifactFolder(storage))
    return app


def guarded(app: WSGIApplication, *, port: int, writable: bool = False) -> WSGIApplication:
    """Wrap the application so that it answers only requests of this host, on known routes.

    A foreign Host header means that a web page has made its own name point here (DNS rebinding), a
    foreign Origin that the request comes from a page of another site. The content types of
    artifacts come from an untrusted database, so artifacts are pictures or downloads, never pages.

    Args:
        app: optuna-dashboard.
        port: at which it is served.
        writable: whether methods and routes that write may pass.

    Returns:
        The guarded application.
    """
    hosts = {f"{name}:{port}" for name in (LOOPBACK, "localhost")}
    origins = {f"http://{host}" for host in hosts}

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        reads = method in ("GET", "HEAD")

        def start(status: str, headers: Sequence[tuple[str, str]], *error: Any) -> Any:
            return start_response(status, _restricted(path, headers), *error)

        if environ.get("HTTP_HOST") not in hosts:
            return _refuse(start, "403 Forbidden", "the Host header names another host")
        origin = environ.get("HTTP_ORIGIN")
        if origin not in (*origins, None):
            return _refuse(start, "403 Forbidden", "the Origin header names another page")
        if not reads and not (writable and method in _WRITES):
            return _refuse(start, "405 Method Not Allowed", "the dashboard is read-only")
        if not reads and origin is None:
            return _refuse(start, "403 Forbidden", "the Origin header is missing")
        if not (_READS if reads else _WRITES[method]).fullmatch(path):
            return _refuse(start, "403 Forbidden", "unknown route")
        environ.setdefault("HTTP_ACCEPT_ENCODING", "identity")  # optuna-dashboard needs one
        return app(environ, start)

    return answer


def _restricted(path: str, headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the headers of an answer, restricted so that a browser runs nothing from it."""
    given = {name.title(): value for name, value in headers}
    if path.startswith("/artifacts/"):
        kind = given.get("Content-Type")
        given = {name: given[name] for name in ("Content-Length",) if name in given}
        given["Content-Type"] = kind if kind in _PICTURES else "application/octet-stream"
        given["Content-Disposition"] = "attachment"
    given.pop("Access-Control-Allow-Origin", None)
    return [*({"Content-Security-Policy": _NO_PAGE} | given | _SAFE_HEADERS).items()]


def _refuse(start: Any, status: str, reason: str) -> Iterable[bytes]:
    start(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{reason}\n".encode()]


def _print(line: str) -> None:
    click.echo(exits.printable(exits.redact(line)), err=True)


class OneLine(logging.Handler):
    """Log handler that prints the first line of each record, without the traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        _print(record.getMessage().partition("\n")[0])


class LastLine(io.StringIO):
    """Error stream of a request that prints only the last line of each traceback."""

    def flush(self) -> None:
        """Print the last line of what was written since the last call."""
        lines = [line for line in self.getvalue().split("\n") if line.strip()]
        self.seek(0)
        self.truncate()
        if lines:
            _print(lines[-1])


class Server(ThreadingMixIn, WSGIServer):
    """Server with one thread for each request; no thread outlives the server."""

    daemon_threads = True


class QuietHandler(WSGIRequestHandler):
    """Request handler that logs no requests, and errors in one line."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keep the terminal for the address."""

    def get_stderr(self) -> LastLine:
        """Return a stream that prints only the last line of a traceback."""
        return LastLine()
