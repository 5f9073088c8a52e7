"""A leaderboard says how its search ended, and how full the engines of its workers were."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from headsweep.leaderboard.verification.verify import verify
from headsweep.studies.stopping import Improvements
from headsweep.studies.study import StoredStudy
from headsweep.studies.worker_timings import EFFORT, WorkerTimings
from tests.leaderboard.conftest import Study, make_study

STOPPED = {
    "timeout": "The search was stopped by its time limit, after 4 of 50 trials.",
    "patience": "The search was stopped by study.patience, since its last trials were no better, "
    "after 4 of 50 trials.",
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Study:
    """A study whose budget is not spent and whose workers left their timings."""
    study = make_study(tmp_path_factory.mktemp("stopped"), data, name="stop", base="head=linear")
    larger = study.spec.model_copy(update={"n_trials": 50})
    timings = WorkerTimings(training_s=0.002, fused_steps=10, slot_steps=40)
    with StoredStudy.create(larger, study.storage_url) as stored:
        for worker in ("a", "b"):
            stored.storage.set_study_user_attr(stored.study_id, EFFORT + worker, asdict(timings))
    return study


@pytest.fixture
def board_of_stopped(stopped: Study, tmp_path: Path) -> Path:
    with StoredStudy.open(stopped.name, stopped.storage_url) as stored:
        stored.set_deadline(0)
    return stopped.finalize(tmp_path / "board", reopen="another board")


def test_finalize_after_a_time_limit_says_so_in_every_file(board_of_stopped):
    provenance = json.loads((board_of_stopped / "provenance.json").read_text())
    assert provenance["search"] == {
        "n_trials": 50,
        "n_finished": 4,
        "stopped_by": "timeout",
        "slots_per_step": 4.0,
        "us_per_slot_step": 50.0,
    }
    table = (board_of_stopped / "leaderboard.md").read_text()
    assert f"\n\n{STOPPED['timeout']}\n" in table
    report = (board_of_stopped / "report.html").read_text()
    assert STOPPED["timeout"] in report
    assert "<td>search: slots a step</td><td>4.0</td>" in report
    assert "<td>search: microseconds a slot-step</td><td>50</td>" in report


def test_verify_of_a_board_after_a_time_limit_trains_it_again(board_of_stopped):
    assert "trained again" in verify(board_of_stopped)


def test_finalize_after_the_patience_ran_out_says_so(
    stopped: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with StoredStudy.open(stopped.name, stopped.storage_url) as stored:
        stored.set_deadline(None)
    monkeypatch.setattr(Improvements, "n_without", 7)
    patient = stopped.spec.model_copy(update={"patience": 7, "n_trials": 50})
    monkeypatch.setattr(StoredStudy, "_spec_of", lambda self, attrs: patient)
    board = stopped.finalize(tmp_path / "board", reopen="another board")
    assert STOPPED["patience"] in (board / "leaderboard.md").read_text()
    assert STOPPED["patience"] in (board / "report.html").read_text()


def test_finalize_of_a_whole_search_without_timings_names_neither(finished):
    provenance = json.loads((finished / "provenance.json").read_text())
    assert provenance["search"] == {"n_trials": 4, "n_finished": 4, "stopped_by": None}
    assert "stopped" not in (finished / "leaderboard.md").read_text()
    assert "slot-step" not in (finished / "report.html").read_text()
