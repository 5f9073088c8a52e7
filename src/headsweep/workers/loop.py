"""The loop of a worker: claims trials, trains them in slots, reports, refills, drains.

Only this module maps slots to trials. It depends on the protocol `Slots` instead of the engine, and
so does not import torch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from optuna.trial import FrozenTrial

from headsweep.config.schema import Config
from headsweep.errors import ConfigError, StorageError, StudyDeletedError, TrialError
from headsweep.settings import WorkerSettings
from headsweep.storage.optuna_tables import trial_id
from headsweep.studies.trials import trial_config
from headsweep.studies.worker_session import WorkerSession
from headsweep.workers.lease import Lease
from headsweep.workers.signals import Stop
from headsweep.workers.timings import TimeAccounts
from headsweep.workers.trial_logs import STOPPED_S, STUCK_S, TrialLogs

if TYPE_CHECKING:
    from headsweep.engine.engine import Admission
    from headsweep.engine.slots import EpochReport
    from headsweep.engine.timings import Usage


class Slots(Protocol):
    """The part of the engine that the loop uses."""

    @property
    def slots(self) -> int:
        """The number of trials that can be trained at once."""

    @property
    def usage(self) -> Usage:
        """How the engine's time was spent."""

    @property
    def free(self) -> int:
        """The number of trials that can still be admitted."""

    def admit(self, config: Config) -> Admission:
        """Place a trial in a slot."""

    def run_epoch(self) -> list[EpochReport]:
        """Train every slot for one epoch."""

    def metrics(self, slot: int) -> Mapping[str, float]:
        """Return all recorded metrics of a slot's best epoch."""

    def evict(self, slot: int) -> None:
        """Free a slot."""


class Loop:
    """Trains trials until the study is finished or the worker is asked to stop.

    Args:
        session: the worker's trials in the storage.
        engine: an engine whose slots are all free.
        settings: durations of leases and pauses.
        stop: whether the worker was asked to stop.
    """

    def __init__(
        self, session: WorkerSession, engine: Slots, settings: WorkerSettings, stop: Stop
    ) -> None:
        self._session = session
        self._engine = engine
        self._settings = settings
        self._stop = stop
        self._lease = Lease(session.renew, settings.lease_s)
        self._accounts = TimeAccounts(engine.usage, session.record_timings)
        self._logs = TrialLogs(session.spec)
        self._trial_in: dict[int, int] = {}
        self._unwritten: dict[int, list[EpochReport]] = {}
        """Reports that the next transaction will write, by slot."""
        self._claim_not_before = 0.0

    def run(self) -> None:
        """Run until the study is finished; on any exit, hand back the trials still running.

        Raises:
            SearchError: too many trials of the study failed.
            StorageError: the database did not come back.
        """
        with self._lease:
            crashed = True
            try:
                while not self._stop.requested and self._tick():
                    self._lease.set_trials(self._session.running)
                crashed = False
            finally:
                self._hand_back(crashed=crashed)
                self._logs.close(STOPPED_S if self._stop.requested else STUCK_S)

    def _tick(self) -> bool:
        """Claim trials and train one epoch.

        Returns:
            Whether the study may still need this worker.
        """
        if self._lease.fenced():
            self._restart()
        finished = self._refill()
        if self._trial_in:
            self._accounts.add_epoch(len(self._trial_in), self._engine.slots)
            reports = self._engine.run_epoch()
            with self._accounts.storing():
                self._record(reports)
        elif not finished:
            with self._accounts.waiting():
                self._stop.wait(self._settings.poll_s)
        return not finished or bool(self._trial_in)

    def _refill(self) -> bool:
        """Fill free slots with trials.

        Returns:
            Whether nothing is left to claim, now and later.
        """
        wanted = min(self._engine.free, self._session.at_once - len(self._trial_in))
        if wanted <= 0 or time.monotonic() < self._claim_not_before:
            return False
        with self._accounts.storing():
            batch = self._session.claim(wanted)
        self._lease.set_trials(self._session.running, since=batch.claimed_at)
        if len(batch.trials) < wanted:
            self._claim_not_before = time.monotonic() + self._settings.poll_s
        for trial in batch.trials:
            self._admit(trial)
        return batch.over

    def _admit(self, trial: FrozenTrial) -> None:
        key = trial_id(trial)
        try:
            config = trial_config(self._session.spec, trial)
            admission = self._engine.admit(config)
        except (ConfigError, TrialError) as error:
            self._session.fail(key, str(error))
            self._session.flush()
            return
        self._trial_in[admission.slot] = key
        self._session.record_admission(trial, admission.tape_position)
        self._logs.start(admission.slot, trial.number, config)

    def _record(self, reports: Sequence[EpochReport]) -> None:
        """Report an epoch to the study, and free the slots of trials that ended.

        A transaction is made only after epochs at which the pruner decides or a trial ends; it also
        writes the values of the epochs before.
        """
        if self._lease.fenced():
            return
        reports = self._of_own_trials(reports)
        self._logs.add_reports(reports)
        session, trial_in = self._session, self._trial_in
        trained = [report for report in reports if report.failure is None]
        for report in trained:
            self._unwritten.setdefault(report.slot, []).append(report)
        at_rung = [report for report in trained if report.epoch in session.rungs]
        if not at_rung and not any(report.finished for report in reports):
            return
        for slot, curve in self._unwritten.items():
            for report in curve:
                session.report(trial_in[slot], report.epoch, report.value)
        self._unwritten.clear()
        pruned = session.trials_to_prune([trial_in[report.slot] for report in at_rung])
        reports = self._of_own_trials(reports)
        ended = [r for r in reports if r.finished or trial_in[r.slot] in pruned]
        for report in ended:
            self._end(trial_in[report.slot], report)
        session.flush()
        self._evict_ended()
        if ended:
            self._claim_not_before = 0.0

    def _of_own_trials(self, reports: Sequence[EpochReport]) -> list[EpochReport]:
        """Evict trials that were ended elsewhere, as after a suspension, and drop their reports.

        Claims and pruning read the study, so the loss of a trial may be noticed at any of them.

        Returns:
            The reports of the other trials.
        """
        self._evict_ended()
        return [report for report in reports if report.slot in self._trial_in]

    def _evict_ended(self) -> None:
        running = self._session.running
        self._evict([slot for slot, key in self._trial_in.items() if key not in running])

    def _end(self, key: int, report: EpochReport) -> None:
        if report.failure is not None:
            self._session.fail(key, report.failure)
            self._logs.end(report.slot, "failed")
            return
        self._session.record_metrics(key, self._engine.metrics(report.slot))
        if report.finished:
            self._session.complete(key, report.best_value, epochs=report.epoch)
            self._logs.end(report.slot, "complete")
        else:
            self._session.prune(key, epochs=report.epoch)
            self._logs.end(report.slot, "pruned")

    def _restart(self) -> None:
        """Drop all trials after a lease expired, so that new ones are claimed.

        Trials that no other worker has taken over are handed back, without counting a crash.
        """
        self._evict(list(self._trial_in))
        self._session.hand_back(crashed=False)
        self._lease.reset()

    def _evict(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self._engine.evict(slot)
            self._logs.drop(slot)
            self._unwritten.pop(slot, None)
            del self._trial_in[slot]

    def _hand_back(self, *, crashed: bool) -> None:
        try:
            self._session.hand_back(crashed=crashed)
            self._accounts.record()
        except (StorageError, StudyDeletedError):
            # The leases will expire instead; the exception that ended the loop matters more.
            if not crashed:
                raise
