"""Local workers: started, watched, restarted, drained; the study's progress shown meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from headsweep.errors import ERROR_PREFIX, SearchError, WorkerError
from headsweep.launching.devices import device_of_worker
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
REFRESH_S = 1.0
FIRST_PAUSE_S = 1.0
MAX_CRASHES_IN_A_ROW = 5
STEADY_S = 60.0
"""A worker that ran this long did not crash at start; its count of crashes begins anew."""
TAIL_BYTES = 4000


@dataclass
class _Place:
    """Where one worker runs, and again after it died."""

    log: Path
    command: list[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    crashes: int = 0
    start_not_before: float = 0.0
    done: bool = False

    def start(self) -> None:
        with self.log.open("ab") as log:
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
    """Counts SIGINT and SIGTERM."""

    seen: int = 0

    def hear(self, number: int, frame: FrameType | None) -> None:
        self.seen += 1


def launch_local(
    study: StoredStudy,
    n_workers: int,
    engine: EngineSettings,
    *,
    log_dir: Path,
    show: Callable[[Summary], None],
) -> Summary:
    """Runs `n_workers` local workers until the study's budget is spent.

    A worker that dies is started again after a growing pause. SIGINT and SIGTERM drain all
    workers; a second one ends them at once.

    Args:
        study: an open study; its storage's URL is passed in the workers' environment, never on a
            command line.
        engine: given to every worker; with `auto` and `cuda`, workers take the GPUs in turn.
        log_dir: gets one log a worker.
        show: called about once a second, and once at the end.

    Raises:
        WorkerError: workers died again and again.
        SearchError: too many trials of the study failed.
        KeyboardInterrupt: after the workers were drained.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    places = _places(study, n_workers, engine, log_dir)
    with _heard() as interrupts:
        try:
            _watch(places, interrupts, lambda: show(study.summary()))
        finally:
            _end(places)
            summary = study.summary()
    if interrupts.seen:
        raise KeyboardInterrupt
    show(summary)
    if summary.finished < summary.n_trials:
        raise WorkerError(
            f"{study.name}: workers must finish {summary.n_trials} trials, found "
            f"{summary.finished}; see {log_dir}"
        )
    return summary


def _places(
    study: StoredStudy, n_workers: int, engine: EngineSettings, log_dir: Path
) -> list[_Place]:
    """Where the workers of one launch will run."""
    launch = f"{host_name()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    return [
        _Place(
            log=log_dir / f"worker_{i}.log",
            command=[
                *(sys.executable, "-m", "headsweep", "worker", study.name),
                *("--device", engine.device, "--slots", str(engine.slots)),
            ],
            environment={
                **os.environ,
                **device_of_worker(engine.device, i),
                STORAGE_URL_VARIABLE: study.storage.database.secret_url(),
                LAUNCHER_VARIABLE: str(os.getpid()),
                # A worker started again is the same one, and takes back what it left running.
                WORKER_VARIABLE: f"{launch}:{i}",
                "OMP_NUM_THREADS": str(engine.threads),
            },
        )
        for i in range(n_workers)
    ]


def _watch(places: list[_Place], interrupts: _Interrupts, refresh: Callable[[], None]) -> None:
    next_refresh = 0.0
    signalled = 0
    while not all(place.done for place in places):
        if interrupts.seen > signalled:
            _signal(places, signal.SIGTERM if signalled == 0 else signal.SIGKILL)
            signalled += 1
        for place in places:
            _attend(place, draining=interrupts.seen > 0)
        if time.monotonic() >= next_refresh:
            refresh()
            next_refresh = time.monotonic() + REFRESH_S
        time.sleep(POLL_S)


def _attend(place: _Place, *, draining: bool) -> None:
    """Starts a worker that is due, and follows up on one that ended."""
    if place.done:
        return
    if place.process is None:
        if draining:
            place.done = True
        elif time.monotonic() >= place.start_not_before:
            place.start()
        return
    code = place.process.poll()
    if code is None:
        return
    place.process = None
    place.done = code == 0 or draining
    if not place.done:
        _plan_restart(place, code)


def _plan_restart(place: _Place, code: int) -> None:
    lines = _last_lines(place.log)
    if code in (1, 2):
        # The worker said why: it would say so again.
        raise SearchError(lines[-1].removeprefix(ERROR_PREFIX) if lines else f"see {place.log}")
    lasted = time.monotonic() - place.started_at
    place.crashes = 1 if lasted > STEADY_S else place.crashes + 1
    if place.crashes > MAX_CRASHES_IN_A_ROW:
        raise WorkerError(
            f"a worker must stay alive, found {place.crashes} deaths in a row, the last with "
            f"code {code}; see {place.log}"
        )
    place.start_not_before = time.monotonic() + FIRST_PAUSE_S * 2 ** (place.crashes - 1)


def _end(places: list[_Place]) -> None:
    """Leaves no worker behind."""
    _signal(places, signal.SIGTERM)
    for place in places:
        if place.process is not None:
            try:
                place.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                place.process.kill()
                place.process.wait()


def _signal(places: list[_Place], number: int) -> None:
    for place in places:
        if place.process is not None and place.process.poll() is None:
            place.process.send_signal(number)


def _last_lines(log: Path) -> list[str]:
    try:
        text = log.read_bytes()[-TAIL_BYTES:].decode(errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]


@contextlib.contextmanager
def _heard() -> Iterator[_Interrupts]:
    interrupts = _Interrupts()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, interrupts.hear) for number in numbers}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
