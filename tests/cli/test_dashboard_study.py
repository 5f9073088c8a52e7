"""The dashboard's answer for a study equals optuna-dashboard's own, and is smaller and faster."""

from __future__ import annotations

import http.client
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from optuna_dashboard import save_note, wsgi

from headsweep.cli import dashboard_trials, deflated
from headsweep.cli.dashboard import application
from headsweep.cli.dashboard_study import quick
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.studies.storages import open_storage
from tests.helpers.dashboard import answered, comparable, served

CHUNK = 4
"""Trials of a chunk in these tests, so that a few trials fill several chunks."""
INFINITY = float("inf")
DISTRIBUTIONS = {
    "rate": FloatDistribution(1e-5, 1e-1, log=True),
    "step": FloatDistribution(0.0, 1.0, step=0.25),
    "width": IntDistribution(1, 1024, log=True),
    "kind": CategoricalDistribution([None, True, False, 1, 1.0, 0.5, "a", 'b"\\é\u2028', "None"]),
}
STUDY = "seen"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard_trials, "CHUNK", CHUNK)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[BatchedStorage]:
    storage = open_storage(f"sqlite:///{tmp_path}/study.db", create=True)
    optuna.create_study(study_name=STUDY, storage=storage, direction="maximize")
    yield storage
    storage.database.close()


def assert_equal_answers(app: Any, storage: BatchedStorage, study_id: int = 1) -> None:
    """Compare with a new optuna-dashboard, since it caches trials for some seconds."""
    n = len(storage.get_all_trials(study_id))
    for after in {0, CHUNK + 1, n}:
        path, query = f"/api/studies/{study_id}", f"after={after}"
        expected_status, expected = answered(wsgi(storage), path, query)
        for accept in ("identity", "gzip, deflate"):
            status, answer = answered(app, path, query, accept)
            assert status == expected_status == "200 OK", (after, answer, expected)
            assert comparable(answer) == comparable(expected), after


def finished(i: int, **given: Any) -> FrozenTrial:
    """Return a trial of any finished state, with values at the limits of JSON, such as infinity."""
    choices = DISTRIBUTIONS["kind"].choices  # type: ignore[attr-defined]
    fields: dict[str, Any] = {
        "state": (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)[i % 3],
        "value": None if i % 3 == 2 else (0.1 * i, INFINITY, -INFINITY)[i % 7 % 3],
        "params": {
            "rate": 10.0 ** -(2 + i % 3),
            "step": i % 5 / 4,
            "width": 1 + i,
            "kind": choices[i % len(choices)],
        },
        "distributions": DISTRIBUTIONS,
        "intermediate_values": {9: float("nan"), 1: 0.1 + i, 3: INFINITY, 27: -INFINITY},
        "user_attrs": {"worker": f"w{i}", "cost": i / 3, "list": [i, None], "flag": i % 2 == 0},
        "system_attrs": {"constraints": [-1.0, 0.5 * i], "fixed_params": {"width": 3}},
    }
    return create_trial(**fields | given)


def fill(storage: BatchedStorage) -> optuna.Study:
    """Add trials of all states and of several search spaces."""
    study = optuna.load_study(study_name=STUDY, storage=storage)
    study.add_trials([finished(i) for i in range(10)])
    wider = {**DISTRIBUTIONS, "rate": FloatDistribution(1e-7, 1.0, log=True)}
    study.add_trial(finished(10, distributions=wider))
    study.add_trial(finished(11, params={}, distributions={}, user_attrs={"cost": "high"}))
    study.add_trial(finished(12, intermediate_values={}, system_attrs={}))
    study.enqueue_trial({"rate": 0.05, "kind": None}, user_attrs={"by": "hand"})
    study.ask()
    running = study.ask(DISTRIBUTIONS)
    running.report(0.5, 1)
    return study


def test_study_page_with_trials_of_all_states_equals_optuna_dashboard(storage):
    app = quick(application(storage), storage)
    assert_equal_answers(app, storage)
    fill(storage)
    assert_equal_answers(app, storage)
    assert_equal_answers(app, storage)  # from the chunks


def test_study_page_after_changes_equals_optuna_dashboard(storage):
    """Each change concerns a chunk that was answered before."""
    study = fill(storage)
    app = quick(application(storage), storage)
    assert_equal_answers(app, storage)
    running = study.ask(DISTRIBUTIONS)
    running.report(float("nan"), 3)
    running.set_user_attr("cost", 7)
    storage.set_trial_system_attr(running._trial_id, "constraints", [1.0])
    assert_equal_answers(app, storage)
    study.tell(running, 1e300)
    assert_equal_answers(app, storage)
    save_note(study, "of the *study*")
    save_note(optuna.Trial(study, study.trials[2]._trial_id), "of a trial" * 300)
    meta = {"artifact_id": "k", "filename": "a", "mimetype": "image/png", "encoding": None}
    storage.set_study_system_attr(1, "dashboard:artifacts:6:k", json.dumps(meta))
    assert_equal_answers(app, storage)
    save_note(optuna.Trial(study, study.trials[2]._trial_id), "of a trial, changed")
    study.set_user_attr("who", "me")
    assert_equal_answers(app, storage)
    study.add_trials([finished(i, value=2e300 if i % 3 < 2 else None) for i in range(30, 40)])
    assert_equal_answers(app, storage)


def test_study_page_with_trials_of_another_process_equals_optuna_dashboard(storage, tmp_path):
    study = fill(storage)
    app = quick(application(storage), storage)
    assert_equal_answers(app, storage)
    elsewhere = optuna.load_study(
        study_name=STUDY, storage=RDBStorage(f"sqlite:///{tmp_path}/study.db")
    )
    (running,) = [t for t in study.trials if t.intermediate_values == {1: 0.5}]
    elsewhere.tell(running.number, 0.75)
    elsewhere.add_trial(finished(3))
    elsewhere._storage.remove_session()
    assert_equal_answers(app, storage)


def test_study_page_of_a_replaced_study_equals_optuna_dashboard(storage):
    """SQLite gives a new study the ids of a deleted one, and its trials those of the old."""
    fill(storage)
    app = quick(application(storage), storage)
    assert_equal_answers(app, storage)
    storage.delete_study(1)
    assert answered(app, "/api/studies/1")[0] == "404 Not Found"
    again = optuna.create_study(study_name="again", storage=storage)
    again.add_trials([finished(i + 1) for i in range(14)])
    assert again._study_id == 1
    assert_equal_answers(app, storage)


def test_study_page_of_other_kinds_of_studies_equals_optuna_dashboard(storage):
    directions = ["maximize", "minimize"]
    two = optuna.create_study(study_name="two", storage=storage, directions=directions)
    two.add_trials([finished(i, value=None, values=[i, 1 / (1 + i)]) for i in range(0, 9, 3)])
    preferred = optuna.create_study(study_name="best", storage=storage)
    storage.set_study_system_attr(preferred._study_id, "preference:is_preferential", True)
    preferred.add_trials([finished(i, value=None, state=TrialState.PRUNED) for i in range(3)])
    app = quick(application(storage), storage)
    assert_equal_answers(app, storage, two._study_id)
    assert_equal_answers(app, storage, preferred._study_id)


@pytest.mark.parametrize(
    "query", ["after=-1", "after=x", "after=4", "after=16", "after=99", "after=9&after=1"]
)
def test_study_page_with_any_query_equals_optuna_dashboard(storage, query):
    fill(storage)
    app = quick(application(storage), storage)
    ours = answered(app, "/api/studies/1", query)
    theirs = answered(wsgi(storage), "/api/studies/1", query)
    assert (ours[0], comparable(ours[1])) == (theirs[0], comparable(theirs[1]))


def test_study_page_when_the_storage_fails_answers_an_error(storage, monkeypatch, caplog):
    def fail(*asked: Any, **options: Any) -> Any:
        raise RuntimeError("out of order")

    app = quick(application(storage), storage)
    monkeypatch.setattr(storage, "get_all_trials", fail)
    status, answer = answered(app, "/api/studies/1")
    assert (status, answer) == answered(wsgi(storage), "/api/studies/1")
    assert status.startswith("500")
    assert "out of order" in caplog.text


def test_study_page_over_http_is_deflated_and_keeps_its_headers(storage):
    fill(storage)
    with served(storage) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/api/studies/1", headers={"Accept-Encoding": "gzip, deflate"})
        response = connection.getresponse()
        body = response.read()
        connection.close()
    assert response.headers["Content-Encoding"] == "deflate"
    assert response.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    text = zlib.decompress(body)
    assert len(body) < len(text) / 4
    assert comparable(json.loads(text)) == comparable(answered(wsgi(storage), "/api/studies/1")[1])


def test_study_page_writes_finished_trials_once(storage, monkeypatch):
    """A refresh writes only the chunk whose trials changed."""
    study = fill(storage)
    app = quick(application(storage), storage)
    answered(app, "/api/studies/1")
    written: list[int] = []
    write = dashboard_trials.TrialTexts.write

    def count(texts: Any, of: Any, trials: Any) -> str:
        written.extend(trial.number for trial in trials)
        return write(texts, of, trials)

    monkeypatch.setattr(dashboard_trials.TrialTexts, "write", count)
    answered(app, "/api/studies/1")
    assert written == []
    study.tell(14, 0.5)
    answered(app, "/api/studies/1")
    assert written == [12, 13, 14]


@given(st.lists(st.binary(max_size=70_000), max_size=8))
def test_stream_of_pieces_is_the_zlib_stream_of_their_texts(texts):
    pieces = [deflated.compress(text) for text in texts]
    assert zlib.decompress(b"".join(deflated.stream(pieces))) == b"".join(texts)
    assert list(deflated.decompress(pieces)) == texts
