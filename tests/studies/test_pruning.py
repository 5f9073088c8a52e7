"""Pruning decisions equal Optuna's, and in a batch they do not depend on the order."""

import random
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from headsweep.search.samplers_and_pruners import build_pruner, rungs
from headsweep.search.spec import Policy
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.studies.pruning import BatchHalving, BatchHyperband, build_batch_pruner
from headsweep.studies.storages import open_storage

HALVING = Policy(name="successive_halving", kwargs={"min_resource": 1, "reduction_factor": 3})
HYPERBAND = Policy(
    name="hyperband", kwargs={"min_resource": 1, "max_resource": 27, "reduction_factor": 3}
)
SPARED = Policy(name="successive_halving", kwargs={**HALVING.kwargs, "bootstrap_count": 4})
MEDIAN = Policy(name="median", kwargs={"n_startup_trials": 3})
SELDOM = Policy(name="median", kwargs={"n_startup_trials": 3, "interval_steps": 4})


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[BatchedStorage]:
    storage = open_storage(f"sqlite:///{tmp_path}/studies.db", create=True)
    yield storage
    storage.database.close()


def curve(number: int, epoch: int) -> float:
    noise = random.Random(f"{number} {epoch}").gauss(0, 0.05)
    return (number * 13 % 50) / 50 + noise


@pytest.mark.parametrize(
    "policy", [HALVING, SPARED, HYPERBAND, MEDIAN, SELDOM], ids=lambda p: p.name
)
def test_verdicts_on_one_trial_at_a_time_equal_optunas(
    storage: BatchedStorage, policy: Policy
) -> None:
    """Run 50 trials of 27 epochs, four at a time, against Optuna's in-memory storage.

    Ours report every epoch, Optuna's only at rungs. The decisions are the same.
    """
    ours = optuna.create_study(storage=storage, study_name="same", direction="maximize")
    theirs = optuna.create_study(study_name="same", direction="maximize")
    batched = build_batch_pruner(policy, storage, ours._study_id, spared=0, steps=rungs(policy, 27))
    pruner = build_pruner(policy)
    at_rungs = rungs(policy, 27)
    waiting, running, n_pruned = list(range(50)), {}, 0
    while waiting or running:
        while waiting and len(running) < 4:
            number = waiting.pop(0)
            pair = (ours.ask(), theirs.ask())
            assert pair[0].number == pair[1].number == number
            running[number] = (*pair, 0)
        for number, (mine, other, epoch) in list(running.items()):
            epoch += 1
            running[number] = (mine, other, epoch)
            mine.report(curve(number, epoch), epoch)
            if epoch in at_rungs:
                other.report(curve(number, epoch), epoch)
                verdict = mine._trial_id in batched.trials_to_prune(ours, [mine._trial_id])
                frozen = theirs._storage.get_trial(other._trial_id)
                assert verdict == pruner.prune(theirs, frozen)
                if verdict:
                    n_pruned += 1
                    ours.tell(mine, state=TrialState.PRUNED)
                    theirs.tell(other, state=TrialState.PRUNED)
                    del running[number]
                    continue
            if epoch == 27:
                ours.tell(mine, curve(number, 27))
                theirs.tell(other, curve(number, 27))
                del running[number]
    assert n_pruned > 10


def test_verdicts_on_a_batch_do_not_depend_on_the_order(storage: BatchedStorage) -> None:
    """Of 9 trials that reach a rung together, exactly the best third continues."""
    for seed in range(5):
        study = optuna.create_study(storage=storage, direction="maximize")
        values = {study.ask()._trial_id: rank / 10 for rank in range(9)}
        order = list(values)
        random.Random(seed).shuffle(order)
        for key in order:
            storage.set_trial_intermediate_value(key, 1, values[key])
        pruned = BatchHalving(storage, study._study_id, 1, 3).trials_to_prune(study, order)
        assert {values[key] for key in values.keys() - pruned} == {0.6, 0.7, 0.8}


def test_verdicts_when_a_value_is_nan_prune_it_and_store_no_rung(storage: BatchedStorage) -> None:
    study = optuna.create_study(storage=storage, direction="maximize")
    first, second = study.ask()._trial_id, study.ask()._trial_id
    storage.set_trial_intermediate_value(first, 1, float("nan"))
    storage.set_trial_intermediate_value(second, 1, 0.1)
    pruner = BatchHalving(storage, study._study_id, 1, 2)
    assert pruner.trials_to_prune(study, [first, second]) == {first}
    assert "completed_rung_0" not in storage.get_trial(first).system_attrs


def test_verdicts_with_spared_trials_never_prune_the_best(storage: BatchedStorage) -> None:
    """Halving by 9 would leave 1 of 9 trials, but the study needs 4 that train to the end."""
    policy = Policy(name="successive_halving", kwargs={"min_resource": 1, "reduction_factor": 9})
    study = optuna.create_study(storage=storage, direction="maximize")
    pruner = build_batch_pruner(policy, storage, study._study_id, spared=4, steps=rungs(policy, 9))
    values = {study.ask()._trial_id: rank / 10 for rank in range(9)}
    for key, value in values.items():
        storage.set_trial_intermediate_value(key, 1, value)
    pruned = pruner.trials_to_prune(study, list(values))
    assert {values[key] for key in values.keys() - pruned} == {0.5, 0.6, 0.7, 0.8}


def test_bracket_of_every_trial_equals_optunas(storage: BatchedStorage) -> None:
    kwargs = {"min_resource": 1, "max_resource": 81, "reduction_factor": 3}
    study = optuna.create_study(study_name="brackets")
    theirs = optuna.pruners.HyperbandPruner(**kwargs)
    theirs._try_initialization(study)
    ours = BatchHyperband(storage, 1, **kwargs)
    for _ in range(200):
        trial = study.ask()
        frozen = study._storage.get_trial(trial._trial_id)
        assert ours.bracket("brackets", trial.number) == theirs._get_bracket_id(study, frozen)
