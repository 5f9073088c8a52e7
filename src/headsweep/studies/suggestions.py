"""Params of claimed trials: suggested by the sampler, or checked where they were enqueued."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import NopPruner
from optuna.trial import FrozenTrial

from headsweep.errors import TrialError
from headsweep.search.given_params import check_given_params
from headsweep.search.new_trials import NewTrials
from headsweep.search.objective import is_measured
from headsweep.search.samplers.tpe import BatchedTPESampler
from headsweep.search.samplers_and_pruners import build_sampler
from headsweep.search.space import suggest
from headsweep.storage.optuna_tables import SearchStudy, forget_asked_trials, trial_id
from headsweep.studies.study import StoredStudy
from headsweep.studies.trials import FINISHED


class TrialNotices:
    """Prints notices about trials, each kind once for a trial."""

    def __init__(self) -> None:
        self._shown: set[tuple[str, int]] = set()

    def show(self, kind: str, trial: FrozenTrial, text: str) -> None:
        """Print a notice, unless one of this kind was printed for the trial."""
        if (kind, trial.number) not in self._shown:
            self._shown.add((kind, trial.number))
            print(f"Notice: trial {trial.number} {text}", file=sys.stderr, flush=True)


class Suggestions:
    """The sampler of one worker, which does not see trials of other programs that do not fit.

    Args:
        study: the study, whose storage is used by this worker alone.
        distributions: those of its space, by name.
        notices: shows which trials are ignored.

    Attributes:
        study: the study as samplers and pruners see it.
    """

    def __init__(
        self,
        study: StoredStudy,
        distributions: Mapping[str, BaseDistribution],
        notices: TrialNotices,
    ) -> None:
        self.spec = study.spec
        self.storage = study.storage
        self.study_id = study.study_id
        sampler = build_sampler(self.spec, study.next_worker_index())
        # Samplers use all trials: with Hyperband as its pruner, a study lists only one bracket's.
        self.study = SearchStudy(
            study.name, self.storage, sampler, NopPruner(), hidden=lambda: self._hidden
        )
        self._distributions = distributions
        self._notices = notices
        self._unread, self._unmeasured = NewTrials(), set[int]()

    def suggest(
        self, claimed: Sequence[FrozenTrial], refuse: Callable[[FrozenTrial, str], None]
    ) -> None:
        """Suggest the params of claimed trials.

        Args:
            claimed: the trials; those that were enqueued have params already.
            refuse: called with each enqueued trial whose params do not fit the space, and why.
        """
        fitting = [trial for trial in claimed if self._fits(trial, refuse)]
        self._find_unmeasured()
        sampler = self.study.sampler
        batch = (
            sampler.batch(len(fitting)) if isinstance(sampler, BatchedTPESampler) else nullcontext()
        )
        with warnings.catch_warnings(), batch:
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            for trial in fitting:
                if not isinstance(sampler, BatchedTPESampler):
                    forget_asked_trials(self.study)
                asked = optuna.Trial(self.study, trial_id(trial))
                suggest(asked, self.spec.space, self.spec.config)

    def _fits(self, trial: FrozenTrial, refuse: Callable[[FrozenTrial, str], None]) -> bool:
        """Return whether the params of an enqueued trial fit the space."""
        try:
            ignored = check_given_params(trial, self._distributions)
        except TrialError as error:
            reason = f"enqueued with params that do not fit: {error}"
            refuse(trial, reason)
            self._notices.show("refused", trial, f"failed, it was {reason}")
            return False
        if ignored:
            names = ", ".join(map(repr, sorted(ignored)))
            self._notices.show(
                "ignored", trial, f"was enqueued with params the space lacks: {names}"
            )
        return True

    @property
    def _hidden(self) -> frozenset[int]:
        """Ids of trials of other programs that samplers must not see."""
        cache = self.storage.cache(self.study_id)
        for key in cache.misfits:
            if (trial := cache.get(key)) is not None:
                self._notices.show(
                    "hidden", trial, "has distributions of another space; it is ignored"
                )
        return frozenset(cache.misfits | self._unmeasured)

    def _find_unmeasured(self) -> None:
        """Hide finished trials whose constraints are not the study's from the sampler.

        `tpe` would take one without any for a trial that meets them; `gp` refuses the mixture.
        """
        constraint = self.spec.objective.constraint
        if not constraint and self.spec.sampler.name != "gp":
            return
        trials = self.storage.cache(self.study_id).trials
        if self._unread.outdated(trials):
            self._unread.clear()
            self._unmeasured.clear()
        for trial in self._unread.read(trials):
            if trial.state in FINISHED and not is_measured(trial, constraint):
                self._unmeasured.add(trial_id(trial))
                text = "has no value of objective.constraint" if constraint else "has constraints"
                self._notices.show(
                    "unmeasured", trial, f"{text} (another program's); it is ignored"
                )
