"""Measure the load of workers on PostgreSQL: transactions, bytes, connections, CPU time.

    python scripts/benchmarks/load.py [--workers 1 4 16 64] [--slots 16] [--seconds 20]
        [--epoch-s 0.5]

Real workers run trials with known learning curves: claims, 4 params, rung reports, verdicts,
    results and leases are as in a search; training only waits `--epoch-s` seconds an epoch. Workers
    are forked from one process that has loaded all modules. A proxy between workers and server
    counts bytes; all other figures are read from the server.

Takes about two minutes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import psycopg

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.helpers.curves import work_as_process  # noqa: E402
from tests.helpers.postgres import Server, new_server  # noqa: E402
from tests.helpers.study_specs import make_spec  # noqa: E402

from headsweep.studies.storages import open_storage  # noqa: E402
from headsweep.studies.study import StoredStudy  # noqa: E402

BUDGET = 1_000_000


def proxy(listener: socket.socket, port: int, sent: object, received: object) -> None:
    """Forward bytes and count them: `sent` to the server, `received` from it."""
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    peers: dict[socket.socket, tuple[socket.socket, object]] = {}
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", port))
                for end, other, counter in ((client, server, sent), (server, client, received)):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    peers[end] = (other, counter)
                    selector.register(end, selectors.EVENT_READ)
                continue
            end = key.fileobj
            if end not in peers:  # its other end was closed just before
                continue
            other, counter = peers[end]
            try:
                data = end.recv(1 << 16)
                other.sendall(data)
            except OSError:
                data = b""
            if data:
                counter.value += len(data)
                continue
            for closed in (end, other):
                if peers.pop(closed, None):
                    selector.unregister(closed)
                    closed.close()


def processor_s(server: Server) -> float:
    """Return the processor seconds of the server and its processes, finished ones included."""
    ticks = 0.0
    assert server.process is not None
    parent = server.process.pid
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat.parent.name) == parent:
            ticks += sum(map(int, fields[11:15]))
        elif int(fields[1]) == parent:
            ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def state(server: Server, database: str) -> dict[str, float]:
    """Return counters of a database, to be subtracted from each other."""
    with psycopg.connect(server.url(database)) as connection:
        connection.execute("SELECT pg_stat_force_next_flush()")
        row = connection.execute(
            "SELECT xact_commit, pg_database_size(datname), pg_current_wal_lsn() - '0/0'::pg_lsn "
            "FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
    assert row is not None
    return dict(zip(("transactions", "stored", "wal"), map(float, row), strict=True))


def connections(server: Server, database: str) -> int:
    with psycopg.connect(server.url("postgres")) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = %s AND backend_type = 'client backend'",
            (database,),
        ).fetchone()
    assert row is not None
    return int(row[0])


def measure(server: Server, workers: int, slots: int, epoch_s: float, seconds: float) -> dict:
    """Return the cost per trial for one number of workers, once all of them run trials."""
    forks = multiprocessing.get_context("forkserver")
    database = server.new_database()
    with tempfile.TemporaryDirectory() as folder:
        spec = make_spec(Path(folder), f"study.n_trials={BUDGET}")
    direct = open_storage(server.url(database), create=True)
    StoredStudy.create(spec, direct)
    sent, received = multiprocessing.Value("Q", 0), multiprocessing.Value("Q", 0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        arguments = (listener, server.port, sent, received)
        between = multiprocessing.get_context("fork").Process(target=proxy, args=arguments)
        between.start()
    url = server.url(database).replace(f":{server.port}/", f":{port}/")
    options = {"slots": slots, "epoch_s": epoch_s}
    processes = [
        forks.Process(target=work_as_process, args=("probe", url, options)) for _ in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        while StoredStudy.open("probe", direct).summary().live_workers < workers:
            assert all(process.is_alive() for process in processes)
            time.sleep(0.2)
        time.sleep(3 * epoch_s)
        finished = StoredStudy.open("probe", direct).summary().finished
        before, cpu = state(server, database), processor_s(server)
        wire, begun, most = (sent.value, received.value), time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            most = max(most, connections(server, database) - 1)
            time.sleep(0.25)
        elapsed = time.perf_counter() - begun
        after, cpu = state(server, database), processor_s(server) - cpu
        trials = StoredStudy.open("probe", direct).summary().finished - finished
        return {
            "workers": workers,
            "trials_per_s": trials / elapsed,
            "transactions_per_trial": (after["transactions"] - before["transactions"]) / trials,
            "sent_bytes_per_trial": (sent.value - wire[0]) / trials,
            "received_bytes_per_trial": (received.value - wire[1]) / trials,
            "wal_bytes_per_trial": (after["wal"] - before["wal"]) / trials,
            "stored_bytes_per_trial": (after["stored"] - before["stored"]) / trials,
            "connections": most,
            "server_cpu_ms_per_trial": 1000 * cpu / trials,
        }
    finally:
        for process in processes:
            process.kill()
            process.join()
        between.kill()
        between.join()
        direct.database.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--epoch-s", type=float, default=0.5)
    options = parser.parse_args()
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["tests.helpers.curves"])
    server = new_server(Path(tempfile.gettempdir()))
    try:
        results = []
        for workers in options.workers:
            row = measure(server, workers, options.slots, options.epoch_s, options.seconds)
            results.append(row)
            print("  ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
    finally:
        server.stop(signal.SIGQUIT)
        shutil.rmtree(server.folder)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
