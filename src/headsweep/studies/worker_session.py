"""One worker's trials in the storage: claims, reports, results, hand-backs."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Self

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection

from headsweep.search.given_params import fits_space
from headsweep.search.new_trials import NewTrials
from headsweep.search.objective import CONSTRAINT_PREFIX, is_measured, violations
from headsweep.search.samplers_and_pruners import longest_training, rungs, trials_at_once
from headsweep.search.space import distribution, lacks_params
from headsweep.settings import WorkerSettings, host_name
from headsweep.storage import claims, expiry
from headsweep.storage.attributes import FAILURE, REFUSED
from headsweep.storage.optuna_tables import trial_id
from headsweep.storage.trial_cache import TrialCache
from headsweep.studies.adoption import METRIC_PREFIX, check_objective
from headsweep.studies.pruning import build_batch_pruner
from headsweep.studies.stopping import DEADLINE, Improvements, StopReason, seconds_left, stop_reason
from headsweep.studies.study import StoredStudy
from headsweep.studies.study_attributes import read_study_attrs
from headsweep.studies.suggestions import Suggestions, TrialNotices
from headsweep.studies.trials import EPOCHS_TRAINED, TAPE_POSITION
from headsweep.studies.worker_timings import EFFORT, WorkerTimings


@dataclass(frozen=True)
class Batch:
    """Trials claimed at once, with their params, and whether more can be claimed later."""

    trials: tuple[FrozenTrial, ...]
    over: bool
    """Whether the budget is spent and no running trial of another worker could be retried."""
    claimed_at: float
    """`time.monotonic()` no later than the first heartbeat of these trials."""


class WorkerSession:
    """Claims, reports and finishes one worker's trials.

    Changes are buffered; `flush` writes them in one transaction.

    Args:
        study: an existing study, whose storage is used by this session alone.
        settings: leases and limits.
        worker: an id that no other live worker has; trials that a previous run with the same id
            left running are handed back when the session is entered.
    """

    def __init__(self, study: StoredStudy, settings: WorkerSettings, *, worker: str) -> None:
        self.study = study
        self.spec = study.spec
        self.study_id = study.study_id
        storage = study.storage
        storage.bind(self.study_id, writes=True)
        metric = self.spec.config.training.metric
        check_objective(study.name, storage.get_study_directions(self.study_id), metric)
        self.rungs = rungs(self.spec.pruner, longest_training(self.spec))
        self.storage = storage
        self._settings = settings
        self._worker = worker
        self._running: set[int] = set()
        self._distributions = {k: distribution(d) for k, d in self.spec.space.items()}
        storage.declare_distributions(self.study_id, self._distributions)
        self._pruner = build_batch_pruner(
            self.spec.pruner,
            storage,
            self.study_id,
            spared=self.spec.finalists.top_k,
            steps=self.rungs,
        )
        self._notices = TrialNotices()
        self._suggestions = Suggestions(study, self._distributions, self._notices)
        self._open = ExitStack()
        self._ends_at: float | None = None
        self._new_trials, self._improvements = NewTrials(), Improvements()
        self._stopped_by: StopReason | None = None

    def __enter__(self) -> Self:
        retries = self._settings.max_retries
        self.storage.write(
            self.study_id,
            lambda c: expiry.take_back(c, self.study_id, self._worker, max_retries=retries),
        )
        self.storage.sync(self.study_id)  # reads all trials before the first claim takes the lock
        self._open.enter_context(self.storage.tick())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()
        self.study.close()

    @property
    def at_once(self) -> int:
        """How many trials one worker may run at a time, so that the sampler can learn from some."""
        return trials_at_once(self.spec)

    @property
    def running(self) -> frozenset[int]:
        """Ids of the trials that this worker runs, less those it knows were ended by others."""
        return frozenset(self._running & self.storage.cache(self.study_id).own)

    def claim(self, n_wanted: int) -> Batch:
        """Claim up to `n_wanted` trials and suggest their params.

        An enqueued trial whose params do not fit the space fails alone and is not in the batch.

        Returns:
            The claimed trials, possibly fewer than wanted.

        Raises:
            SearchError: too many trials of the study failed.
            StudyDeletedError: the study is no longer there.
            StorageError: the database did not come back.
        """
        cache = self.storage.cache(self.study_id)
        attempts = itertools.count()

        def work(connection: Connection) -> tuple[claims.Claims, float]:
            begun = time.monotonic()
            if next(attempts):
                cache.invalidate()
            may_start = self._check_stop(connection, cache) is None
            claimed = claims.claim(
                connection,
                cache,
                n_wanted if may_start else 0,
                worker=self._worker,
                host=host_name(),
                lease_s=self._settings.lease_s,
                max_retries=self._settings.max_retries,
                max_failures=self._settings.max_failures,
            )
            return claimed, begun

        result, begun = self.storage.write(self.study_id, work)
        claimed = [trial_id(trial) for trial in result.trials]
        self._running.update(claimed)
        self.storage.adopt(self.study_id, result.trials)
        if claimed:
            self._suggestions.suggest(result.trials, self._refuse)
            self.flush()
        elif result.foreign:
            self._notice_foreign(result.foreign)
        trials = tuple(self.storage.get_trial(key) for key in claimed if key in self._running)
        spent = result.budget_left == 0 and result.others_running == 0
        over = not claimed and (spent or self._stopped_by is not None)
        return Batch(trials, over, begun)

    def _check_stop(self, connection: Connection, cache: TrialCache) -> StopReason | None:
        """Return why the study is to stop, if its deadline or patience is reached."""
        attrs = read_study_attrs(connection, self.study_id, (DEADLINE,))
        left_s = seconds_left(attrs, claims.database_now(connection)) if attrs else None
        self._ends_at = None if left_s is None else time.monotonic() + left_s
        if self.spec.patience is not None:
            self._count_improvements(cache.trials)
        self._stopped_by = stop_reason(self.spec, left_s, self._improvements)
        return self._stopped_by

    def _counts(self, trial: FrozenTrial) -> bool:
        """Return whether a finished trial counts as one of this study, not of another program."""
        constraint = self.spec.objective.constraint
        measured = not constraint or is_measured(trial, constraint)
        fitting = measured and fits_space(trial, self._distributions)
        return fitting and not lacks_params(trial, self.spec.space, self.spec.config)

    def _count_improvements(self, trials: Sequence[FrozenTrial]) -> None:
        if self._new_trials.outdated(trials):
            self._new_trials.clear()
            self._improvements = Improvements()
        for trial in self._new_trials.read(trials):
            if trial.state.is_finished() and self._counts(trial):
                self._improvements.add(trial)

    def renew(self, trial_ids: Iterable[int]) -> None:
        """Write a heartbeat for trials; called from the lease's own thread."""
        keys = list(trial_ids)
        self.storage.write_unlocked(
            self.study_id, lambda c: claims.renew(c, self.study_id, self._worker, keys)
        )

    def record_admission(self, trial: FrozenTrial, tape_position: int) -> None:
        """Record the position of the tape at which a trial entered."""
        self.storage.set_trial_user_attr(trial_id(trial), TAPE_POSITION, tape_position)

    def report(self, key: int, epoch: int, value: float) -> None:
        """Record the value of a trial after an epoch."""
        self.storage.set_trial_intermediate_value(key, epoch, value)

    def trials_to_prune(self, reported: Sequence[int]) -> frozenset[int]:
        """Return the ids of the trials to prune, compared with the reports of all workers.

        After the study's deadline, all reported trials are pruned.
        """
        if not reported:
            return frozenset()
        if self._ends_at is not None and time.monotonic() >= self._ends_at:
            return frozenset(reported)
        self.storage.sync(self.study_id)
        return self._pruner.trials_to_prune(self._suggestions.study, reported)

    def record_metrics(self, key: int, metrics: Mapping[str, float]) -> None:
        """Record a trial's metrics as user attributes, and how far it is beyond each bound."""
        for name, value in metrics.items():
            if math.isfinite(value):
                self.storage.set_trial_user_attr(key, METRIC_PREFIX + name, value)
        for name, value in violations(self.spec.objective.constraint, metrics).items():
            self.storage.set_trial_system_attr(key, CONSTRAINT_PREFIX + name, value)

    def complete(self, key: int, value: float, *, epochs: int) -> None:
        """Complete a trial with its value, or fail it if the value is not finite."""
        if not math.isfinite(value):
            self.fail(key, f"value must be finite, found {value}")
            return
        self.storage.set_trial_user_attr(key, EPOCHS_TRAINED, epochs)
        self.storage.set_trial_state_values(key, TrialState.COMPLETE, [value])

    def prune(self, key: int, *, epochs: int) -> None:
        """Prune a trial; its value is its last report."""
        trial = self.storage.get_trial(key)
        value = trial.intermediate_values[trial.last_step or 0]
        self.storage.set_trial_user_attr(key, EPOCHS_TRAINED, epochs)
        self.storage.set_trial_state_values(key, TrialState.PRUNED, [value])

    def fail(self, key: int, reason: str) -> None:
        """Fail a trial because of its own error; it is not counted in the budget."""
        self.storage.set_trial_user_attr(key, FAILURE, reason)
        self.storage.set_trial_state_values(key, TrialState.FAIL)

    def record_timings(self, timings: WorkerTimings) -> None:
        """Record in the study how this worker has spent its time so far."""
        self.storage.set_study_user_attr(self.study_id, EFFORT + self._worker, asdict(timings))

    def flush(self) -> frozenset[int]:
        """Write all pending changes.

        Returns:
            Ids of the trials that another worker has taken over.
        """
        lost = self.storage.flush()
        self._running &= self.storage.cache(self.study_id).own
        return lost

    def hand_back(self, *, crashed: bool) -> None:
        """Fail all trials still running, and queue a retry of each for any worker."""
        keys = sorted(self._running)
        changes = self.storage.take_changes(self.study_id)
        if not keys and not changes:
            return
        self.storage.write(
            self.study_id,
            lambda c: expiry.hand_back(
                c,
                self.study_id,
                changes,
                keys,
                worker=self._worker,
                crashed=crashed,
                max_retries=self._settings.max_retries,
            ),
        )
        self.abandon()

    def abandon(self) -> None:
        """Forget all trials still running, and discard their changes that were not written."""
        self.storage.disown(self.study_id, sorted(self._running))
        self._running.clear()

    def _refuse(self, trial: FrozenTrial, reason: str) -> None:
        """Fail a trial that was enqueued with params that do not fit the space."""
        self.storage.set_trial_user_attr(trial_id(trial), REFUSED, True)
        self.fail(trial_id(trial), reason)

    def _notice_foreign(self, foreign: Sequence[FrozenTrial]) -> None:
        for trial in foreign:
            self._notices.show(
                "foreign",
                trial,
                "is run by another program, without heartbeats; it counts towards the budget for "
                f"{claims.FOREIGN_GRACE_S / 60:g} minutes after its start",
            )


def join(
    study_name: str, storage_url: str, settings: WorkerSettings, *, worker: str
) -> WorkerSession:
    """Open a storage and join a study in it.

    Returns:
        The session, to be entered.

    Raises:
        StorageError: the storage cannot be reached.
        StudyError: there is no study with that name in it.
    """
    return WorkerSession(StoredStudy.open(study_name, storage_url), settings, worker=worker)
