"""The page of a large study shows a subset of its trials, and says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from optuna_dashboard import wsgi

from headsweep.cli import dashboard, dashboard_subset
from headsweep.cli import study as study_commands
from headsweep.cli.dashboard import application
from headsweep.cli.dashboard_study import quick
from headsweep.cli.dashboard_subset import Subset
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.storage.optuna_tables import FrozenStudy
from headsweep.studies.storages import open_storage
from tests.helpers.chromium import browse
from tests.helpers.dashboard import answered, ask, comparable, open_page, served

SPACE = {"rate": FloatDistribution(0.0, 1.0)}
ENDS = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
CURVES, SHOWN, RECENT, ROUNDED, LATER = 4, 16, 8, 4, 5
PATH = "/api/studies/1"


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CURVES", "SHOWN", "RECENT", "ROUNDED", "LATER"):
        monkeypatch.setattr(dashboard_subset, name, globals()[name])


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[BatchedStorage]:
    """A storage with one empty study."""
    storage = open_storage(f"sqlite:///{tmp_path}/study.db", create=True)
    optuna.create_study(study_name="large", storage=storage, direction="maximize")
    yield storage
    storage.database.close()


def add(storage: BatchedStorage, n: int, name: str = "large") -> optuna.Study:
    """Add finished trials, the best of them in the middle."""
    study = optuna.load_study(study_name=name, storage=storage)
    begin = len(study.trials)
    study.add_trials([finished(i, 1 - abs(i - begin - n / 2) / n) for i in range(begin, begin + n)])
    return study


def finished(i: int, value: float | None, **given: Any) -> FrozenTrial:
    fields: dict[str, Any] = {
        "state": TrialState.COMPLETE,
        "value": value,
        "params": {"rate": i % 7 / 7},
        "distributions": SPACE,
        "intermediate_values": {1: 0.25, 2: 0.5},
    }
    return create_trial(**fields | given)


def numbers(answer: dict[str, Any]) -> list[int]:
    return [trial["number"] for trial in answer["trials"]]


def merged(had: list[dict[str, Any]], app: Any) -> list[dict[str, Any]]:
    """Refresh a list of trials as the page does: from its first unfinished trial on."""
    states = [trial["state"] for trial in had]
    after = next((i for i, s in enumerate(states) if s in ("Running", "Waiting")), len(had))
    new: list[dict[str, Any]] = answered(app, PATH, f"after={after}")[1]["trials"]
    return had[:after] + new


def test_page_of_a_small_study_is_unchanged(storage):
    add(storage, CURVES)
    assert answered(quick(application(storage), storage), PATH) == answered(wsgi(storage), PATH)


def test_page_of_a_study_with_many_curves_leaves_only_their_plot_out(storage, caplog):
    add(storage, SHOWN)
    answer = answered(quick(application(storage), storage), PATH)[1]
    expected = answered(wsgi(storage), PATH)[1]
    assert expected["has_intermediate_values"]
    command = "everything: headsweep dashboard --all-points"
    expected |= {"has_intermediate_values": False, "name": f"large (no learning curves; {command})"}
    assert answer == expected
    assert caplog.text.count("no learning curves") == 1


def test_page_of_a_large_study_says_what_it_shows(storage, caplog):
    """The newest, the unfinished, the best so far and every n-th of the rest are shown."""
    study = add(storage, 60)
    running, other = study.ask(SPACE), study.ask({"kind": CategoricalDistribution(["a", "b"])})
    study.tell(other, 0.1)
    app = quick(application(storage), storage)
    answer, expected = answered(app, PATH)[1], answered(wsgi(storage), PATH)[1]
    shown = numbers(answer)
    assert {running.number, other.number, *range(52, 60), *range(0, 52, 7)} <= set(shown)
    records = [
        i
        for i, best in enumerate(accumulate((v.value for v in study.trials[:60]), max))
        if best == study.trials[i].value
    ]
    assert set(records) <= set(shown)
    assert len(shown) < 55
    assert answer["name"].startswith(f"large ({len(shown)} of 62 trials, no learning curves; ")
    answered(app, PATH)
    assert caplog.text.count(f"large shows {len(shown)} of 62 trials") == 1
    by_number = {trial["number"]: trial for trial in expected["trials"]}
    assert answer["trials"] == [by_number[number] for number in shown]
    same = expected.keys() - {"trials", "name", "has_intermediate_values"}
    assert comparable({key: answer[key] for key in same}) == comparable(
        {key: expected[key] for key in same}
    )


def test_page_with_all_points_equals_optuna_dashboard(storage, caplog):
    add(storage, 2 * SHOWN)
    app = quick(application(storage), storage, all_points=True)
    assert answered(app, PATH) == answered(wsgi(storage), PATH)
    assert not caplog.text


def test_csv_of_a_large_study_has_all_trials(storage):
    add(storage, 2 * SHOWN)
    with served(storage) as port:
        status, body = ask(port, "GET", "/csv/1")
    assert status == 200
    assert len(body.splitlines()) == 1 + 2 * SHOWN


def test_page_of_a_growing_study_equals_a_new_page_after_every_refresh(storage):
    study = add(storage, 2 * SHOWN)
    app = quick(application(storage), storage)
    page = merged([], app)
    running = [study.ask(SPACE) for _ in range(5)]
    for i, value in ((3, 2.0), (0, 0.1), (1, 3.0), (4, 0.2), (2, 4.0)):
        page = merged(page, app)
        assert page == merged([], app)
        study.tell(running[i], value)
    add(storage, 2 * SHOWN)
    page = merged(page, app)
    assert page == merged([], app)
    assert len(page) < len(study.trials) - SHOWN


def test_page_of_a_study_that_replaced_a_deleted_one_has_its_best_trial(storage):
    """SQLite gives a new study the ids of a deleted one, and its trials those of the old."""
    add(storage, 2 * SHOWN)
    app = quick(application(storage), storage)
    answered(app, PATH)
    storage.delete_study(1)
    study = optuna.create_study(study_name="again", storage=storage, direction="minimize")
    study.add_trials([finished(i, abs(i - 13) / 99) for i in range(3 * SHOWN)])
    answer = answered(app, PATH)[1]
    assert answer["name"].startswith("again (")
    assert [trial["number"] for trial in answer["best_trials"]] == [13]
    assert 13 in numbers(answer)


@given(
    n=st.integers(0, 60),
    events=st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 2)), max_size=40),
)
def test_subset_of_leading_finished_trials_never_changes(n, events):
    """So a page that asks only for what follows them shows what a new page shows."""
    study = FrozenStudy("s", StudyDirection.MINIMIZE, {}, {}, 1)
    trials = [numbered(i, finished(i, float(i % 5))) for i in range(n)]
    subset = Subset()
    page: list[FrozenTrial] = []
    for starts, which, end in [*events, (False, 0, 0)]:
        chosen = subset.choose(study, trials)
        first = next((i for i, t in enumerate(page) if not t.state.is_finished()), len(page))
        assert page[:first] == chosen[:first]
        page = chosen
        complete = [t for t in trials if t.state == TrialState.COMPLETE]
        if complete:
            assert min(complete, key=lambda t: t.values[0]) in chosen
        unfinished = [t.number for t in trials if not t.state.is_finished()]
        assert set(unfinished) <= {t.number for t in chosen}
        if starts:
            new = create_trial(state=TrialState.RUNNING, params={}, distributions={})
            trials.append(numbered(len(trials), new))
        elif unfinished:
            i = unfinished[which % len(unfinished)]
            value = None if ENDS[end] == TrialState.FAIL else float(which - 5)
            trials[i] = numbered(i, finished(i, value, state=ENDS[end]))


def numbered(number: int, trial: FrozenTrial) -> FrozenTrial:
    trial.number, trial._trial_id = number, number + 1
    return trial


class StoppedError(Exception):
    pass


def test_dashboard_with_all_points_serves_all_points(storage, tmp_path, monkeypatch):
    given_options: list[bool] = []

    def stop(*asked: Any, all_points: bool, **options: Any) -> Any:
        given_options.append(all_points)
        raise StoppedError

    monkeypatch.setattr(dashboard, "quick", stop)
    for options in ([], ["--all-points"]):
        command = study_commands.dashboard
        with pytest.raises(StoppedError):
            command.main(
                ["--storage", f"sqlite:///{tmp_path}/study.db", *options], standalone_mode=False
            )
    assert given_options == [False, True]


@pytest.mark.usefixtures("chromium")
def test_page_of_a_large_study_draws_its_points_in_a_browser(storage, tmp_path):
    study = add(storage, 2 * SHOWN)
    with served(storage) as port, browse(tmp_path / "browser") as page:
        open_page(page, port, f"/studies/{study._study_id}")
        page.wait_for("of 32 trials, no learning curves")
        n = len(json.loads(ask(port, "GET", PATH)[1])["trials"])
        points = "document.querySelectorAll('#plot-history path.point').length"
        page.wait_until(f"{points} === {n}")
        assert "Intermediate values" not in page.value("document.body.innerText")
        assert not page.complaints
