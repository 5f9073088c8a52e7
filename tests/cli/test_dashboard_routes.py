"""Security of the dashboard: routes, methods, hosts, origins and artifacts that are refused.

`tests/cli/test_dashboard.py` tests the dashboard in normal use.
"""

from __future__ import annotations

import base64
import gc
import html
import io
import json
import re
import socket
import warnings
from collections.abc import Iterator
from typing import Any

import click
import optuna
import pytest

from headsweep.cli import dashboard
from headsweep.cli.dashboard import LOOPBACK, LastLine, application, guarded
from headsweep.storage.artifacts import ArtifactFolder
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.studies.storages import open_storage
from tests.helpers.chromium import browse
from tests.helpers.dashboard import open_page, served

# When bottle refuses a header, it leaves the open artifact file to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

PORT = 8080
OWN = f"127.0.0.1:{PORT}"
KEY = "0f0e0d0c-0b0a-4908-8706-050403020100"
"""An artifact id in Optuna's format."""

READING = (
    *("/", "/dashboard", "/dashboard/studies/1", "/favicon.ico", "/static/bundle.js"),
    *("/csv/1", "/api/meta", "/api/studies", "/api/studies/1"),
    *("/api/studies/1/param_importances", "/api/studies/1/plot/contour"),
    *(f"/artifacts/1/{KEY}", f"/artifacts/1/1/{KEY}"),
)
WRITING = (
    *(("POST", path) for path in ("/api/studies", "/api/studies/1/rename")),
    *(("POST", path) for path in ("/api/trials/1/tell", "/api/trials/1/user-attrs")),
    *(("POST", f"/api/studies/1/{tail}") for tail in ("preference", "preference/h", "1/skip")),
    *(("POST", path) for path in ("/api/artifacts/1", "/api/artifacts/1/1")),
    *(("PUT", path) for path in ("/api/studies/1/note", "/api/studies/1/1/note")),
    ("PUT", "/api/studies/1/preference_feedback_component"),
    *(("DELETE", path) for path in ("/api/studies/1", "/api/studies/1/preference/h")),
    *(("DELETE", f"/api/artifacts/1/{key}") for key in (KEY, f"1/{KEY}")),
)
DENIED = (
    *(("GET", path) for path in ("/incompatible-rdb-schema",)),
    *(("POST", "/incompatible-rdb-schema"), ("POST", "/api/llm/trial_filter_query")),
    ("POST", "/api/llm/generate_plotly_graph_query"),
    ("POST", "/api/llm/re_generate_plotly_graph_query"),
)
METHODS = (
    *("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"),
    *("get", "Get", "post", "PROPFIND", "ANY", "PROXY", "", "GET ", "G\tET", "DEBUG", "TRACK"),
)


class PassedError(Exception):
    """Raised by the inner application: the guard accepted the request."""


def let_through(environ: Any, start_response: Any) -> Any:
    raise PassedError


def asked(method: str, path: str, **environ: str) -> dict[str, Any]:
    own = {"HTTP_HOST": OWN, "HTTP_ORIGIN": f"http://{OWN}"}
    return {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": "", **own, **environ}


def passes(method: str, path: str, *, writable: bool, **environ: str) -> bool:
    guard = guarded(let_through, port=PORT, writable=writable)
    try:
        list(guard(asked(method, path, **environ), lambda status, headers: None))
    except PassedError:
        return True
    return False


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BatchedStorage]:
    """A storage with one study of one trial."""
    folder = tmp_path_factory.mktemp("store")
    storage = open_storage(f"sqlite:///{folder}/study.db", create=True)
    optuna.create_study(study_name="seen", storage=storage).ask()
    yield storage
    storage.database.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_routes_of_optuna_dashboard_are_all_decided_on(storage):
    """Fails for an optuna-dashboard with a new route until the route is added to a list above."""
    app: Any = application(storage)
    placed = {*(("GET", path) for path in READING), *WRITING, *DENIED}
    matched = {(route.method, route.rule): False for route in app.routes}
    for method, path in placed:
        route, _ = app.router.match({"REQUEST_METHOD": method, "PATH_INFO": path})
        matched[route.method, route.rule] = True
    assert [rule for rule, seen in matched.items() if not seen] == []


def test_guard_read_only_passes_only_reading_routes_and_methods():
    tried = 0
    for path in {*READING, *(path for _, path in (*WRITING, *DENIED))}:
        for method in METHODS:
            due = path in READING and method in ("GET", "HEAD")
            assert passes(method, path, writable=False) == due, (method, path)
            tried += 1
    print(f"{tried} pairs of method and route")


def test_guard_when_writable_passes_only_known_routes():
    for path in {*READING, *(path for _, path in (*WRITING, *DENIED))}:
        for method in METHODS:
            due = (path in READING and method in ("GET", "HEAD")) or (method, path) in WRITING
            assert passes(method, path, writable=True) == due, (method, path)


@pytest.mark.parametrize("writable", [False, True])
def test_guard_with_a_method_override_keeps_the_method(writable):
    overriding = {"HTTP_X_HTTP_METHOD_OVERRIDE": "DELETE", "HTTP_X_METHOD_OVERRIDE": "DELETE"}
    overriding |= {"HTTP_X_HTTP_METHOD": "DELETE", "QUERY_STRING": "_method=DELETE"}
    assert not passes("POST", "/api/studies/1", writable=writable, **overriding)
    assert not passes("DELETE", "/api/meta", writable=True, HTTP_X_HTTP_METHOD_OVERRIDE="GET")


def test_dashboard_with_a_method_override_ignores_it(storage):
    with served(storage) as port:
        status, _, _ = whole(port, "GET", "/api/studies/1", {"X-HTTP-Method-Override": "DELETE"})
        assert status == 200
        assert [study.study_name for study in storage.get_all_studies()] == ["seen"]


HOSTS = (
    *("evil.example", f"evil.example:{PORT}", "127.0.0.1", "localhost", f"127.0.0.1:{PORT + 1}"),
    *(f"127.0.0.1.:{PORT}", f"localhost.:{PORT}", f"127.0.0.1.nip.io:{PORT}", f"0.0.0.0:{PORT}"),
    *(
        f"[::1]:{PORT}",
        "[::1]",
        f"[::ffff:127.0.0.1]:{PORT}",
        f"127.1:{PORT}",
        f"2130706433:{PORT}",
    ),
    *(f"0x7f.1:{PORT}", f"127.0.0.2:{PORT}", f"a@127.0.0.1:{PORT}", f"127.0.0.1:{PORT}@evil"),
    *(f"127.0.0.1:{PORT}.evil.example", f"127.0.0.1:{PORT},evil.example", f"127.0.0.1:0{PORT}"),
    *(f"evil.example#127.0.0.1:{PORT}", f"127.0.0.1:{PORT}/", f"127.0.0.1:{PORT}\r\nX: y", ""),
    *(f"LOCALHOST.EVIL:{PORT}", f" 127.0.0.1:{PORT}", f"127.0.0.1 :{PORT}", "null", "*"),
)


@pytest.mark.parametrize("writable", [False, True])
def test_guard_with_another_host_refuses(writable):
    """A name that resolves to this machine may belong to another site, with its scripts."""
    for host in HOSTS:
        assert not passes("GET", "/api/studies", writable=writable, HTTP_HOST=host), host
    assert passes("GET", "/api/studies", writable=writable, HTTP_HOST=f"localhost:{PORT}")


@pytest.mark.parametrize("writable", [False, True])
def test_guard_with_another_origin_refuses(writable):
    origins = [f"http://{host}" for host in HOSTS]
    origins += [f"https://{OWN}", f"http://{OWN}/", f"file://{OWN}", "null", "file://", OWN]
    for origin in origins:
        assert not passes("GET", "/api/studies", writable=writable, HTTP_ORIGIN=origin), origin
        assert not passes("POST", "/api/studies", writable=writable, HTTP_ORIGIN=origin), origin


def test_guard_when_writing_without_an_origin_refuses():
    """A form of another site may omit the header; the dashboard's own pages always send it."""
    guard = guarded(let_through, port=PORT, writable=True)
    environ = asked("POST", "/api/studies")
    del environ["HTTP_ORIGIN"]
    assert b"Origin" in b"".join(guard(environ, lambda status, headers: None))
    environ["REQUEST_METHOD"] = "GET"
    with pytest.raises(PassedError):
        guard(environ, lambda status, headers: None)


def test_serve_listens_on_the_loopback_only(storage, monkeypatch, capsys):
    """The server binds to 127.0.0.1 only; fails when `LOOPBACK` is 0.0.0.0."""
    bound = []

    class StoppedError(Exception):
        pass

    def stop(server: Any) -> None:
        bound.append(server.socket.getsockname()[0])
        raise StoppedError

    monkeypatch.setattr(dashboard.Server, "serve_forever", stop)
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = free.getsockname()[1]
    with pytest.raises(StoppedError):
        dashboard.serve(storage, port=port, writable=False)
    assert bound == ["127.0.0.1"]
    assert "read-only" in capsys.readouterr().out


TRAVERSALS = (
    *("/static/", "/static", "/static/.", "/static/..", "/static/../index.html", "/static/..%2f"),
    *("/static/../../../../../../etc/passwd", "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd"),
    *("/static//etc/passwd", "/static/%2fetc%2fpasswd", "/static/..\\..\\setup.py", "/static/\0"),
    *("/static/%00", "/static/bundle.js%00.png", "/static/..;/index.html", "/static/img/"),
    *("/artifacts/", "/artifacts/1/", "/artifacts/1/..", "/artifacts/1/../../study.db"),
    *("/artifacts/1/%2e%2e%2fstudy.db", "/artifacts/1/study.db", "/artifacts/1/-", "/artifacts/1"),
    *("/artifacts/99/0", "/artifacts/1/99/0", "/artifacts/-1/0", "/artifacts/1/%2e%2e", "/csv/"),
    *("/artifacts/1/0\n", "/artifacts/1/deadbeef", "/csv/../api/studies", "/csv/99", "/csv/-1"),
    *("//", "///etc/passwd", "/dashboard/../study.db", "/..", "/../study.db", "/favicon.ico/.."),
    *("/%2e%2e/study.db", "/api/studies/../../study.db", "/api/studies/1/plot/../../../x"),
    *("http://127.0.0.1/static/x", "/api/studies/9999999999999999999999", "/api/studies/١"),
)


def whole(
    port: int, method: str, path: str, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body; the path is sent without normalization."""
    lines = {"Host": f"127.0.0.1:{port}", "Connection": "close", **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    with socket.create_connection((LOOPBACK, port), timeout=60) as connection:
        connection.sendall(f"{method} {path} HTTP/1.0\r\n{head}\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    start, _, body = answer.partition(b"\r\n\r\n")
    status, *rest = start.decode("latin-1").split("\r\n")
    named = dict(line.split(": ", 1) for line in rest if ": " in line)
    return int(status.split()[1]) if status else 0, named, body


def test_dashboard_with_a_path_out_of_a_folder_refuses(storage, capfd):
    """`/dashboard/…` always returns the same page; every other such path must be refused."""
    artifacts = ArtifactFolder(storage).path
    artifacts.mkdir(exist_ok=True)
    secret = (artifacts.parent / "study.db").read_bytes()[:16]
    with served(storage) as port:
        index = whole(port, "GET", "/dashboard")[2]
        for path in TRAVERSALS:
            status, _, body = whole(port, "GET", path.replace("\n", "%0a").replace("\0", "%00"))
            assert secret not in body, path
            assert b"root:" not in body, path
            assert b"Index of" not in body, path
            assert status >= 400 or status == 302 or body == index, (path, status, body[:200])
    assert "Traceback" not in capfd.readouterr().err


def attach(storage: BatchedStorage, content: bytes, **meta: Any) -> str:
    """Store an artifact as another program would, and return its URL path."""
    ArtifactFolder(storage).write(KEY, io.BytesIO(content))
    about = json.dumps({"artifact_id": KEY, "filename": "x", "encoding": None} | meta)
    storage.set_study_system_attr(1, f"artifacts:{KEY}", about)
    return f"/artifacts/1/{KEY}"


SCRIPT = b"<html><script>document.title = 'run'; window.ran = 1</script></html>"
TYPES = (
    *("text/html", "image/svg+xml", "application/xhtml+xml", "text/xml", "application/xml"),
    *("text/javascript", "TEXT/HTML", "text/html; charset=utf-8", "image/png, text/html", ""),
    *("application/pdf", "multipart/x-mixed-replace", "text/html\r\nX-Evil: 1", "image/png\nx: y"),
    *(
        " text/html",
        "*/*",
        "x",
        "message/rfc822",
        "text/cache-manifest",
        7,
        None,
        ["text/html"],
        {},
    ),
)


def answered(storage: BatchedStorage, path: str) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of the guarded application, without a server."""
    begun: list[Any] = []
    environ = asked("GET", path) | {"wsgi.errors": LastLine(), "SERVER_PROTOCOL": "HTTP/1.0"}
    body = guarded(application(storage), port=PORT)(environ, lambda *start: begun.append(start))
    content = b"".join(body)
    getattr(body, "close", lambda: None)()
    status, headers, *_ = begun[-1]
    return int(status.split()[0]), dict(headers), content


def test_artifact_is_never_served_as_a_page(storage, capfd):
    """The database names the content type, and anyone who can write to it may set `text/html`."""
    for encoding in (None, "evil\r\nX: y"):
        for kind in TYPES:
            path = attach(storage, SCRIPT, mimetype=kind, filename="a.html", encoding=encoding)
            status, headers, _ = answered(storage, path)
            assert status in (200, 500), kind
            assert headers["Content-Type"] == "application/octet-stream", kind
            assert_tame(headers)
            assert headers["Content-Disposition"] == "attachment", kind
            assert not {"X-Evil", "X", "x", "Access-Control-Allow-Origin"} & headers.keys(), kind
    for kind in ("image/png", "image/jpeg"):
        status, headers, body = answered(storage, attach(storage, b"\x89PNG", mimetype=kind))
        assert (status, headers["Content-Type"], body) == (200, kind, b"\x89PNG")
    said = capfd.readouterr().err
    assert "control characters" in said
    assert "Traceback" not in said


def assert_tame(headers: dict[str, str]) -> None:
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "Content-Security-Policy" in headers


def test_answer_forbids_framing_sniffing_and_foreign_scripts(storage):
    with served(storage) as port:
        for path in (*READING, "/nowhere", "/api/studies/99"):
            assert_tame(whole(port, "GET", path)[1])
        policy = whole(port, "GET", "/dashboard")[1]["Content-Security-Policy"]
        assert "unsafe-inline" not in re.sub("style-src [^;]*", "", policy)
        _, headers, _ = whole(port, "GET", "/api/studies")
        assert headers["Content-Security-Policy"] == "sandbox; default-src 'none'"


def test_uploaded_page_does_not_run_in_a_browser(storage, tmp_path, chromium):
    """The same holds for an artifact that another program stored with the type of a page."""
    with served(storage, writable=True) as port, browse(tmp_path) as page:
        file = f"data:text/html;base64,{base64.b64encode(SCRIPT).decode()}"
        upload = json.dumps({"file": file, "filename": "page.html"})
        open_page(page, port, "/studies/1")
        sent = (
            "fetch('/api/artifacts/1', {method: 'POST', headers: {'Content-Type': "
            f"'application/json'}}, body: {json.dumps(upload)}}})"
            ".then(answer => answer.json()).then(found => { window.key = found.artifact_id })"
        )
        page.value(f"void {sent}")
        page.wait_until("window.key !== undefined")
        uploaded = f"/artifacts/1/{page.value('window.key')}"
        stored = attach(storage, SCRIPT, mimetype="text/html", filename="page.html")
        for path in (uploaded, stored):
            page.value(f"void window.open('{path}')")
            frame = f"<iframe srcdoc='' id=f></iframe><iframe src={html.escape(path)}></iframe>"
            page.value(f"void document.body.insertAdjacentHTML('beforeend', `{frame}`)")
            page.value(f"void fetch('{path}').then(a => a.text()).then(t => {{ window.read = t }})")
            page.wait_until("window.read !== undefined")
            assert page.value("window.read") == SCRIPT.decode()
            ran = "[...document.querySelectorAll('iframe')].some(f => { try { return"
            ran += " f.contentWindow.ran === 1 } catch { return false } }) || window.ran === 1"
            assert page.value(ran) is False
            assert page.value("document.title") != "run"
            page.value("delete window.read")


def test_dashboard_with_a_port_out_of_range_is_refused(headsweep):
    for port in ("0", "65536", "-1", "a"):
        assert headsweep("dashboard", "--port", port).code == click.UsageError.exit_code
