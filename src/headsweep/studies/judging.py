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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from optuna import Study
from optuna.trial import FrozenTrial

from headsweep.studies.definition import Policy
from headsweep.studies.policy import build_pruner
from headsweep.studies.schema import RUNG_PREFIX, trial_id
from headsweep.studies.storage import BatchedStorage


class Judge(Protocol):
    """Decides which of the trials that just reported are pruned."""

    def verdicts(self, study: Study, reported: Sequence[int]) -> frozenset[int]:
        """Ids of the trials to prune; values at the rungs are recorded in passing."""


def build_judge(policy: Policy, storage: BatchedStorage, *, spared: int) -> Judge:
    """The judge for a resolved pruner; the `spared` best trials at an epoch are never pruned."""
    return SparingJudge(_judge_by_name(policy, storage), storage, spared)


def _judge_by_name(policy: Policy, storage: BatchedStorage) -> Judge:
    kwargs = dict(policy.kwargs)
    if policy.name == "successive_halving":
        return HalvingJudge(storage, **kwargs)
    if policy.name == "hyperband":
        return HyperbandJudge(storage, **kwargs)
    return OneByOneJudge(policy, storage)


@dataclass(frozen=True)
class SparingJudge:
    """Lets the best trials at an epoch go on whatever the pruner says.

    A study promises its finalists a full training: successive halving alone, with many trials at
    a rung at once, would leave one in `reduction_factor ** rungs` of them.
    """

    judge: Judge
    storage: BatchedStorage
    spared: int

    def verdicts(self, study: Study, reported: Sequence[int]) -> frozenset[int]:
        """See `Judge`."""
        condemned = self.judge.verdicts(study, reported)
        rivals = study.get_trials(deepcopy=False) if condemned else []
        return frozenset(key for key in condemned if not self._is_spared(key, rivals))

    def _is_spared(self, key: int, rivals: Sequence[FrozenTrial]) -> bool:
        trial = self.storage.get_trial(key)
        step = trial.last_step
        if step is None:
            return False
        value = trial.intermediate_values[step]
        better = sum(rival.intermediate_values.get(step, -math.inf) > value for rival in rivals)
        return not math.isnan(value) and better < self.spared


class OneByOneJudge:
    """Any pruner of Optuna's, asked for each trial in turn."""

    def __init__(self, policy: Policy, storage: BatchedStorage) -> None:
        self._pruner = build_pruner(policy)
        self._storage = storage

    def verdicts(self, study: Study, reported: Sequence[int]) -> frozenset[int]:
        """See `Judge`."""
        return frozenset(
            key for key in reported if self._pruner.prune(study, self._storage.get_trial(key))
        )


@dataclass(frozen=True)
class HalvingJudge:
    """Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934), as Optuna defines it.

    Rung r lies at epoch `min_resource * reduction_factor ** (min_early_stopping_rate + r)`; of n
    values there, the best n // reduction_factor go on, at least one, and all that equal the last.
    """

    storage: BatchedStorage
    min_resource: int
    reduction_factor: int
    min_early_stopping_rate: int = 0
    bootstrap_count: int = 0

    def verdicts(self, study: Study, reported: Sequence[int]) -> frozenset[int]:
        """See `Judge`."""
        rivals = study.get_trials(deepcopy=False)
        return self.among(rivals, reported)

    def among(self, rivals: Sequence[FrozenTrial], reported: Sequence[int]) -> frozenset[int]:
        """Verdicts where only `rivals`, which include the reported trials, compete."""
        pruned: set[int] = set()
        climbing = [self.storage.get_trial(key) for key in reported]
        rung = 0
        while climbing:
            here = [t for t in climbing if self._reaches(t, rung)]
            entering = [t for t in here if f"{RUNG_PREFIX}{rung}" not in t.system_attrs]
            pruned |= self._enter(rivals, entering, rung)
            climbing = [t for t in here if trial_id(t) not in pruned]
            rung += 1
        return frozenset(pruned)

    def _reaches(self, trial: FrozenTrial, rung: int) -> bool:
        step = trial.last_step
        exponent = self.min_early_stopping_rate + rung
        return step is not None and step >= self.min_resource * self.reduction_factor**exponent

    def _enter(
        self, rivals: Sequence[FrozenTrial], entering: Sequence[FrozenTrial], rung: int
    ) -> set[int]:
        """Records the values of the trials that enter a rung; those that do not go on."""
        key = f"{RUNG_PREFIX}{rung}"
        values = {trial_id(t): t.intermediate_values[t.last_step or 0] for t in entering}
        competing = [t.system_attrs[key] for t in rivals if key in t.system_attrs]
        for name, value in values.items():
            if not math.isnan(value):
                self.storage.set_trial_system_attr(name, key, value)
                competing.append(value)
        if len(competing) <= self.bootstrap_count:
            return set(values)
        competing.sort(reverse=True)
        last = max(len(competing) // self.reduction_factor, 1) - 1
        return {
            name for name, value in values.items() if math.isnan(value) or value < competing[last]
        }


class HyperbandJudge:
    """Hyperband (Li et al. 2018): successive halving in brackets, as Optuna assigns them."""

    def __init__(
        self,
        storage: BatchedStorage,
        min_resource: int,
        max_resource: int,
        reduction_factor: int,
        bootstrap_count: int = 0,
    ) -> None:
        n = math.floor(math.log(max_resource / min_resource, reduction_factor)) + 1
        self._brackets = [
            HalvingJudge(storage, min_resource, reduction_factor, bracket, bootstrap_count)
            for bracket in range(n)
        ]
        self._shares = [math.ceil(n * reduction_factor**s / (s + 1)) for s in reversed(range(n))]

    def verdicts(self, study: Study, reported: Sequence[int]) -> frozenset[int]:
        """See `Judge`."""
        rivals: list[list[FrozenTrial]] = [[] for _ in self._brackets]
        bracket_of: dict[int, int] = {}
        for trial in study.get_trials(deepcopy=False):
            bracket = self.bracket(study.study_name, trial.number)
            rivals[bracket].append(trial)
            bracket_of[trial_id(trial)] = bracket
        pruned: frozenset[int] = frozenset()
        for bracket, halving in enumerate(self._brackets):
            mine = [key for key in reported if bracket_of[key] == bracket]
            pruned |= halving.among(rivals[bracket], mine)
        return pruned

    def bracket(self, study_name: str, number: int) -> int:
        """The bracket of a trial: drawn by its number, in proportion to the brackets' shares."""
        draw = binascii.crc32(f"{study_name}_{number}".encode()) % sum(self._shares)
        for bracket, share in enumerate(self._shares):
            draw -= share
            if draw < 0:
                return bracket
        raise AssertionError("the draw lies below the sum of the shares")
