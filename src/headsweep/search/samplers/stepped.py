"""A wrapper for Optuna's samplers that makes stepped values exact decimals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from headsweep.search.steps import on_step


class SteppedSampler(BaseSampler):
    """Rounds the values of a sampler to the points that the study file describes.

    Optuna's samplers add steps as floats, so that three steps of 0.1 give 0.30000000000000004.

    Args:
        sampler: the sampler that draws the values.
    """

    def __init__(self, sampler: BaseSampler) -> None:
        self.sampler = sampler

    def reseed_rng(self) -> None:
        """Seed the random numbers anew."""
        self.sampler.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Prepare for a trial."""
        self.sampler.before_trial(study, trial)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Take the result of a trial."""
        self.sampler.after_trial(study, trial, state, values)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the params that are suggested jointly."""
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return values for the params that are suggested jointly."""
        drawn = self.sampler.sample_relative(study, trial, search_space)
        return {name: on_step(search_space[name], value) for name, value in drawn.items()}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return a value for one param."""
        value = self.sampler.sample_independent(study, trial, param_name, param_distribution)
        return on_step(param_distribution, value)
