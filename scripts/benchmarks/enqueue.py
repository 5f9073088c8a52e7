"""Check that trials enqueued while workers run are run once each, and that the budget is exact.

    python scripts/benchmarks/enqueue.py [--workers 30] [--enqueued 100] [--budget 400]
        [--databases sqlite postgresql]

Stock Optuna enqueues the trials one by one, while workers claim, report, prune and finish trials
with known learning curves. Each worker is a process with four slots. Exits with an error if a trial
ran twice or never, or if the budget was missed.

Takes about two minutes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from tests.helpers.curves import work_as_process
from tests.helpers.exact_budget import assert_exact
from tests.helpers.postgres import new_server
from tests.helpers.study_specs import make_spec

from headsweep.storage.attributes import WORKER
from headsweep.studies.study import StoredStudy

RATE = "training.learning_rate"
SETTINGS = {"slots": 4, "epoch_s": 1.0}
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def trials_of(url: str) -> list[FrozenTrial]:
    with StoredStudy.open("probe", url) as study:
        return study.trials()


def enqueue(url: str, rates: Sequence[float]) -> None:
    """Enqueue a trial for each rate, as stock Optuna does it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = RDBStorage(url.replace("postgresql://", "postgresql+psycopg://"))
    study = optuna.load_study(study_name="probe", storage=storage)
    for rate in rates:
        study.enqueue_trial({RATE: rate})
    storage.remove_session()
    storage.engine.dispose()


def run(url: str, folder: Path, workers: int, enqueued: int, budget: int) -> str:
    """Run a study to its end and check it.

    Returns:
        A line about it.
    """
    StoredStudy.create(make_spec(folder, f"study.n_trials={budget}"), url).close()
    rates = [1e-5 * (1 + i) for i in range(enqueued)]
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.helpers.curves", "tests.helpers.postgres"])
    begun = time.monotonic()
    running = [
        processes.Process(target=work_as_process, args=("probe", url, SETTINGS))
        for _ in range(workers)
    ]
    for process in running:
        process.start()
    enqueue(url, rates)
    during = time.monotonic() - begun
    for process in running:
        process.join()
    seconds = time.monotonic() - begun
    codes = Counter(process.exitcode for process in running)
    if set(codes) != {0}:
        sys.exit(f"{url.partition(':')[0]}: processes ended with {dict(codes)}")
    late = sum(trial.state == TrialState.WAITING for trial in trials_of(url))
    if late:  # the budget was spent before these were enqueued; they wait for a larger one
        StoredStudy.create(make_spec(folder, f"study.n_trials={budget + late}"), url).close()
        work_as_process("probe", url, SETTINGS)
    trials = trials_of(url)
    assert_exact(trials, budget + late)
    ran = Counter(trial.params[RATE] for trial in trials if trial.state in ENDED)
    wrong = {rate: ran[rate] for rate in rates if ran[rate] != 1}
    if wrong:
        sys.exit(f"{url.partition(':')[0]}: trials did not run once: {wrong}")
    by = Counter(trial.user_attrs.get(WORKER, "") for trial in trials)
    return (
        f"{url.partition(':')[0]}: {workers} workers ({len(by)} ran trials), {budget + late} "
        f"trials; {enqueued} enqueued within {during:.0f} s, {late} of them after the budget was "
        f"spent, each run once; {seconds:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=30)
    parser.add_argument("--enqueued", type=int, default=100)
    parser.add_argument("--budget", type=int, default=400)
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="enqueue-"))
    sizes = (args.workers, args.enqueued, args.budget)
    try:
        if "sqlite" in args.databases:
            print(run(f"sqlite:///{folder}/studies.db", folder, *sizes), flush=True)
        if "postgresql" in args.databases:
            server = new_server(Path(tempfile.gettempdir()))
            try:
                print(run(server.url(server.new_database()), folder, *sizes), flush=True)
            finally:
                server.stop(signal.SIGQUIT)
                shutil.rmtree(server.folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
