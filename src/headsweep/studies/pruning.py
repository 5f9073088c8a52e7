"""Pruning verdicts for all trials that report in one tick, decided together.

Successive halving and Hyperband compare a trial with those that reached the same rung before it.
Judged one after another, the first of a tick would face fewer rivals than the last; here all
values are entered first, and each is then held against the full set. With one trial a tick the
verdicts are Optuna's. The other pruners compare with finished trials only, so Optuna's own code
judges them one by one.
"""

from __future__ import annotations

import binascii
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

    def verdicts(self, study: Study, reported: Sequence[int]) -> frozenset[int]:
        """Ids of the trials to prune; values at the rungs are recorded in passing."""


def build_batch_pruner(
    policy: Policy, storage: BatchedStorage, study_id: int, *, spared: int, steps: frozenset[int]
) -> BatchPruner:
    """Return the pruner of a study.

    Args:
        policy: a resolved pruner.
        storage: of the study.
        study_id: id of the study.
        spared: the best trials at an epoch that are never pruned.
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
    """Lets the best trials at an epoch go on whatever the pruner says.

    A study promises its finalists a full training: successive halving alone, with many trials at
    a rung at once, would leave one in `reduction_factor ** rungs` of them.
    """

    pruner: BatchPruner
    storage: BatchedStorage
    study_id: int
    spared: int

    def verdicts(self, study: Study, reported: Sequence[int]) -> frozenset[int]:
        """See `BatchPruner`."""
        condemned = self.pruner.verdicts(study, reported)
        last = {key: self.storage.get_trial(key).last_step for key in condemned}
        bars = {step: self._bar(step) for step in set(last.values()) if step is not None}
        return frozenset(
            key for key, step in last.items() if step is None or not self._passes(key, step, bars)
        )

    def _bar(self, step: int) -> float:
        """The value that the last of the spared trials reported at a step."""
        return self.storage.current(self.study_id).reported_at(step).bar(self.spared)

    def _passes(self, key: int, step: int, bars: dict[int, float]) -> bool:
        return self.storage.get_trial(key).intermediate_values[step] >= bars[step]


class OneByOnePruner:
    """Any pruner of Optuna's, asked for each trial in turn.

    It is shown a trial's values at the epochs of `steps` alone, since Optuna's percentile pruner
    judges the best of all values that a trial has reported.
    """

    def __init__(self, policy: Policy, storage: BatchedStorage, steps: frozenset[int]) -> None:
        self._pruner = build_pruner(policy)
        self._storage = storage
        self._steps = steps

    def verdicts(self, study: Study, reported: Sequence[int]) -> frozenset[int]:
        """See `BatchPruner`."""
        return frozenset(key for key in reported if self._pruner.prune(study, self._at_steps(key)))

    def _at_steps(self, key: int) -> FrozenTrial:
        trial = self._storage.get_trial(key)
        values = trial.intermediate_values.items()
        return altered(trial, intermediate_values={e: v for e, v in values if e in self._steps})


@dataclass(frozen=True)
class BatchHalving:
    """Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934), as Optuna defines it.

    Rung r lies at epoch `min_resource * reduction_factor ** (min_early_stopping_rate + r)`; of n
    values there, the best n // reduction_factor go on, at least one, and all that equal the last.
    """

    storage: BatchedStorage
    study_id: int
    min_resource: int
    reduction_factor: int
    min_early_stopping_rate: int = 0
    bootstrap_count: int = 0

    def verdicts(self, study: Study, reported: Sequence[int]) -> frozenset[int]:
        """See `BatchPruner`."""
        cache = self.storage.current(self.study_id)
        return self.among(lambda rung: cache.at_rung(rung).ascending, reported)

    def among(
        self, values_at: Callable[[int], Sequence[float]], reported: Sequence[int]
    ) -> frozenset[int]:
        """Verdicts on reported trials.

        Args:
            values_at: the values of all that compete at a rung, ascending, those recorded here
                included.
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
        """Records the values of the trials that enter a rung; those that do not go on."""
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

    def verdicts(self, study: Study, reported: Sequence[int]) -> frozenset[int]:
        """See `BatchPruner`."""
        cache = self._storage.current(self._study_id)
        pruned: frozenset[int] = frozenset()
        for bracket, halving in enumerate(self._brackets):
            mine = [k for k in reported if self._known(study.study_name, cache, k) == bracket]
            pruned |= halving.among(self._values_of(study.study_name, cache, bracket), mine)
        return pruned

    def bracket(self, study_name: str, number: int) -> int:
        """The bracket of a trial: drawn by its number, in proportion to the brackets' shares."""
        draw = binascii.crc32(f"{study_name}_{number}".encode()) % sum(self._shares)
        for bracket, share in enumerate(self._shares):
            draw -= share
            if draw < 0:
                return bracket
        raise AssertionError("the draw lies below the sum of the shares")

    def _values_of(
        self, study_name: str, cache: TrialCache, bracket: int
    ) -> Callable[[int], Sequence[float]]:
        return lambda rung: sorted(
            value
            for key, value in cache.at_rung(rung).by_trial().items()
            if self._known(study_name, cache, key) == bracket
        )

    def _known(self, study_name: str, cache: TrialCache, key: int) -> int:
        """The bracket of a trial by its id, drawn once."""
        if key not in self._bracket_of:
            trial = cache.get(key)
            assert trial is not None
            self._bracket_of[key] = self.bracket(study_name, trial.number)
        return self._bracket_of[key]
