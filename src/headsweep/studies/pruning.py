"""Pruning decisions for all trials that report at the same time.

Successive halving and Hyperband compare a trial with those that reached the same rung before it. If
the trials were judged one after another, the first would be compared with fewer trials than the
last; here all values are recorded first, and each is then compared with all of them. If trials
report one at a time, the decisions are Optuna's. The other pruners compare with finished trials
only, so Optuna's own code judges their trials one by one.
"""

from __future__ import annotations

import binascii
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from optuna import Study
from optuna.trial import FrozenTrial

from headsweep.search.samplers_and_pruners import build_pruner
from headsweep.search.spec import Policy
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.storage.optuna_tables import RUNG_PREFIX, altered, trial_id
from headsweep.storage.trial_cache import TrialCache


class BatchPruner(Protocol):
    """Decides which of the trials that just reported are pruned."""

    def trials_to_prune(self, study: Study, reported: Sequence[int]) -> frozenset[int]:
        """Return the ids of the trials to prune, and record the values at rungs."""


def build_batch_pruner(
    policy: Policy, storage: BatchedStorage, study_id: int, *, spared: int, steps: frozenset[int]
) -> BatchPruner:
    """Return the pruner of a study.

    Args:
        policy: a resolved pruner.
        storage: the study's storage.
        study_id: id of the study.
        spared: how many of the best trials at an epoch are never pruned.
        steps: the epochs at which the pruner decides.
    """
    pruner = _pruner_by_name(policy, storage, study_id, steps)
    return FinalistProtection(pruner, storage, study_id, spared)


def _pruner_by_name(
    policy: Policy, storage: BatchedStorage, study_id: int, steps: frozenset[int]
) -> BatchPruner:
    kwargs = dict(policy.kwargs)
    if policy.name == "successive_halving":
        return BatchHalving(storage, study_id, **kwargs)
    if policy.name == "hyperband":
        return BatchHyperband(storage, study_id, **kwargs)
    return OneByOnePruner(policy, storage, steps)


@dataclass(frozen=True)
class FinalistProtection:
    """Never prunes the best trials at an epoch, whatever the pruner decides.

    A study guarantees that its finalists are trained fully: if many trials reach a rung at once,
    successive halving alone would leave only one in `reduction_factor ** rungs` of them.
    """

    pruner: BatchPruner
    storage: BatchedStorage
    study_id: int
    spared: int

    def trials_to_prune(self, study: Study, reported: Sequence[int]) -> frozenset[int]:
        """Return the ids of the trials to prune."""
        pruned = self.pruner.trials_to_prune(study, reported)
        last = {key: self.storage.get_trial(key).last_step for key in pruned}
        thresholds = {
            step: self._threshold(step) for step in set(last.values()) if step is not None
        }
        return frozenset(
            key
            for key, step in last.items()
            if step is None or not self._passes(key, step, thresholds)
        )

    def _threshold(self, step: int) -> float:
        """Return the value that the last of the spared trials reported at a step."""
        return self.storage.current(self.study_id).reported_at(step).nth_best(self.spared)

    def _passes(self, key: int, step: int, thresholds: dict[int, float]) -> bool:
        return self.storage.get_trial(key).intermediate_values[step] >= thresholds[step]


class OneByOnePruner:
    """Any pruner of Optuna, called for each trial separately.

    The pruner sees only the values at the epochs of `steps`, since Optuna's percentile pruner
    compares the best of all values that a trial has reported.
    """

    def __init__(self, policy: Policy, storage: BatchedStorage, steps: frozenset[int]) -> None:
        self._pruner = build_pruner(policy)
        self._storage = storage
        self._steps = steps

    def trials_to_prune(self, study: Study, reported: Sequence[int]) -> frozenset[int]:
        """Return the ids of the trials to prune."""
        return frozenset(key for key in reported if self._pruner.prune(study, self._at_steps(key)))

    def _at_steps(self, key: int) -> FrozenTrial:
        trial = self._storage.get_trial(key)
        values = trial.intermediate_values.items()
        return altered(trial, intermediate_values={e: v for e, v in values if e in self._steps})


@dataclass(frozen=True)
class BatchHalving:
    """Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934), as Optuna defines it.

    Rung r is at epoch `min_resource * reduction_factor ** (min_early_stopping_rate + r)`; of
    its n values, the best n // reduction_factor continue, at least one, and all that are equal to
    the last of these.
    """

    storage: BatchedStorage
    study_id: int
    min_resource: int
    reduction_factor: int
    min_early_stopping_rate: int = 0
    bootstrap_count: int = 0

    def trials_to_prune(self, study: Study, reported: Sequence[int]) -> frozenset[int]:
        """Return the ids of the trials to prune."""
        cache = self.storage.current(self.study_id)
        return self.among(lambda rung: cache.at_rung(rung).ascending, reported)

    def among(
        self, values_at: Callable[[int], Sequence[float]], reported: Sequence[int]
    ) -> frozenset[int]:
        """Return the ids of the trials to prune among those that compete at the same rungs.

        Args:
            values_at: returns the values of all competing trials at a rung, ascending, including
                those recorded by this call.
            reported: ids of the trials that reported.
        """
        pruned: set[int] = set()
        climbing = [self.storage.get_trial(key) for key in reported]
        rung = 0
        while climbing:
            here = [trial for trial in climbing if self._reaches(trial, rung)]
            entering = [t for t in here if f"{RUNG_PREFIX}{rung}" not in t.system_attrs]
            pruned |= self._enter(values_at, entering, rung)
            climbing = [trial for trial in here if trial_id(trial) not in pruned]
            rung += 1
        return frozenset(pruned)

    def _reaches(self, trial: FrozenTrial, rung: int) -> bool:
        step = trial.last_step
        exponent = self.min_early_stopping_rate + rung
        return step is not None and step >= self.min_resource * self.reduction_factor**exponent

    def _enter(
        self,
        values_at: Callable[[int], Sequence[float]],
        entering: Sequence[FrozenTrial],
        rung: int,
    ) -> set[int]:
        """Return the ids to prune among trials that enter a rung, and record their values."""
        if not entering:
            return set()
        values = {trial_id(t): t.intermediate_values[t.last_step or 0] for t in entering}
        for key, value in values.items():
            if not math.isnan(value):
                self.storage.set_trial_system_attr(key, f"{RUNG_PREFIX}{rung}", value)
        competing = values_at(rung)
        if len(competing) <= self.bootstrap_count:
            return set(values)
        last = competing[-max(len(competing) // self.reduction_factor, 1)]
        return {key for key, value in values.items() if math.isnan(value) or value < last}


class BatchHyperband:
    """Hyperband (Li et al. 2018): successive halving in brackets, as Optuna assigns them."""

    def __init__(
        self,
        storage: BatchedStorage,
        study_id: int,
        min_resource: int,
        max_resource: int,
        reduction_factor: int,
        bootstrap_count: int = 0,
    ) -> None:
        n = math.floor(math.log(max_resource / min_resource, reduction_factor)) + 1
        self._brackets = [
            BatchHalving(storage, study_id, min_resource, reduction_factor, rate, bootstrap_count)
            for rate in range(n)
        ]
        self._shares = [math.ceil(n * reduction_factor**s / (s + 1)) for s in reversed(range(n))]
        self._storage = storage
        self._study_id = study_id
        self._bracket_of: dict[int, int] = {}

    def trials_to_prune(self, study: Study, reported: Sequence[int]) -> frozenset[int]:
        """Return the ids of the trials to prune."""
        cache = self._storage.current(self._study_id)
        pruned: frozenset[int] = frozenset()
        for bracket, halving in enumerate(self._brackets):
            mine = [
                k for k in reported if self._cached_bracket(study.study_name, cache, k) == bracket
            ]
            pruned |= halving.among(self._values_of(study.study_name, cache, bracket), mine)
        return pruned

    def bracket(self, study_name: str, number: int) -> int:
        """Return the bracket of a trial, drawn by its number in proportion to their shares."""
        draw = binascii.crc32(f"{study_name}_{number}".encode()) % sum(self._shares)
        ends = itertools.accumulate(self._shares)
        return next(bracket for bracket, end in enumerate(ends) if draw < end)

    def _values_of(
        self, study_name: str, cache: TrialCache, bracket: int
    ) -> Callable[[int], Sequence[float]]:
        return lambda rung: sorted(
            value
            for key, value in cache.at_rung(rung).by_trial().items()
            if self._cached_bracket(study_name, cache, key) == bracket
        )

    def _cached_bracket(self, study_name: str, cache: TrialCache, key: int) -> int:
        """Return the bracket of a trial by its id, drawn once."""
        if key not in self._bracket_of:
            trial = cache.get(key)
            assert trial is not None
            self._bracket_of[key] = self.bracket(study_name, trial.number)
        return self._bracket_of[key]
