"""A study's trials are runs of TensorBoard or W&B under its name, and harm nothing."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from optuna.trial import FrozenTrial, TrialState

from headsweep.data.synthetic import synthesize
from headsweep.studies.store import open_storage, study_id_of
from tests.single.test_tracking import values, wandb_records

SPACE = {"training.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}}
TRIALS, EPOCHS = 6, 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("logged") / "data"
    patients = {"patients_train": 40, "patients_valid": 30, "patients_test": 10}
    synthesize(folder, **patients, width=96, seed=3, progress=False)
    return [f"paths.data_root={folder}/features", f"paths.manifest_dir={folder}/manifests"]


Search = Callable[..., tuple[list[FrozenTrial], str]]


@pytest.fixture
def search(data: list[str], tmp_path: Path) -> Search:
    """Searches a small study with a worker of its own; its trials, and what the worker said."""

    def search(*overrides: str) -> tuple[list[FrozenTrial], str]:
        folder = tmp_path / "study"
        folder.mkdir(exist_ok=True)
        study = {
            "study": {"name": "probe", "n_trials": TRIALS, "seed": 1},
            "base": [f"training.max_epochs={EPOCHS}", "training.batch_size=32", *overrides],
            "space": SPACE,
            "sampler": {"name": "random"},
            "pruner": {"name": "successive_halving", "min_resource": 1, "reduction_factor": 2},
        }
        (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
        url = f"sqlite:///{folder}/{len(list(folder.iterdir()))}.db"
        place = f"paths.output_dir={tmp_path}/outputs"
        said = ""
        for words in (["create", folder / "study.yaml", *data, place], ["worker", "probe"]):
            done = subprocess.run(
                [sys.executable, "-m", "headsweep", *words, "--storage", url],
                cwd=folder, capture_output=True, text=True, check=True,
            )  # fmt: skip
            said += done.stderr
        storage = open_storage(url)
        trials = storage.get_all_trials(study_id_of("probe", storage))
        storage.database.close()
        return trials, said

    return search


def params_and_values(trials: list[FrozenTrial]) -> list[tuple[object, ...]]:
    return [(t.state, t.params, t.value, t.intermediate_values) for t in trials]


def test_every_trial_is_a_run_that_tensorboard_reads(search, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trials, said = search("logging=tensorboard")
    assert "Notice" not in said
    assert Counter(trial.state for trial in trials)[TrialState.PRUNED] > 0
    runs = tmp_path / "outputs/probe/runs"
    assert {path.name for path in runs.iterdir()} == {f"trial-{t.number}" for t in trials}
    for trial in trials:
        events = EventAccumulator(str(runs / f"trial-{trial.number}/tensorboard"))
        events.Reload()
        curve = {event.step: event.value for event in events.Scalars("val/auprc_macro")}
        assert list(curve) == list(range(1, len(curve) + 1))
        for epoch, value in trial.intermediate_values.items():
            assert curve[epoch] == pytest.approx(value, rel=1e-6)
        (best,) = events.Scalars("best/val/auprc_macro")
        assert best.value == max(curve.values())
        about = events.Tensors("run/text_summary")[0].tensor_proto.string_val[0].decode()
        assert "group: probe" in about
        assert f"- {trial.state.name.lower()}" in about


def test_wandb_groups_the_trials_under_the_name_of_the_study(search, tmp_path):
    trials, said = search("logging=wandb", "logging.tags=[night]")
    assert "Notice" not in said
    for trial in trials:
        folder = tmp_path / f"outputs/probe/runs/trial-{trial.number}"
        records = list(wandb_records(folder))
        (run,) = [r.run for r in records if r.WhichOneof("record_type") == "run"]
        assert (run.run_group, run.display_name) == ("probe", f"trial-{trial.number}")
        assert list(run.tags) == ["night", trial.state.name.lower()]
        config = values(run.config.update)
        rate = trial.params["training.learning_rate"]
        assert config["training"]["learning_rate"] == pytest.approx(rate)
        steps = [r for r in records if r.WhichOneof("record_type") == "history"]
        assert max(trial.intermediate_values) == len(steps)


def test_a_logger_that_cannot_write_costs_one_line_and_changes_no_trial(search, tmp_path):
    quiet, _ = search()
    (tmp_path / "outputs/probe").mkdir(parents=True)
    (tmp_path / "outputs/probe/runs").write_text("in the way")
    trials, said = search("logging=tensorboard")
    assert params_and_values(trials) == params_and_values(quiet)
    notices = [line for line in said.splitlines() if line.startswith("Notice: ")]
    assert len(notices) == 1
    assert notices[0].startswith("Notice: logging of trials ended: ")
