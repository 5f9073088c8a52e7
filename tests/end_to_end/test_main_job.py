"""Whole studies: exact budget, pruning, interruption, verification, retraining."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from optuna.trial import TrialState
from safetensors import safe_open
from safetensors.numpy import save_file

from headsweep.errors import InputError
from headsweep.storage.attributes import RETRY_OF
from headsweep.studies.trials import TAPE_POSITION
from tests.end_to_end.conftest import Job, Studies, subprocess_command

pytestmark = [pytest.mark.slow]

BUDGET = 40
SMALLEST = ("finalists.top_k=1", "finalists.seeds=[0]")


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def finished(request: pytest.FixtureRequest, studies: Studies) -> Job:
    """A study of 40 trials, searched by one worker and by two.

    The board of two workers, which is made as that of one, has one finalist with one seed.
    """
    smallest = SMALLEST if request.param == 2 else ()
    study = studies.new("linear_visual", f"forty-{request.param}", *smallest)
    study.run("--workers", request.param, "--n-trials", BUDGET)
    return study


def assert_budget_was_met_exactly(study: Job, budget: int) -> None:
    """Check that each counted trial ended once, and that lost trials have exactly one retry."""
    trials = study.trials()
    states = Counter(trial.state for trial in trials)
    assert states[TrialState.COMPLETE] + states[TrialState.PRUNED] == budget
    assert not states[TrialState.RUNNING]
    assert not states[TrialState.WAITING]
    succeeded = [t.user_attrs[RETRY_OF] for t in trials if RETRY_OF in t.user_attrs]
    assert sorted(succeeded) == [t.number for t in trials if t.state == TrialState.FAIL]


def test_run_meets_the_budget_exactly_and_trains_no_params_twice(finished):
    assert_budget_was_met_exactly(finished, BUDGET)
    params = [json.dumps(trial.params, sort_keys=True) for trial in finished.trials()]
    assert len(params) == len(set(params)) == BUDGET


def test_run_prunes_trials_and_saves_epochs(finished):
    summary = finished.summary()
    assert summary.states["PRUNED"] > 0
    assert summary.share_not_trained > 0.3


def test_run_on_a_finished_study_changes_no_file(finished):
    def files() -> dict[Path, bytes]:
        kept = [p for p in finished.board.rglob("*") if p.is_file() and "logs" not in p.parts]
        return {path: path.read_bytes() for path in kept}

    before = files()
    printed = finished.run("--workers", 1, "--n-trials", BUDGET)
    assert f"{finished.summary().share_not_trained:.0%} of the epochs not trained" in printed
    assert f"report: {finished.board / 'report.html'}" in printed
    assert files() == before


@pytest.fixture(scope="module")
def smallest(studies: Studies) -> Job:
    """The smallest board that can be verified: one finalist with one seed."""
    study = studies.new("linear_visual", "smallest", *SMALLEST)
    study.run("--workers", 1, "--n-trials", 8)
    return study


def test_create_worker_finalize_equal_run(studies, smallest):
    """`create`, `worker` and `finalize` give the same trials and board as `run`."""
    steps = studies.finished("linear_visual", "steps", *SMALLEST, n_trials=8)
    assert [t.params for t in steps.trials()] == [t.params for t in smallest.trials()]
    assert [t.values for t in steps.trials()] == [t.values for t in smallest.trials()]
    for row, other in zip(steps.rows(), smallest.rows(), strict=True):
        assert {**row, "study": ""} == {**other, "study": ""}


def test_create_with_a_larger_budget_adds_exactly_the_difference(studies):
    study = studies.new("linear_visual", "growing")
    for budget in (6, 9):
        study.call("create", *study.definition, "--n-trials", budget)
        study.call("worker", study.name, *study.storage)
        assert_budget_was_met_exactly(study, budget)
    assert len(study.trials()) == 9


def test_create_with_another_definition_is_refused_in_one_line(studies):
    study = studies.new("linear_visual", "fixed")
    study.call("create", *study.definition)
    for change in ("finalists.top_k=3", "training.max_epochs=7", "sampler.multivariate=false"):
        ended = study.headsweep("create", *study.definition, change)
        assert ended.code == 2
        assert ended.err.count("\n") == 1
        assert "exists with another definition" in ended.err


def test_run_after_an_interrupt_meets_the_budget_and_writes_the_leaderboard(studies):
    study = studies.new("linear_visual", "interrupted", "training.max_epochs=20", *SMALLEST)
    options = ("--workers", 2, "--slots", 1, "--n-trials", BUDGET)
    process = subprocess.Popen(
        subprocess_command("run", *study.definition, "--out", study.board, *options),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while finished_trials(study) < 5:
        assert process.poll() is None, "the run must still be on when it is interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues" in errors.splitlines()[-1]
    assert 5 <= finished_trials(study) < BUDGET
    assert not (study.board / "leaderboard.csv").exists()

    study.run("--workers", 1, "--n-trials", BUDGET)
    assert_budget_was_met_exactly(study, BUDGET)
    assert study.rows()


def finished_trials(study: Job) -> int:
    try:
        return study.summary().finished
    except InputError:  # the storage or the study does not exist yet
        return 0


def test_verify_on_a_finished_study_is_equal_to_the_bit(finished):
    assert "equal to the bit" in finished.call("leaderboard", "verify", finished.board)


def alter_a_metric(board: Path) -> Path:
    file = board / "finalists" / "1" / "metrics.json"
    metrics = json.loads(file.read_text())
    metrics["test_manual_all"]["per_label"]["Lung nodule"]["auroc"]["mean"] += 1e-4
    file.write_text(json.dumps(metrics, indent=2))
    return file


def alter_a_cell_of_the_table(board: Path) -> Path:
    file = board / "leaderboard.csv"
    header, first, *rest = file.read_text().splitlines()
    cells = first.split(",")
    place = header.split(",").index("test_manual_all/auprc_macro")
    cells[place] = str(float(cells[place]) + 0.01)
    file.write_text("\n".join([header, ",".join(cells), *rest, ""]))
    return file


def alter_a_prediction(board: Path) -> Path:
    file = board / "finalists" / "1" / "seed_0" / "predictions" / "test_manual_valid.parquet"
    table = pq.read_table(file)
    place = table.column_names.index("y_score:Emphysema")
    scores = table[place].to_numpy().copy()
    scores[3] = 1 - scores[3]
    pq.write_table(table.set_column(place, "y_score:Emphysema", pa.array(scores)), file)
    return file


def alter_a_weight(board: Path) -> Path:
    file = board / "finalists" / "1" / "seed_0" / "model.safetensors"
    with safe_open(file, framework="np") as model:
        metadata, tensors = model.metadata(), {k: model.get_tensor(k) for k in model.keys()}  # noqa: SIM118
    name = max(tensors, key=lambda key: tensors[key].size)
    tensors[name] = tensors[name].copy()
    tensors[name].flat[0] += 1e-3
    save_file(tensors, file, metadata)
    return file


def alter_a_parameter(board: Path) -> Path:
    file = board / "finalists" / "1" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    config["training"]["learning_rate"] *= 1.5
    file.write_text(yaml.safe_dump(config))
    return file


@pytest.mark.parametrize(
    "alter",
    [
        alter_a_metric,
        alter_a_cell_of_the_table,
        alter_a_prediction,
        alter_a_weight,
        alter_a_parameter,
    ],
    ids=lambda alter: alter.__name__,
)
def test_verify_when_a_file_was_altered_names_it(smallest, tmp_path, alter):
    board = shutil.copytree(smallest.board, tmp_path / "board")
    file = alter(board)
    ended = smallest.headsweep("leaderboard", "verify", board)
    assert ended.code == 1
    assert str(file.relative_to(board)) in ended.err.splitlines()[-1]


def test_train_on_an_exported_trial_gives_its_recorded_value(finished, tmp_path):
    """Equal to the bit, for the best trial and for one with a later tape position."""
    complete = [t for t in finished.trials() if t.state == TrialState.COMPLETE]
    best = max(complete, key=lambda trial: trial.value or 0.0)
    latest = max(complete, key=lambda trial: trial.user_attrs[TAPE_POSITION])
    for name, trial in (("best", best), (str(latest.number), latest)):
        config, folder = tmp_path / f"{name}.yaml", tmp_path / name
        finished.call("export", finished.name, *finished.storage, "--trial", name, "-o", config)
        finished.call("train", "--config", config, f"paths.checkpoint_dir={folder}")
        assert json.loads((folder / "metrics.json").read_text())["val/auprc_macro"] == trial.value
