"""What batched TPE reads of a study at each fit, and that it misses nothing by reading less."""

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from headsweep.search.samplers.tpe import BatchedTPESampler
from headsweep.search.samplers.tpe_fits import Fits, History

SPACE = {"x": FloatDistribution(0.0, 1.0), "loss": CategoricalDistribution(("bce", "focal"))}


class CountedTrials(Sequence[FrozenTrial]):
    """A list of trials that counts how many are read."""

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        self.trials = trials
        self.n_reads = 0

    def __len__(self) -> int:
        return len(self.trials)

    @overload
    def __getitem__(self, index: int) -> FrozenTrial: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[FrozenTrial]: ...
    def __getitem__(self, index: Any) -> Any:
        read = self.trials[index]
        self.n_reads += len(read) if isinstance(index, slice) else 1
        return read


def _trial(number: int, state: TrialState, *, x: float = 0.5) -> FrozenTrial:
    return optuna.create_trial(
        state=state,
        value=x if state == TrialState.COMPLETE else None,
        params={"x": x, "loss": "bce"} if state != TrialState.WAITING else {},
        distributions=SPACE if state != TrialState.WAITING else {},
    )


def _numbered(states: Sequence[TrialState]) -> list[FrozenTrial]:
    rng = np.random.RandomState(0)
    trials = [_trial(i, state, x=rng.uniform()) for i, state in enumerate(states)]
    for number, trial in enumerate(trials):
        trial.number = number
    return trials


def _history() -> History:
    return History(optuna.create_study())


def test_learn_when_most_trials_are_known_reads_only_new_and_unfinished_ones() -> None:
    history = _history()
    trials = _numbered([TrialState.COMPLETE] * 1000 + [TrialState.RUNNING] * 3)
    history.learn(trials)
    trials = _numbered([TrialState.COMPLETE] * 1002 + [TrialState.RUNNING] * 5)
    counted = CountedTrials(trials)
    running = history.learn(counted)
    assert [trial.number for trial in running] == [1002, 1003, 1004, 1005, 1006]
    assert history.n_finished == 1002
    assert counted.n_reads <= 3 + 4 + 2  # unfinished, new, and the last one of before and of now


def test_suggestions_when_history_grows_equal_those_of_a_history_read_at_once() -> None:
    states = [TrialState.COMPLETE, TrialState.RUNNING, TrialState.FAIL, TrialState.WAITING]
    drawn = np.random.RandomState(1).choice(4, size=900, p=[0.7, 0.1, 0.1, 0.1])
    before = _numbered([states[i] for i in drawn])
    # The running trials end, the waiting ones start.
    after = _numbered([states[max(i - 1, 0)] if i != 2 else states[i] for i in drawn])
    for trial in after:
        if trial.state == TrialState.FAIL and drawn[trial.number] == 3:
            trial.state = TrialState.RUNNING
    after += _numbered([TrialState.COMPLETE] * 50)
    for number, trial in enumerate(after):
        trial.number = number
    grown = _history()
    for n in (0, 1, 300, 900):
        grown.learn(before[:n])
    at_once = _history()
    for liar in (False, True):
        fits = [Fits(history, history.learn(after), group=False) for history in (grown, at_once)]
        densities = (f.densities(SPACE, constant_liar=liar) for f in fits)
        for ours, expected in zip(*densities, strict=True):
            points = expected.draw(50, np.random.RandomState(2))
            np.testing.assert_array_equal(ours.log_density(points), expected.log_density(points))


@pytest.mark.parametrize("deleted", [0, 5, 9])
def test_learn_when_a_trial_was_deleted_forgets_it(deleted: int) -> None:
    history = _history()
    trials = _numbered([TrialState.COMPLETE] * 10)
    history.learn(trials)
    left = [trial for trial in trials if trial.number != deleted]
    history.learn(left)
    assert history.finished.tolist() == [trial.number for trial in left]
    assert deleted not in history.best(9)


def test_suggest_when_the_best_trial_was_deleted_uses_the_others() -> None:
    sampler = BatchedTPESampler(seed=0, n_startup_trials=2)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=12)
    best = study.best_trial.number
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.number != best]
    study.get_trials = lambda **_: trials  # type: ignore[method-assign]
    assert 0 <= study.ask({"x": FloatDistribution(0, 1)}).params["x"] <= 1
