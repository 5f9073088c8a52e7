"""A study's trials as runs of W&B or TensorBoard, grouped under its name.

A trial is logged as a run after it ended, on a separate thread, so that training does not wait for
the logger. The first error of the logger is printed once and ends logging; training goes on.
"""

from __future__ import annotations

import queue
import secrets
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.search.spec import StudySpec
from headsweep.tracking import start_tracker

if TYPE_CHECKING:
    from headsweep.engine.slots import EpochReport

STUCK_S = 60.0
"""Logging ends if no run is written for so many seconds after the last trial."""

STOPPED_S = 5.0
"""The same if the worker was asked to stop."""


@dataclass
class _Run:
    """A trial in training, or one that waits to be logged."""

    number: int
    config: Config
    epochs: list[Mapping[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    state: str = "running"


class TrialLogs:
    """Collects the reports of trials and logs them; does nothing if `logging.logger_name` is none.

    Runs are stored in `<paths.output_dir>/<study>/runs/trial-<number>`. The study's name is
    the run's group, unless `logging.group` names another; the run's state is one of its tags.

    Args:
        spec: the study's definition.
    """

    def __init__(self, spec: StudySpec) -> None:
        self._study = spec.name
        self._folder = Path(spec.config.paths.output_dir) / spec.name / "runs"
        self._enabled = spec.config.logging.logger_name != "none"
        self._in_slot: dict[int, _Run] = {}
        self._queue: queue.SimpleQueue[_Run | None] = queue.SimpleQueue()
        self._logged = 0
        self._thread = threading.Thread(target=self._work, name="trial logs", daemon=True)
        if self._enabled:
            self._thread.start()

    def start(self, slot: int, number: int, config: Config) -> None:
        """Start collecting the reports of the trial in a slot."""
        if self._enabled:
            self._in_slot[slot] = _Run(number, config)

    def add_reports(self, reports: Sequence[EpochReport]) -> None:
        """Collect the reports of an epoch."""
        for report in reports:
            if report.failure is None and (run := self._in_slot.get(report.slot)):
                run.epochs.append(report.metrics)
                run.best_epoch = report.best_epoch

    def end(self, slot: int, state: str) -> None:
        """Queue the run of the trial in a slot, which is complete, pruned or failed."""
        if run := self._in_slot.pop(slot, None):
            run.state = state
            self._queue.put(run)

    def drop(self, slot: int) -> None:
        """Discard the reports of a trial that was taken out of its slot before it ended."""
        self._in_slot.pop(slot, None)

    def close(self, timeout_s: float) -> None:
        """Wait until all runs are written, or none was written for `timeout_s` seconds."""
        if not self._enabled:
            return
        self._queue.put(None)
        logged = -1
        while self._thread.is_alive() and self._logged > logged:
            logged = self._logged
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._disable(f"logging of trials ended: no run was written in {timeout_s:g} s")

    def _work(self) -> None:
        while (run := self._queue.get()) is not None:
            if self._enabled:
                self._write(run)
            self._logged += 1

    def _write(self, run: _Run) -> None:
        logging = run.config.logging
        values = {
            "logging.group": logging.group or self._study,
            "logging.tags": [*logging.tags, run.state],
            "logging.log_model": False,
        }
        folder = self._folder / f"trial-{run.number}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._disable(f"logging of trials ended: {folder}: {error.strerror}")
            return
        tracker = start_tracker(
            with_values(run.config, values, where=self._study),
            folder,
            run_id=f"{self._study}-{run.number}-{secrets.token_hex(4)}",
            first_epoch=1,
            notice=self._disable,
        )
        for epoch, metrics in enumerate(run.epochs, start=1):
            tracker.log(epoch, metrics)
        best = run.epochs[run.best_epoch - 1] if run.epochs else {"epoch": 0}
        tracker.finish(best, folder / "model.safetensors")

    def _disable(self, reason: str) -> None:
        """End logging, and print the reason."""
        if self._enabled:
            self._enabled = False
            print(f"Notice: {reason}", file=sys.stderr, flush=True)
