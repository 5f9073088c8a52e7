"""Local workers: start, monitor, restart and drain them while the study's progress is shown."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from headsweep.errors import ERROR_PREFIX, SearchError, StorageError, WorkerError
from headsweep.launching.devices import device_of_worker
from headsweep.launching.progress import refreshed
from headsweep.settings import (
    LAUNCHER_VARIABLE,
    STORAGE_URL_VARIABLE,
    WORKER_VARIABLE,
    EngineSettings,
    host_name,
)
from headsweep.studies.study import StoredStudy
from headsweep.studies.summary import Summary

POLL_S = 0.25
FIRST_PAUSE_S = 1.0
MAX_CRASHES_IN_A_ROW = 5
STEADY_S = 60.0
"""A worker that ran this long did not crash at start; its count of crashes is reset."""
TAIL_BYTES = 4000


@dataclass
class _Worker:
    """A worker process, which is started again after a crash."""

    log: Path
    command: list[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    crashes: int = 0
    start_not_before: float = 0.0
    done: bool = False

    def start(self) -> None:
        with _open_log(self.log) as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches the launcher alone, which then drains all workers, once.
                start_new_session=True,
            )
        self.started_at = time.monotonic()


@dataclass
class _Interrupts:
    """Number of SIGINT, SIGTERM and SIGHUP so far."""

    seen: int = 0

    def count(self, number: int, frame: FrameType | None) -> None:
        self.seen += 1


def launch_local(
    study: StoredStudy,
    n_workers: int,
    engine: EngineSettings,
    *,
    log_dir: Path,
    show: Callable[[Summary], None],
) -> Summary:
    """Run `n_workers` local workers until the study's budget is spent.

    A worker that crashes is started again after a growing pause. SIGINT, SIGTERM and SIGHUP drain
    all workers; a second one ends them at once.

    Args:
        study: an open study; its storage's URL is passed in the workers' environment, never on a
            command line.
        n_workers: number of worker processes.
        engine: given to every worker; with `auto` and `cuda`, workers take the GPUs in turn.
        log_dir: gets one log a worker.
        show: called about once a second, and once at the end.

    Returns:
        The summary of the study at the end. No worker is started if the budget is already spent.

    Raises:
        WorkerError: workers crashed several times in a row.
        SearchError: too many trials of the study failed.
        KeyboardInterrupt: after the workers were drained.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(StorageError):  # workers outlast an outage
        summary = study.summary()
        if summary.finished >= summary.n_trials:
            show(summary)
            return summary
    workers = _workers(study, n_workers, engine, log_dir)
    with _interrupts_counted() as interrupts, refreshed(lambda: show(study.summary())):
        try:
            _watch(workers, interrupts)
        finally:
            _end(workers)
    if interrupts.seen:
        raise KeyboardInterrupt
    summary = study.summary()
    show(summary)
    if summary.finished < summary.n_trials and summary.stopped_by is None:
        raise WorkerError(
            f"study {study.name!r}: the workers ended after {summary.finished} of "
            f"{summary.n_trials} trials; see {log_dir}"
        )
    return summary


def _workers(
    study: StoredStudy, n_workers: int, engine: EngineSettings, log_dir: Path
) -> list[_Worker]:
    """Return the workers of one launch, not yet started."""
    launch = f"{host_name()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    return [
        _Worker(
            log=log_dir / f"worker_{i}.log",
            command=[
                # With -P, a file `random.py` in the current folder is not imported as a module.
                *(sys.executable, "-P", "-m", "headsweep", "worker", study.name),
                *engine.options(),
            ],
            environment={
                **os.environ,
                **device_of_worker(engine.device, i),
                STORAGE_URL_VARIABLE: study.storage.database.secret_url(),
                LAUNCHER_VARIABLE: str(os.getpid()),
                # A worker that is started again has the same id and reclaims its running trials.
                WORKER_VARIABLE: f"{launch}:{i}",
                "OMP_NUM_THREADS": str(engine.threads),
            },
        )
        for i in range(n_workers)
    ]


def _watch(workers: list[_Worker], interrupts: _Interrupts) -> None:
    signalled = 0
    while not all(worker.done for worker in workers):
        if interrupts.seen > signalled:
            _signal(workers, signal.SIGTERM if signalled == 0 else signal.SIGKILL)
            signalled += 1
        for worker in workers:
            _supervise(worker, draining=interrupts.seen > 0)
        time.sleep(POLL_S)


def _supervise(worker: _Worker, *, draining: bool) -> None:
    """Start a worker whose pause has ended, and handle one that has ended."""
    if worker.done:
        return
    if worker.process is None:
        if draining:
            worker.done = True
        elif time.monotonic() >= worker.start_not_before:
            worker.start()
        return
    code = worker.process.poll()
    if code is None:
        return
    worker.process = None
    worker.done = code == 0 or draining
    if not worker.done:
        _plan_restart(worker, code)


def _plan_restart(worker: _Worker, code: int) -> None:
    lines = _last_lines(worker.log)
    if code in (1, 2):
        # The worker said why: it would report the same fault again.
        raise SearchError(lines[-1].removeprefix(ERROR_PREFIX) if lines else f"see {worker.log}")
    lasted = time.monotonic() - worker.started_at
    worker.crashes = 1 if lasted > STEADY_S else worker.crashes + 1
    if worker.crashes > MAX_CRASHES_IN_A_ROW:
        raise WorkerError(
            f"a worker crashed {worker.crashes} times in a row (exit code {code}); see {worker.log}"
        )
    worker.start_not_before = time.monotonic() + FIRST_PAUSE_S * 2 ** (worker.crashes - 1)


def _end(workers: list[_Worker]) -> None:
    """End all workers that are still running."""
    _signal(workers, signal.SIGTERM)
    for worker in workers:
        if worker.process is not None:
            try:
                worker.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()


def _signal(workers: list[_Worker], number: int) -> None:
    for worker in workers:
        if worker.process is not None and worker.process.poll() is None:
            worker.process.send_signal(number)


def _open_log(path: Path) -> IO[bytes]:
    """Open a worker's log, or the null device: a log that cannot be written must not end a search.

    Returns:
        The open file.

    Raises:
        WorkerError: the null device cannot be opened either.
    """
    for file in (path, Path(os.devnull)):
        with contextlib.suppress(OSError):
            return file.open("ab")
    raise WorkerError(f"{path}: cannot be written")


def _last_lines(log: Path) -> list[str]:
    try:
        text = log.read_bytes()[-TAIL_BYTES:].decode(errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]


@contextlib.contextmanager
def _interrupts_counted() -> Iterator[_Interrupts]:
    interrupts = _Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # not under nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, interrupts.count) for number in numbers}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
