"""What every study must look like once its budget is spent."""

from collections import Counter

from optuna.trial import FrozenTrial, TrialState


def assert_exact(trials: list[FrozenTrial], budget: int) -> None:
    """The budget is met exactly, nothing is left over, and no lineage finished twice."""
    states = Counter(trial.state for trial in trials)
    assert states[TrialState.COMPLETE] + states[TrialState.PRUNED] == budget
    assert states[TrialState.RUNNING] == states[TrialState.WAITING] == 0
    assert [trial.number for trial in trials] == list(range(len(trials)))
    retried = Counter(t.user_attrs["retry_of"] for t in trials if "retry_of" in t.user_attrs)
    assert set(retried.values()) <= {1}
    assert all(trials[number].state == TrialState.FAIL for number in retried)
