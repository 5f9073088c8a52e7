"""A study's trials as runs of W&B or TensorBoard, grouped under its name.

A trial becomes a run when it ends, on a thread of its own, so that training waits for no logger.
The first fault of a logger is said once and ends logging; the trials go on.
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
"""A logger that writes no run for so long after the last trial is given up."""

STOPPED_S = 5.0
"""The same for a worker that was asked to stop."""


@dataclass
class _Run:
    """A trial in training, or one that waits to be logged."""

    number: int
    config: Config
    epochs: list[Mapping[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    state: str = "running"


class TrialLogs:
    """Collects what is said of trials; does nothing when `logging.logger_name` is none.

    Runs lie in `<paths.output_dir>/<study>/runs/trial-<number>`. A run's group is the study's name
    unless `logging.group` names another; its state is one of its tags.

    Args:
        spec: of the study.
    """

    def __init__(self, spec: StudySpec) -> None:
        self._study = spec.name
        self._folder = Path(spec.config.paths.output_dir) / spec.name / "runs"
        self._wanted = spec.config.logging.logger_name != "none"
        self._in_slot: dict[int, _Run] = {}
        self._ended: queue.SimpleQueue[_Run | None] = queue.SimpleQueue()
        self._logged = 0
        self._thread = threading.Thread(target=self._work, name="trial logs", daemon=True)
        if self._wanted:
            self._thread.start()

    def admitted(self, slot: int, number: int, config: Config) -> None:
        """Note that a trial was given a slot."""
        if self._wanted:
            self._in_slot[slot] = _Run(number, config)

    def heard(self, reports: Sequence[EpochReport]) -> None:
        """Note the reports of an epoch of some slots."""
        for report in reports:
            if report.failure is None and (run := self._in_slot.get(report.slot)):
                run.epochs.append(report.metrics)
                run.best_epoch = report.best_epoch

    def ended(self, slot: int, state: str) -> None:
        """Note that the trial in a slot is complete, pruned or failed; its run is written soon."""
        if run := self._in_slot.pop(slot, None):
            run.state = state
            self._ended.put(run)

    def forget(self, slot: int) -> None:
        """Note that a slot was emptied; a trial that had not ended there will run again."""
        self._in_slot.pop(slot, None)

    def close(self, patience_s: float) -> None:
        """Wait until all runs are written, or none has been for `patience_s`."""
        if not self._wanted:
            return
        self._ended.put(None)
        logged = -1
        while self._thread.is_alive() and self._logged > logged:
            logged = self._logged
            self._thread.join(patience_s)
        if self._thread.is_alive():
            self._give_up(f"logging of trials ended, no run was written in {patience_s:g} s")

    def _work(self) -> None:
        while (run := self._ended.get()) is not None:
            if self._wanted:
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
            self._give_up(f"logging of trials ended: {folder}: {error.strerror}")
            return
        tracker = start_tracker(
            with_values(run.config, values, where=self._study),
            folder,
            run_id=f"{self._study}-{run.number}-{secrets.token_hex(4)}",
            first_epoch=1,
            notice=self._give_up,
        )
        for epoch, metrics in enumerate(run.epochs, start=1):
            tracker.log(epoch, metrics)
        best = run.epochs[run.best_epoch - 1] if run.epochs else {"epoch": 0}
        tracker.finish(best, folder / "model.safetensors")

    def _give_up(self, reason: str) -> None:
        """Say why, once."""
        if self._wanted:
            self._wanted = False
            print(f"Notice: {reason}", file=sys.stderr, flush=True)
