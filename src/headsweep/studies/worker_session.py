"""One worker's share in a study: claims, suggestions, reports, verdicts, results, hand-backs."""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Self

import optuna
from optuna.pruners import NopPruner
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection

from headsweep.search.samplers.tpe import BatchedTPESampler
from headsweep.search.samplers_and_pruners import build_sampler, longest_training, rungs
from headsweep.search.space import suggest
from headsweep.settings import WorkerSettings, host_name
from headsweep.storage import claims as ledger
from headsweep.storage.optuna_tables import forget_asked_trials, trial_id
from headsweep.studies.adoption import check_objective
from headsweep.studies.pruning import build_batch_pruner
from headsweep.studies.study import StoredStudy
from headsweep.studies.trials import EPOCHS_TRAINED, TAPE_POSITION
from headsweep.studies.worker_timings import EFFORT, WorkerTimings

LEARNING_SAMPLERS = frozenset({"tpe", "gp", "cmaes"})
GENERATIONS = 10
SMALLEST_GENERATION = 4

PATIENCE_S = 10.0
"""How long a worker waits, when it starts, for a database that does not answer."""
OUTAGE_S = 600.0
"""How long it waits later on for a database that answered before."""


@dataclass(frozen=True)
class Batch:
    """Trials claimed at once, with their params, and whether more may come."""

    trials: tuple[FrozenTrial, ...]
    over: bool
    """Whether the budget is spent and no other worker's trial could still come back."""
    claimed_at: float
    """`time.monotonic()` no later than the first heartbeat of these trials."""


class WorkerSession:
    """Speaks trials to the store; all that happens between two flushes is written in one go.

    Args:
        study: an existing study, whose storage is used by this session alone.
        settings: leases and limits.
        worker: an id that no other live worker has; trials that a former life of the same id left
            running are handed back when the session is entered.
    """

    def __init__(self, study: StoredStudy, settings: WorkerSettings, *, worker: str) -> None:
        self.study = study
        self.spec = study.spec
        self.study_id = study.study_id
        storage = study.storage
        check_objective(study.name, storage.get_study_directions(self.study_id))
        self.rungs = rungs(self.spec.pruner, longest_training(self.spec))
        self.storage = storage
        self._settings = settings
        self._worker = worker
        self._held: set[int] = set()
        self._pruner = build_batch_pruner(
            self.spec.pruner,
            storage,
            self.study_id,
            spared=self.spec.finalists.top_k,
            steps=self.rungs,
        )
        sampler = build_sampler(self.spec, study.next_worker_index())
        # Suggestions learn from all trials: no pruner here, or Hyperband would show its bracket's.
        self._study = optuna.Study(study.name, storage, sampler, NopPruner())
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self.storage.database.write(
            lambda c: ledger.take_back(
                c, self.study_id, self._worker, max_retries=self._settings.max_retries
            ),
            study_id=self.study_id,
        )
        self.storage.sync(self.study_id)  # all of it here, not under the lock of the first claim
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
        """How many trials one worker may run at a time, so that the sampler can learn from some.

        A sampler that learns gets to see results at least `GENERATIONS` times in a budget.
        """
        if self.spec.sampler.name not in LEARNING_SAMPLERS:
            return self.spec.n_trials
        return max(SMALLEST_GENERATION, math.ceil(self.spec.n_trials / GENERATIONS))

    @property
    def held(self) -> frozenset[int]:
        """Ids of the trials that this worker runs."""
        return frozenset(self._held)

    def claim(self, n_wanted: int) -> Batch:
        """Claims up to `n_wanted` trials and suggests their params.

        Raises:
            SearchError: too many trials of the study failed.
            StorageError: the database did not come back.
        """
        cache = self.storage.cache(self.study_id)
        attempts = itertools.count()

        def work(connection: Connection) -> tuple[ledger.Claims, float]:
            begun = time.monotonic()
            if next(attempts):
                cache.invalidate()
            claims = ledger.claim(
                connection,
                cache,
                n_wanted,
                worker=self._worker,
                host=host_name(),
                lease_s=self._settings.lease_s,
                max_retries=self._settings.max_retries,
                max_failures=self._settings.max_failures,
            )
            return claims, begun

        claims, begun = self.storage.database.write(work, study_id=self.study_id)
        claimed = [trial_id(trial) for trial in claims.trials]
        self._held.update(claimed)
        self.storage.adopt(self.study_id, claims.trials)
        if claimed:
            self._suggest(claimed)
            self.flush()
        trials = tuple(self.storage.get_trial(key) for key in claimed if key in self._held)
        over = not claimed and claims.budget_left == 0 and claims.others_running == 0
        return Batch(trials, over, begun)

    def renew(self, trial_ids: Iterable[int]) -> None:
        """Renews the leases of trials; called from the lease's own thread."""
        keys = list(trial_ids)
        self.storage.database.write(lambda c: ledger.renew(c, keys), study_id=None)

    def admitted(self, trial: FrozenTrial, tape_position: int) -> None:
        """Notes where on the tape a trial entered."""
        self.storage.set_trial_user_attr(trial_id(trial), TAPE_POSITION, tape_position)

    def report(self, key: int, epoch: int, value: float) -> None:
        """Notes the value of a trial after an epoch."""
        self.storage.set_trial_intermediate_value(key, epoch, value)

    def verdicts(self, reported: Sequence[int]) -> frozenset[int]:
        """Ids of the trials to prune, judged together against what all workers reported."""
        if not reported:
            return frozenset()
        self.storage.sync(self.study_id)
        return self._pruner.verdicts(self._study, reported)

    def complete(self, key: int, value: float, *, epochs: int) -> None:
        """Ends a trial with its value; one that is not finite is a failure."""
        if not math.isfinite(value):
            self.fail(key, f"its value must be finite, found {value}")
            return
        self.storage.set_trial_user_attr(key, EPOCHS_TRAINED, epochs)
        self.storage.set_trial_state_values(key, TrialState.COMPLETE, [value])

    def prune(self, key: int, *, epochs: int) -> None:
        """Ends a trial that was judged not worth going on; its value is its last report."""
        trial = self.storage.get_trial(key)
        value = trial.intermediate_values[trial.last_step or 0]
        self.storage.set_trial_user_attr(key, EPOCHS_TRAINED, epochs)
        self.storage.set_trial_state_values(key, TrialState.PRUNED, [value])

    def fail(self, key: int, reason: str) -> None:
        """Ends a trial that failed by itself; another one takes its place in the budget."""
        self.storage.set_trial_user_attr(key, ledger.FAILURE, reason)
        self.storage.set_trial_state_values(key, TrialState.FAIL)

    def note_effort(self, effort: WorkerTimings) -> None:
        """Notes in the study what this worker has spent until now."""
        self.storage.set_study_user_attr(self.study_id, EFFORT + self._worker, asdict(effort))

    def flush(self) -> frozenset[int]:
        """Writes all that happened; ids of the trials that are no longer ours."""
        lost = self.storage.flush()
        own = self.storage.cache(self.study_id).own
        self._held &= own
        return lost

    def hand_back(self, *, crashed: bool) -> None:
        """Gives up all trials still running; their successors wait for the next worker."""
        keys = sorted(self._held)
        changes = self.storage.take_changes()
        if not keys and not changes:
            return
        self.storage.database.write(
            lambda c: ledger.hand_back(
                c,
                self.study_id,
                changes,
                keys,
                crashed=crashed,
                max_retries=self._settings.max_retries,
            ),
            study_id=self.study_id,
        )
        self.abandon()

    def abandon(self) -> None:
        """Forgets all trials still running and tells nothing of them."""
        self.storage.disown(sorted(self._held))
        self._held.clear()

    def _suggest(self, claimed: Sequence[int]) -> None:
        sampler = self._study.sampler
        batch = (
            sampler.batch(len(claimed)) if isinstance(sampler, BatchedTPESampler) else nullcontext()
        )
        with warnings.catch_warnings(), batch:
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            for key in claimed:
                if not isinstance(sampler, BatchedTPESampler):
                    forget_asked_trials(self._study)
                suggest(optuna.Trial(self._study, key), self.spec.space, self.spec.config)


def join(
    study_name: str, storage_url: str, settings: WorkerSettings, *, worker: str
) -> WorkerSession:
    """Opens a storage and joins a study in it, to outlast outages from then on.

    Raises:
        StorageError: the storage cannot be reached.
        StudyError: no study of that name is in the store.
    """
    study = StoredStudy.open(study_name, storage_url, patience_s=PATIENCE_S, outage_s=OUTAGE_S)
    return WorkerSession(study, settings, worker=worker)
