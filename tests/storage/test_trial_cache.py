"""The trial cache of a study always equals a fresh read of the database."""

import datetime
import math
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.dialects import sqlite

from headsweep.storage import optuna_tables, trial_rows
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.storage.optuna_tables import (
    RUNG_PREFIX,
    altered,
    frozen_trial,
)
from headsweep.storage.trial_cache import LISTED, TrialCache
from headsweep.studies.storages import open_storage

RUNNING, WAITING, COMPLETE = TrialState.RUNNING, TrialState.WAITING, TrialState.COMPLETE
PRUNED, FAIL = TrialState.PRUNED, TrialState.FAIL
NOW = datetime.datetime(2026, 11, 23, 1, 0)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with two studies, of which the tests use the second."""
    file = tmp_path_factory.mktemp("template") / "studies.db"
    storage = open_storage(f"sqlite:///{file}", create=True)
    storage.create_new_study([StudyDirection.MAXIMIZE], "other")
    assert storage.create_new_study([StudyDirection.MAXIMIZE], "probe") == 2
    storage.remove_session()
    storage.database.close()
    return file


@pytest.fixture
def storage(tmp_path: Path, template: Path) -> Iterator[BatchedStorage]:
    """The storage under test."""
    shutil.copy(template, tmp_path)
    storage = open_storage(f"sqlite:///{tmp_path}/studies.db")
    yield storage
    storage.database.close()


@pytest.fixture
def stock(storage: BatchedStorage, tmp_path: Path) -> Iterator[RDBStorage]:
    """Optuna's own storage on the same file, as used by another process."""
    stock = RDBStorage(f"sqlite:///{tmp_path}/studies.db")
    yield stock
    stock.remove_session()
    stock.engine.dispose()


def facts(cache: TrialCache) -> dict[str, object]:
    """Return everything that can be read from a cache."""
    return {
        "trials": cache.trials,
        "ids": [cache.get(trial._trial_id) for trial in cache.trials],
        "in state": [[trial.number for trial in cache.in_state(state)] for state in LISTED],
        "counts": (cache.n_trials, cache.n_finished),
        "reported": [dict(cache.reported_at(step).by_trial()) for step in range(4)],
        "ascending": [cache.reported_at(step).ascending for step in range(4)],
        "rungs": [dict(cache.at_rung(rung).by_trial()) for rung in range(3)],
        "own": cache.own,
    }


def trial(key: int, state: TrialState, number: int | None = None, **fields: object) -> FrozenTrial:
    bare = frozen_trial(key, key - 1 if number is None else number, state, None)
    return altered(bare, **fields)


def test_sync_keeps_own_trials_over_the_rows_of_the_database(storage, stock) -> None:
    mine, theirs = stock.create_new_trial(2), stock.create_new_trial(2)
    cache = TrialCache(2)
    storage.database.read(cache.sync)
    cache.own.add(mine)
    held = altered(cache.get(mine), user_attrs={"step": 7}, intermediate_values={1: 0.5})
    cache.put(held)
    for key in (mine, theirs):
        stock.set_trial_user_attr(key, "step", 3)
    storage.database.read(cache.sync)
    assert cache.get(mine) is held
    assert cache.get(theirs).user_attrs == {"step": 3}

    cache.invalidate()  # reads everything again except own trials
    storage.database.read(cache.sync)
    assert cache.get(mine) is held
    assert cache.own == {mine}
    assert (cache.n_trials, cache.reported_at(1).ascending) == (2, [0.5])


def test_sync_when_an_own_trial_was_ended_by_others_reads_it_from_the_database(
    storage, stock
) -> None:
    """Its row is read for the first time after the trial was put into the cache."""
    cache = TrialCache(2)
    storage.database.read(cache.sync)
    runs, ended = (stock.create_new_trial(2, trial(1, WAITING)) for _ in range(2))
    for key in (runs, ended):
        cache.own.add(key)
        cache.put(trial(key, RUNNING, number=stock.get_trial(key).number))
    stock.set_trial_state_values(ended, FAIL)  # as after the lease ran out
    storage.database.read(cache.sync)
    assert [t._trial_id for t in cache.in_state(RUNNING)] == [runs]
    assert cache.in_state(WAITING) == []
    assert cache.own == {runs}
    assert cache.get(ended) == stock.get_trial(ended)


def test_sync_after_invalidate_forgets_deleted_trials(storage, stock) -> None:
    gone = stock.create_new_trial(2)
    stock.set_trial_intermediate_value(gone, 1, 0.9)
    stock.set_trial_system_attr(gone, f"{RUNG_PREFIX}0", 0.9)
    cache = TrialCache(2)
    storage.database.read(cache.sync)
    assert (cache.reported_at(1).ascending, cache.at_rung(0).ascending) == ([0.9], [0.9])
    with storage.database.engine.begin() as connection:
        for table in ("trial_intermediate_values", "trial_system_attributes", "trials"):
            connection.exec_driver_sql(f"DELETE FROM {table} WHERE trial_id = {gone}")
    cache.invalidate()
    storage.database.read(cache.sync)
    assert facts(cache) == facts(TrialCache(2))


def test_put_in_any_order_keeps_trials_sorted_by_number() -> None:
    for order in ([3, 1, 2], [1, 3, 2], [2, 3, 1], [1, 2, 3], [3, 2, 1]):
        cache = TrialCache(1)
        for key in order:
            cache.put(trial(key, RUNNING))
        assert [t.number for t in cache.trials] == [0, 1, 2], order
        assert [cache.get(key).number for key in (1, 2, 3)] == [0, 1, 2]
        cache.put(trial(2, WAITING))
        assert [t.state for t in cache.trials] == [RUNNING, WAITING, RUNNING]
        assert [t.number for t in cache.in_state(RUNNING)] == [0, 2]
        assert cache.get(4) is None
        cache.trials.clear()
        assert cache.n_trials == 3


def test_end_leaves_trials_returned_earlier_unchanged() -> None:
    cache = TrialCache(1)
    before = trial(1, RUNNING, intermediate_values={1: 0.1})
    cache.put(before)
    cache.own.add(1)
    cache.end(1, COMPLETE, [1], NOW)
    assert (before.state, before.values, before.datetime_complete) == (RUNNING, None, None)
    ended = cache.get(1)
    assert (ended.state, ended.values, ended.datetime_complete) == (COMPLETE, [1.0], NOW)
    assert (cache.own, cache.n_finished) == (set(), 1)
    assert cache.reported_at(1).ascending == [0.1]


def test_end_when_a_trial_failed_removes_its_values_from_rungs_and_reports() -> None:
    cache = TrialCache(1)
    for key, value in ((1, 0.5), (2, 0.25)):
        rungs = {f"{RUNG_PREFIX}0": value}
        cache.put(trial(key, RUNNING, intermediate_values={1: value}, system_attrs=rungs))
    assert cache.reported_at(1).ascending == cache.at_rung(0).ascending == [0.25, 0.5]
    cache.end(2, FAIL, [], NOW)
    assert cache.reported_at(1).ascending == cache.at_rung(0).ascending == [0.5]
    assert cache.get(2).values is None
    assert [t._trial_id for t in cache.in_state(FAIL)] == [2]
    assert (cache.n_trials, cache.n_finished) == (2, 0)


def test_at_rung_ignores_attributes_that_are_no_rung_or_no_number() -> None:
    cache = TrialCache(1)
    attrs = {
        f"{RUNG_PREFIX}0": 0.5,
        f"{RUNG_PREFIX}1": 1,
        f"{RUNG_PREFIX}2": math.nan,
        f"{RUNG_PREFIX}x": 0.1,
        f"{RUNG_PREFIX}-1": 0.1,
        f"{RUNG_PREFIX}3": "0.5",
        "3": 0.5,
        "note": 0.5,
    }
    cache.put(trial(1, RUNNING, system_attrs=attrs))
    assert [cache.at_rung(rung).ascending for rung in range(4)] == [[0.5], [1], [], []]


def test_replace_overwrites_own_trials() -> None:
    cache = TrialCache(1)
    cache.put(trial(1, RUNNING, intermediate_values={1: 0.5}))
    cache.own.add(1)
    left = trial(1, RUNNING, intermediate_values={1: 0.75})
    cache.replace([left])
    assert cache.get(1) is left
    assert cache.own == set()
    assert cache.reported_at(1).ascending == [0.75]


def test_sync_after_changes_of_another_process_equals_a_fresh_cache(storage, stock) -> None:
    """Another process makes 40 random changes with each of three seeds; `sync` runs after some."""
    followed = TrialCache(2)
    storage.database.read(followed.sync)
    assert facts(followed) == facts(TrialCache(2))
    for seed in range(3):
        draw = random.Random(seed)
        for _ in range(40):
            act(draw, stock)
            if draw.random() < 0.4:
                storage.database.read(followed.sync)
        storage.database.read(followed.sync)
        fresh = TrialCache(2)
        storage.database.read(fresh.sync)
        assert facts(followed) == facts(fresh), f"seed {seed}"
    read = stock.get_all_trials(2)
    assert followed.trials == read
    assert [t.number for t in followed.in_state(FAIL)] == [
        t.number for t in read if t.state == FAIL
    ]
    assert followed.n_finished == sum(t.state in (COMPLETE, PRUNED) for t in read) > 9
    assert followed.reported_at(1).by_trial() == {
        t._trial_id: t.intermediate_values[1]
        for t in read
        if t.state != FAIL and 1 in t.intermediate_values
    }


def act(draw: random.Random, stock: RDBStorage) -> None:
    """Make one random change as another process. Existing values are not overwritten."""
    open_trials = stock.get_all_trials(2, states=(RUNNING, WAITING))
    if not open_trials or draw.random() < 0.25:
        template = trial(1, WAITING) if draw.random() < 0.5 else None
        stock.create_new_trial(2 if draw.random() < 0.8 else 1, template)
        return
    chosen = draw.choice(open_trials)
    key, value = chosen._trial_id, draw.random()
    if chosen.state == WAITING and draw.random() < 0.5:
        stock.set_trial_state_values(key, RUNNING)
        return
    match draw.randrange(7):
        case 0:
            name = f"rate {len(chosen.params)}"
            stock.set_trial_param(key, name, value, FloatDistribution(0, 1))
        case 1 | 2:
            stock.set_trial_intermediate_value(key, len(chosen.intermediate_values), value)
        case 3:
            stock.set_trial_user_attr(key, f"note {len(chosen.user_attrs)}", value)
        case 4:
            rung = len(chosen.system_attrs)
            stock.set_trial_system_attr(key, f"{RUNG_PREFIX}{rung}", value)
        case _:
            end = draw.choice((COMPLETE, PRUNED, FAIL))
            stock.set_trial_state_values(key, end, None if end == FAIL else [value])


def test_sync_reads_rows_by_id_and_no_other_trials(storage: BatchedStorage) -> None:
    """With 80,000 trials, a full table scan in every sync took as long as everything else."""
    compiled = str(trial_rows._changed("sqlite").compile(dialect=sqlite.dialect()))
    with storage.database.engine.connect() as connection:
        raw = connection.connection.dbapi_connection
        names = compiled.count("?")
        plan = [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {compiled}", ["1"] * names)]
    assert not [step for step in plan if step.startswith("SCAN trials")], plan
    assert sum("SEARCH trials USING INTEGER PRIMARY KEY" in step for step in plan) == 3


def test_first_sync_of_many_trials_is_logged_and_equals_a_slow_one(
    storage: BatchedStorage,
    stock: RDBStorage,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    draw = random.Random(0)
    for _ in range(30):
        act(draw, stock)
    followed = TrialCache(2)
    for trial in stock.get_all_trials(2):  # one by one, in order
        followed.put(trial)
    monkeypatch.setattr(trial_rows, "MANY_TRIALS", 3)
    fresh = TrialCache(2)
    storage.database.read(fresh.sync)
    assert facts(followed) == facts(fresh)
    assert "reading" in caplog.text
    assert "trials of the study: 0 %" in caplog.text


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu"])
def test_to_local_in_any_time_zone_equals_pythons_conversion(
    monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    """Lord Howe is included, whose daylight saving time is half an hour."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    optuna_tables._utc_offset.cache_clear()
    try:
        start = datetime.datetime(2026, 1, 1, 0, 7)
        for utc in (start + datetime.timedelta(minutes=31 * i) for i in range(17_000)):
            aware = utc.replace(tzinfo=datetime.UTC).astimezone()
            assert optuna_tables.to_local(utc) == aware.replace(tzinfo=None)
    finally:
        monkeypatch.undo()
        time.tzset()
        optuna_tables._utc_offset.cache_clear()
