"""Opening the test data is recorded with its trials; opening it again needs a reason."""

import ast
import json
import shutil
import warnings
from functools import cache
from pathlib import Path

import pytest

import headsweep
from headsweep.errors import HeadsweepWarning, SearchError, StudyError
from headsweep.leaderboard.unblinding import OPENINGS, past_openings
from tests.leaderboard.conftest import add_trials, make_study

pytestmark = pytest.mark.slow


@pytest.fixture
def young(tmp_path, data):
    """A study that the test may extend."""
    return make_study(tmp_path / "young", data, name="young", base="head=linear", n_trials=3)


def test_finalize_records_the_opening_before_it_reads_test_data(young, tmp_path, monkeypatch):
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


def test_finalize_with_other_finalists_needs_a_reason_and_shows_it(young, tmp_path):
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


def test_finalize_after_more_trials_with_the_same_finalists_records_no_new_opening(young, tmp_path):
    young.finalize(tmp_path / "board")
    trial = young.optuna.ask()
    young.optuna.tell(trial, 0.0)
    young.finalize(tmp_path / "board")
    assert len(past_openings(young.optuna)) == 1


def test_finalize_when_a_test_manifest_changed_warns_and_makes_the_board_again_with_a_reason(
    tmp_path, data
):
    own = tmp_path / "data"
    own.mkdir()
    shutil.copytree(data / "manifests", own / "manifests")
    (own / "features").symlink_to(data / "features")
    study = make_study(tmp_path / "young", own, name="young", base="head=linear", n_trials=3)
    board = tmp_path / "board"
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*changed since")
        study.finalize(board)
        study.finalize(board)
    before = (board / "leaderboard.csv").read_bytes()
    manifest = own / "manifests/test_manual_valid.csv"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:-1]))
    advice = r"test_manual_valid\.csv changed since the test set was opened on .*pass --reopen"
    with pytest.warns(HeadsweepWarning, match=advice):
        study.finalize(board)
    assert (board / "leaderboard.csv").read_bytes() == before
    assert len(past_openings(study.optuna)) == 1

    study.finalize(board, reopen="a row was wrong")
    assert (board / "leaderboard.csv").read_bytes() != before
    assert [one.why for one in past_openings(study.optuna)] == [None, "a row was wrong"]
    openings = json.loads((board / "provenance.json").read_text())["test_openings"]
    assert openings[0]["files"] != openings[1]["files"]
    assert "a row was wrong" in (board / "report.html").read_text()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*changed since")
        study.finalize(board)

    shutil.rmtree(board)  # then there is no leaderboard that could stay
    manifest.write_text("".join(lines))
    with pytest.raises(StudyError, match=advice):
        study.finalize(board)


def test_open_test_after_an_opening_of_before_without_digests_is_no_reopening(young, tmp_path):
    young.finalize(tmp_path / "board")
    (opening,) = young.optuna.user_attrs[OPENINGS]
    young.optuna.set_user_attr(OPENINGS, [{k: v for k, v in opening.items() if k != "files"}])
    shutil.rmtree(tmp_path / "board")
    young.finalize(tmp_path / "board")
    assert len(past_openings(young.optuna)) == 1


def test_finalize_without_a_complete_trial_is_refused(tmp_path, data):
    study = make_study(tmp_path / "empty", data, name="empty", base="head=linear", n_trials=1)
    with pytest.raises(SearchError, match="a leaderboard needs at least one"):
        study.finalize(tmp_path / "board")
    assert not past_openings(study.optuna)


def test_manifests_are_read_only_by_the_listed_modules():
    """Only single runs on request, and inspection that uses no head, may read test manifests."""
    named = {"leaderboard/unblinding.py"}
    single_runs = {"evaluation/evaluate.py", "evaluation/align.py"}
    dataset = {"data/dataset.py", "data/loading.py", "data/in_memory.py"}
    inspection = {"data/validation.py", "data/manifest_headers.py", "cli/data.py", "preflight.py"}
    loaders = users_of("test_splits") | users_of("splits_alone")
    assert loaders - dataset == named | single_runs
    # `overrides` only checks that the paths under this key stay inside the manifest folder.
    spelt = {"config/data_sections.py", "config/overrides.py", *dataset}
    assert users_of("test_manifests") - spelt == named | inspection
    assert users_of("load_test") == {*named, "leaderboard/verification/verify.py"}
    assert users_of("open_test") == {*named, "leaderboard/finalize.py"}


def users_of(name: str) -> set[str]:
    """Return modules that use a name: as an import, an attribute, or the last part of a string."""
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
    """Return the syntax tree nodes of every module of the package."""
    root = Path(headsweep.__file__).parent
    return {
        path.relative_to(root).as_posix(): list(ast.walk(ast.parse(path.read_text())))
        for path in root.rglob("*.py")
    }


def test_commands_before_finalize_without_test_data_succeed(data, headsweep, tmp_path):
    """Test manifests have only their header here, and none of their feature files exists.

    Every command that trains, searches, counts or exports succeeds. Only `finalize` fails, and its
    opening of test, which showed nothing, is not recorded.
    """
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    for path in copy.glob("manifests/test_*.csv"):
        header, *rows = path.read_text().splitlines(keepends=True)
        path.write_text(header)
        for row in rows:
            for name in row.split(",")[1:3]:
                (copy / "features" / name).unlink(missing_ok=True)
    places = [f"paths.data_root={copy}/features", f"paths.manifest_dir={copy}/manifests"]
    study = make_study(
        tmp_path / "blind", copy, name="blind", base="head=linear", n_trials=1, overrides=()
    )
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
    assert not past_openings(study.optuna)
