"""Each trial of a study is logged as a TensorBoard or W&B run; logging changes no result."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from optuna.trial import FrozenTrial, TrialState

from headsweep.data.synthetic.generate import synthesize
from headsweep.studies.storages import open_storage
from headsweep.studies.study import StoredStudy
from tests.helpers.command_line import Ended
from tests.helpers.wandb_files import values, wandb_records

pytestmark = pytest.mark.slow

SPACE = {"training.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}}
TRIALS, EPOCHS = 6, 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("logged") / "data"
    patients = {"patients_train": 40, "patients_valid": 30, "patients_test": 10}
    synthesize(folder, **patients, width=96, seed=3, progress=False)
    return [f"paths.data_root={folder}/features", f"paths.manifest_dir={folder}/manifests"]


class Search:
    """Runs a small study with one worker."""

    def __init__(self, headsweep: Callable[..., Ended], folder: Path, data: list[str]) -> None:
        self.headsweep, self.folder, self.data = headsweep, folder, data
        self.outputs = folder / "outputs" / "probe"

    def create(self, name: str, *overrides: str) -> str:
        """Create a study and return the URL of its storage."""
        study = {
            "study": {"name": "probe", "n_trials": TRIALS, "seed": 1},
            "base": [f"training.max_epochs={EPOCHS}", "training.batch_size=32", *overrides],
            "space": SPACE,
            "sampler": {"name": "random"},
            "pruner": {"name": "successive_halving", "min_resource": 1, "reduction_factor": 2},
        }
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(study, sort_keys=False))
        url = f"sqlite:///{self.folder}/{name}.db"
        outputs = f"paths.output_dir={self.outputs.parent}"
        ended = self.headsweep("create", file, *self.data, outputs, "--storage", url)
        assert ended.code == 0, ended.err
        return url

    def work(self, url: str) -> str:
        """Run a worker and return what it printed to stderr."""
        ended = self.headsweep("worker", "probe", "--storage", url)
        assert ended.code == 0, ended.err
        return ended.err

    def trials(self, url: str) -> list[FrozenTrial]:
        storage = open_storage(url)
        trials = storage.get_all_trials(StoredStudy.open("probe", storage).study_id)
        storage.database.close()
        return trials


@pytest.fixture
def search(headsweep: Callable[..., Ended], tmp_path: Path, data: list[str], monkeypatch) -> Search:
    monkeypatch.setenv("HEADSWEEP_CACHE", str(tmp_path / "packed"))
    return Search(headsweep, tmp_path, data)


def params_and_values(trials: list[FrozenTrial]) -> list[tuple[object, ...]]:
    return [(t.state, t.params, t.value, t.intermediate_values) for t in trials]


def test_worker_with_tensorboard_writes_one_readable_run_per_trial(search):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    url = search.create("logged", "logging=tensorboard")
    assert "Notice" not in search.work(url)
    trials = search.trials(url)
    assert Counter(trial.state for trial in trials)[TrialState.PRUNED] > 0
    runs = search.outputs / "runs"
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


def test_worker_with_wandb_groups_runs_under_the_study_name(search):
    """The worker runs in its own process, because W&B leaves a service process running."""
    url = search.create("logged", "logging=wandb", "logging.tags=[night]")
    command = [sys.executable, "-m", "headsweep", "worker", "probe", "--storage", url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Notice" not in done.stderr
    for trial in search.trials(url):
        folder = search.outputs / f"runs/trial-{trial.number}"
        records = list(wandb_records(folder))
        (run,) = [r.run for r in records if r.WhichOneof("record_type") == "run"]
        assert (run.run_group, run.display_name) == ("probe", f"trial-{trial.number}")
        assert list(run.tags) == ["night", trial.state.name.lower()]
        config = values(run.config.update)
        rate = trial.params["training.learning_rate"]
        assert config["training"]["learning_rate"] == pytest.approx(rate)
        steps = [r for r in records if r.WhichOneof("record_type") == "history"]
        assert max(trial.intermediate_values) == len(steps)


def test_worker_when_a_logger_cannot_write_prints_one_notice_and_continues(search):
    quiet = search.create("quiet")
    search.work(quiet)
    search.outputs.mkdir(parents=True)
    (search.outputs / "runs").write_text("in the way")
    logged = search.create("logged", "logging=tensorboard")
    said = search.work(logged)
    assert params_and_values(search.trials(logged)) == params_and_values(search.trials(quiet))
    notices = [line for line in said.splitlines() if line.startswith("Notice: ")]
    assert len(notices) == 1
    assert notices[0].startswith("Notice: logging of trials ended: ")
