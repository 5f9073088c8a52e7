"""Test is opened once, for named trials, on record; a second opening needs a reason and shows."""

import ast
import json
import shutil
from functools import cache
from pathlib import Path

import pytest

import headsweep
from headsweep.errors import SearchError, StudyError
from headsweep.leaderboard.unblinding import past_openings
from tests.leaderboard.conftest import add_trials, make_study

pytestmark = pytest.mark.slow


@pytest.fixture
def young(tmp_path, data):
    """A study of its own, which may grow."""
    return make_study(tmp_path / "young", data, name="young", base="head=linear", n_trials=3)


def test_the_act_is_recorded_in_the_study_before_the_data_are_read(young, tmp_path, monkeypatch):
    seen = []

    def spy(*_: object, **__: object) -> None:
        seen.extend(past_openings(young.optuna))
        raise StudyError("stop here")

    monkeypatch.setattr("headsweep.data.dataset.Dataset.test_splits", spy)
    with pytest.raises(StudyError, match="stop here"):
        young.finalize(tmp_path / "board")
    (opening,) = seen
    assert opening.trials == (0, 1)
    assert opening.why is None
    assert not (tmp_path / "board/leaderboard.csv").exists()


def test_other_finalists_need_a_reason_which_is_then_shown(young, tmp_path):
    board = tmp_path / "board"
    young.finalize(board)
    best = max(t.value for t in young.optuna.get_trials() if t.value is not None)
    seed = 1
    while max(t.value for t in young.optuna.get_trials() if t.value is not None) <= best:
        add_trials(young, 4, seed=seed)
        seed += 1
    before = (board / "leaderboard.csv").read_bytes()
    with pytest.raises(StudyError, match=r"already opened.*--reopen"):
        young.finalize(board)
    assert (board / "leaderboard.csv").read_bytes() == before

    young.finalize(board, reopen="the search was extended")
    openings = json.loads((board / "provenance.json").read_text())["test_openings"]
    assert [opening["why"] for opening in openings] == [None, "the search was extended"]
    assert "the search was extended" in (board / "report.html").read_text()


def test_more_trials_with_the_same_finalists_are_the_same_act(young, tmp_path):
    young.finalize(tmp_path / "board")
    trial = young.optuna.ask()
    young.optuna.tell(trial, 0.0)
    young.finalize(tmp_path / "board")
    assert len(past_openings(young.optuna)) == 1


def test_a_study_without_a_complete_trial_has_no_leaderboard(tmp_path, data):
    study = make_study(tmp_path / "empty", data, name="empty", base="head=linear", n_trials=1)
    with pytest.raises(SearchError, match="a leaderboard needs at least one"):
        study.finalize(tmp_path / "board")
    assert not past_openings(study.optuna)


def test_no_other_code_reads_a_test_manifest():
    """Two kinds of code may know test: single runs asked for, and inspection without any head."""
    named = {"leaderboard/unblinding.py"}
    single_runs = {"evaluation/evaluate.py", "evaluation/align.py"}
    dataset = {"data/dataset.py", "data/loading.py", "data/in_memory.py"}
    inspection = {"data/validation.py", "data/manifest_headers.py", "cli/data.py", "preflight.py"}
    loaders = users_of("test_splits") | users_of("splits_alone")
    assert loaders - dataset == named | single_runs
    # `overrides` knows the key alone, to hold a file's paths inside of the folder of manifests.
    spelt = {"config/schema.py", "config/overrides.py", *dataset}
    assert users_of("test_manifests") - spelt == named | inspection
    assert users_of("load_test") == {*named, "leaderboard/verification/verify.py"}
    assert users_of("open_test") == {*named, "leaderboard/finalize.py"}


def users_of(name: str) -> set[str]:
    """Modules that speak a name: imported, as an attribute, or as the last part of a text."""
    return {
        module
        for module, nodes in nodes_of_modules().items()
        for node in nodes
        if name in (getattr(node, key, None) for key in ("attr", "id", "name"))
        or (isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names})
        or (isinstance(node, ast.Constant) and str(node.value).rpartition(".")[2] == name)
    }


@cache
def nodes_of_modules() -> dict[str, list[ast.AST]]:
    """Syntax of every module of the package."""
    root = Path(headsweep.__file__).parent
    return {
        path.relative_to(root).as_posix(): list(ast.walk(ast.parse(path.read_text())))
        for path in root.rglob("*.py")
    }


def test_a_search_and_single_runs_need_no_test_data(data, headsweep, tmp_path):
    """Test manifests hold nothing but their first line, and no feature of theirs exists.

    Whatever is trained, searched, counted or exported does without; only finalizing, which
    records first that it opens test, comes to grief.
    """
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    for path in copy.glob("manifests/test_*.csv"):
        header, *rows = path.read_text().splitlines(keepends=True)
        path.write_text(header)
        for row in rows:
            for name in row.split(",")[1:3]:
                (copy / "features" / name).unlink(missing_ok=True)
    places = [f"paths.data_root={copy}/features", f"paths.manifest_dir={copy}/manifests"]
    study = make_study(tmp_path / "blind", copy, name="blind", base="head=linear", n_trials=1)
    storage = ("--storage", study.storage_url)
    file = tmp_path / "blind" / "study.yaml"
    checkpoint = f"paths.checkpoint_dir={tmp_path}/run"
    for command in (
        ("create", file, *places, *storage, "--n-trials", 3),
        ("worker", "blind", *storage),
        ("status", "blind", *storage),
        ("export", "blind", *storage, "-o", tmp_path / "best.yaml"),
        ("train", "--config", tmp_path / "best.yaml", checkpoint),
    ):
        ended = headsweep(*command)
        assert ended.code == 0, ended.err
    assert not past_openings(study.optuna)
    ended = headsweep("finalize", "blind", *storage, "--out", tmp_path / "board")
    assert ended.code != 0
    assert "manifests/test_" in ended.err
    assert len(past_openings(study.optuna)) == 1
