"""Measure whole trial cycles in the storage: claim, 6 params, 5 rung reports, verdicts, finish.

Nothing is trained: the rest of a worker's work is timed. headsweep takes turns with stock Optuna's
RDB storage, its gRPC proxy in front of that, and its journal in a file. All run the same cycles: at
each tick a fifth of the slots is claimed again, every slot reports and is judged, and trials at the
last rung are finished. Verdicts are computed but ignored, so every trial reports five times. Only
whole rounds of ticks count, after a first one in which the slots fill.

PostgreSQL is started from the binaries that the tests use. The whole plan takes hours; each
dimension is an option:

    python scripts/benchmarks/store.py --databases sqlite --finished 1000 --slots 32 --workers 1
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import GrpcStorageProxy, RDBStorage, run_grpc_proxy_server
from store_contestants import CONTESTANTS, RUNGS, stock_url
from store_studies import Cell, Stores, define, value

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.helpers.postgres import new_server  # noqa: E402

from headsweep.search.spec import StudySpec  # noqa: E402
from headsweep.studies.storages import open_storage  # noqa: E402

PROCESSES = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Turn:
    """Work of one worker in whole rounds, without the database server's CPU time."""

    trials: int
    wall_s: float
    processor_s: float


@dataclass(frozen=True)
class Cost:
    """Cost of a trial: milliseconds of wall and CPU time of a worker; the rate of all workers."""

    ms: float
    processor_ms: float
    trials_per_s: float


def work(name: str, url: str, spec: StudySpec, slots: int, seconds: float) -> Turn:
    """Run one worker's trial cycles.

    Returns:
        Their cost.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    contestant = CONTESTANTS[name](url, spec)
    rates: dict[int, float] = {}
    rung: dict[int, int] = {}
    a_tick = math.ceil(slots / len(RUNGS))

    def play_round() -> int:
        n_told = 0
        for _ in RUNGS:
            claimed = contestant.claim(min(a_tick, slots - len(rates)))
            rates.update(claimed)
            rung.update(dict.fromkeys(claimed, 0))
            epochs = {key: RUNGS[rung[key]] for key in rates}
            reports = {key: (epochs[key], value(rate, epochs[key])) for key, rate in rates.items()}
            last = {key for key in rates if epochs[key] == RUNGS[-1]}
            contestant.tick(reports, last)
            for key in rates:
                rung[key] += 1
            for key in last:
                del rates[key], rung[key]
            n_told += len(last)
        return n_told

    play_round()
    START.wait()
    n, begun, used = 0, time.perf_counter(), time.process_time()
    while (wall := time.perf_counter() - begun) < seconds or not n:
        n += play_round()
    return Turn(n, wall, time.process_time() - used)


def share_start(barrier: Any) -> None:
    """Give a worker process the barrier at which all wait until all are ready."""
    global START
    START = barrier


def compete(
    name: str, url: str, spec: StudySpec, cell: Cell, seconds: float, patience_s: float
) -> Cost | None:
    """Return the mean cost of a trial over the workers; None when it is too slow."""
    barrier = PROCESSES.Barrier(cell.workers)
    with PROCESSES.Pool(cell.workers, share_start, (barrier,)) as pool:
        job = [(name, url, spec, cell.slots, seconds)] * cell.workers
        try:
            results = pool.starmap_async(work, job, chunksize=1).get(patience_s)
        except multiprocessing.TimeoutError:
            return None
    return Cost(
        ms=1000 * statistics.mean(turn.wall_s / turn.trials for turn in results),
        processor_ms=1000 * statistics.mean(turn.processor_s / turn.trials for turn in results),
        trials_per_s=sum(turn.trials / turn.wall_s for turn in results),
    )


@contextmanager
def proxy(name: str, url: str) -> Iterator[str]:
    """Give a contestant its URL; for gRPC that of a server in front of the database."""
    if name != "grpc":
        yield url
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = PROCESSES.Process(target=serve_grpc, args=(stock_url(url), port), daemon=True)
    server.start()
    GrpcStorageProxy(host="127.0.0.1", port=port).wait_server_ready(timeout=60)
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.kill()
        server.join()


def serve_grpc(url: str, port: int) -> None:
    warnings.simplefilter("ignore")
    run_grpc_proxy_server(RDBStorage(url), host="127.0.0.1", port=port)


def seconds_to_open(url: str) -> float:
    begun = time.perf_counter()
    storage = open_storage(url)
    storage.sync(1)
    taken = time.perf_counter() - begun
    storage.database.close()
    return taken


def turns(databases: Sequence[str], contestants: Sequence[str]) -> list[tuple[str, str]]:
    """Return the contestants of each database; the journal works on files only."""
    return [
        (kind, name)
        for kind, name in itertools.product(databases, contestants)
        if (kind == "file") == (name == "journal")
    ]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = ["sqlite", "postgresql", "file"]
    samplers = ["random", "tpe"]
    parser.add_argument("--databases", nargs="+", choices=kinds, default=kinds)
    parser.add_argument(
        "--contestants", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS)
    )
    parser.add_argument("--samplers", nargs="+", choices=samplers, default=samplers)
    parser.add_argument("--finished", nargs="+", type=int, default=[100, 1000, 10000])
    parser.add_argument("--running", nargs="+", type=int, default=[0], help="of another worker")
    parser.add_argument("--slots", nargs="+", type=int, default=[1, 32, 256])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=1, help="turns of each contestant")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a turn, at least")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds of a turn, at most")
    return parser.parse_args()


def main() -> None:
    args = parse()
    warnings.simplefilter("ignore")
    server = new_server(Path("/tmp")) if "postgresql" in args.databases else None
    cells = itertools.product(args.finished, args.running, args.slots, args.workers, args.samplers)
    rows = []
    print(
        "finished running slots workers sampler database   contestant "
        "ms/trial   cpu_ms trials/s opened_s"
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            stores = Stores(Path(folder), server)
            for cell in (Cell(*combination) for combination in cells):
                for row in run_cell(cell, stores, args):
                    rows.append(row)
                    show(row)
    finally:
        if server is not None:
            server.stop(signal.SIGQUIT)
            shutil.rmtree(server.folder)
    print(json.dumps(rows))


def run_cell(cell: Cell, stores: Stores, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Collect the medians of each contestant over rounds in which they take turns."""
    spec = define(stores.folder, cell.sampler)
    taken: defaultdict[tuple[str, str], list[Cost | None]] = defaultdict(list)
    opened: defaultdict[str, list[float]] = defaultdict(list)
    for _, (kind, name) in itertools.product(
        range(args.rounds), turns(args.databases, args.contestants)
    ):
        url = stores.copy(kind, spec, cell)
        if name == "headsweep":
            opened[kind].append(seconds_to_open(url))
        with proxy(name, url) as reached:
            result = compete(name, reached, spec, cell, args.seconds, args.patience)
        taken[kind, name].append(result)
    for (kind, name), results in taken.items():
        in_time = [result for result in results if result is not None]
        whole = len(in_time) == len(results)
        yield asdict(cell) | {
            "database": kind,
            "contestant": name,
            "ms_per_trial": statistics.median(c.ms for c in in_time) if whole else None,
            "processor_ms": statistics.median(c.processor_ms for c in in_time) if whole else None,
            "trials_per_s": statistics.median(c.trials_per_s for c in in_time) if whole else None,
            "opened_s": statistics.median(opened[kind]) if name == "headsweep" else None,
        }


def show(row: dict[str, Any]) -> None:
    numbers = " ".join(
        f"{'-' if row[key] is None else format(row[key], '.2f'):>8}"
        for key in ("ms_per_trial", "processor_ms", "trials_per_s", "opened_s")
    )
    print(
        f"{row['finished']:8} {row['running']:7} {row['slots']:5} {row['workers']:7} "
        f"{row['sampler']:7} {row['database']:10} {row['contestant']:10} {numbers}",
        flush=True,
    )


if __name__ == "__main__":
    main()
