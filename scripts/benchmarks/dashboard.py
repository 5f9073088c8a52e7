"""Time the request with which optuna-dashboard's page refreshes a study, on both databases.

    python scripts/benchmarks/dashboard.py [--finished 1000] [--running 32] [--rounds 3]
    python scripts/benchmarks/dashboard.py --answers [--all-points] --finished 10000 80000
    python scripts/benchmarks/dashboard.py --browser [--all-points] --finished 1000 10000 80000

The page then has all trials and requests only new ones. The dashboard answers from its last read
for ten seconds; the request after that is timed, on headsweep's storage and on stock Optuna's.

With `--answers`, the first answer for a study of finished trials and its refresh are timed in CPU
seconds on SQLite, from optuna-dashboard alone and with the JSON that headsweep keeps. Each is a
process of its own, whose peak of memory is printed as well.

With `--browser`, Chromium opens the study's page: see `dashboard_browser.py`. `--pictures FOLDER`
keeps a picture of each page.

Takes one to two minutes; with 80,000 trials several.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import resource
import shutil
import signal
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from dashboard_browser import measure_pages
from optuna.storages import RDBStorage
from optuna_dashboard import wsgi
from store import new_server
from store_contestants import stock_url
from store_studies import Cell, Stores, define

from headsweep.cli.dashboard import application
from headsweep.cli.dashboard_study import quick
from headsweep.studies.storages import open_storage

REMEMBERED_S = 10.5


def get(app: Any, path: str, query: str) -> tuple[float, int]:
    """Return the seconds until the answer is complete, and its size in bytes."""
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8080",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "HTTP_ACCEPT_ENCODING": "deflate",
    }
    found: list[str] = []
    begun = time.perf_counter()
    body = b"".join(app(environ, lambda status, headers, *_: found.append(status)))
    taken = time.perf_counter() - begun
    assert found[0].startswith("200"), (found, body[:200])
    return taken, len(body)


def answer_times(url: str, n_trials: int, wrapped: bool, all_points: bool) -> list[float]:
    """Return CPU seconds and bytes of the first answer and a refresh, and the memory in MB."""
    warnings.simplefilter("ignore")
    storage = open_storage(url)
    storage.sync(1)
    app: Any = application(storage)
    if wrapped:
        app = quick(app, storage, all_points=all_points)
    row: list[float] = []
    for query in ("", f"after={n_trials}"):
        begun = time.process_time()
        size = get(app, "/api/studies/1", query)[1]
        row += [time.process_time() - begun, size]
    return [*row, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]


def measure_answers(sizes: list[int], all_points: bool) -> None:
    """Print the cost of answers at several numbers of finished trials."""
    print("finished wrapped first_cpu_s first_bytes refresh_cpu_s refresh_bytes peak_MB")
    with tempfile.TemporaryDirectory() as folder:
        stores = Stores(Path(folder), None)
        spec = define(stores.folder, "random")
        for n in sizes:
            url = stores.copy("sqlite", spec, Cell(n, 0, slots=0, workers=0, sampler="random"))
            for wrapped in (False, True):
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    row = pool.apply(answer_times, (url, n, wrapped, all_points))
                first, size, refresh, little, memory = row
                print(
                    f"{n:8} {wrapped!s:7} {first:11.2f} {size:11.0f} {refresh:13.3f} "
                    f"{little:13.0f} {memory:7.0f}",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--finished", type=int, nargs="+", default=[1000])
    parser.add_argument("--answers", action="store_true", help="first answer and refresh")
    parser.add_argument("--running", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--browser", action="store_true", help="the study's page in Chromium")
    parser.add_argument("--all-points", action="store_true", help="all trials of large studies")
    parser.add_argument("--pictures", type=Path, help="with --browser: folder for PNGs")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.browser:
        measure_pages(args.finished, args.all_points, args.pictures)
        return
    if args.answers:
        measure_answers(args.finished, args.all_points)
        return
    (finished,) = args.finished
    cell = Cell(finished, args.running, slots=0, workers=0, sampler="random")
    server = new_server(Path("/tmp"))
    rows = []
    print("database   storage    first_s refresh_s")
    try:
        with tempfile.TemporaryDirectory() as folder:
            stores = Stores(Path(folder), server)
            spec = define(stores.folder, cell.sampler)
            for kind in ("sqlite", "postgresql"):
                url = stores.copy(kind, spec, cell)
                ours = open_storage(url)
                apps = {"headsweep": application(ours), "rdb": wsgi(RDBStorage(stock_url(url)))}
                first = {name: get(app, "/api/studies/1", "")[0] for name, app in apps.items()}
                taken: dict[str, list[float]] = {name: [] for name in apps}
                for _ in range(args.rounds):
                    time.sleep(REMEMBERED_S)
                    for name, app in apps.items():
                        known = f"after={finished + args.running}"
                        taken[name].append(get(app, "/api/studies/1", known)[0])
                for name, seconds in taken.items():
                    refresh = statistics.median(seconds)
                    rows.append([kind, name, first[name], refresh])
                    print(f"{kind:10} {name:10} {first[name]:7.3f} {refresh:9.3f}", flush=True)
                ours.database.close()
    finally:
        server.stop(signal.SIGQUIT)
        shutil.rmtree(server.folder)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
