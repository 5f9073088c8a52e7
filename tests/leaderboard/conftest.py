"""Fixtures: small trained studies, and the leaderboard of one of them."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from headsweep.data.dataset import Dataset, required_inputs
from headsweep.data.synthetic.generate import synthesize
from headsweep.engine.train_configs import train_to_end
from headsweep.leaderboard.finalize import finalize
from headsweep.search.space import suggest
from headsweep.search.study_file import StudySpec, load_study_file
from headsweep.settings import EngineSettings
from headsweep.studies.storages import open_storage
from headsweep.studies.study import StoredStudy
from headsweep.studies.trials import TAPE_POSITION, trial_config

SETTINGS = EngineSettings(device="cpu", slots=16)

LABELS = ("Medical material", "Emphysema", "Lung nodule", "Interlobular septal thickening")
"""Only four labels, because computing the metrics of each label takes most of the time."""

STUDY_FILE = """
study: {{name: {name}, n_trials: {n_trials}, seed: 1}}
base: ['training.target_labels={labels}', {base}, training.max_epochs=4, training.batch_size=64]
space:
  training.learning_rate: {{type: float, low: 1.0e-4, high: 3.0e-2, log: true}}
  training.weight_decay: {{type: float, low: 1.0e-6, high: 1.0e-2, log: true}}
finalists: {{top_k: 2, seeds: [0, 1, 2]}}
"""


NO_REFERENCES = ("finalists.references=[]",)
"""Only the board of the linear study has references: measuring them takes time."""


@dataclass(frozen=True)
class Study:
    """A study with its own SQLite storage."""

    spec: StudySpec
    storage_url: str

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def optuna(self) -> optuna.Study:
        return optuna.load_study(study_name=self.name, storage=open_storage(self.storage_url))

    def finalize(self, out: Path, **options: str) -> Path:
        with StoredStudy.open(self.name, self.storage_url) as stored:
            return finalize(stored, out, SETTINGS, **options)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic data set of a few hundred rows."""
    folder = tmp_path_factory.mktemp("data") / "ct_rate"
    sizes = {"patients_train": 120, "patients_valid": 60, "patients_test": 120}
    synthesize(folder, **sizes, width=96, seed=0, progress=False)
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Store packed features in a temporary folder of the test session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSWEEP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def make_study(
    folder: Path,
    data: Path,
    *,
    name: str,
    base: str,
    n_trials: int = 4,
    overrides: Sequence[str] = NO_REFERENCES,
) -> Study:
    """Create a study with `n_trials` trained trials, of which the last is pruned."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = json.dumps(LABELS)
    text = STUDY_FILE.format(name=name, base=base, n_trials=n_trials, labels=labels)
    (folder / "study.yaml").write_text(text)
    roots = [f"paths.data_root={data}/features", f"paths.manifest_dir={data}/manifests"]
    spec = load_study_file(folder / "study.yaml", [*roots, *overrides])
    url = f"sqlite:///{folder}/study.db"
    StoredStudy.create(spec, url).close()
    study = Study(spec, url)
    add_trials(study, n_trials - 1, seed=0)
    pruned = study.optuna.ask()
    pruned.report(0.1, 1)
    study.optuna.tell(pruned, state=TrialState.PRUNED)
    return study


def add_trials(study: Study, n: int, *, seed: int) -> None:
    """Train `n` more trials with random parameters, and store their values."""
    spec, stored = study.spec, study.optuna
    stored.sampler = optuna.samplers.RandomSampler(seed=seed)
    inputs = required_inputs(spec.config)
    splits = Dataset.from_config(spec.config).search_splits(inputs=inputs)
    trials = [stored.ask() for _ in range(n)]
    for trial in trials:
        suggest(trial, spec.space, spec.config)
        trial.set_user_attr(TAPE_POSITION, 0)
    by_number = {trial.number: trial for trial in stored.get_trials()}
    configs = [trial_config(spec, by_number[trial.number]) for trial in trials]
    for trial, run in zip(trials, train_to_end(configs, *splits, SETTINGS), strict=True):
        for report in run.history:
            trial.report(report.auprc_macro, report.epoch)
        stored.tell(trial, run.best_value)


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Study:
    """A linear study on visual features."""
    return make_study(
        tmp_path_factory.mktemp("linear"), data, name="linear", base="head=linear", overrides=()
    )


@pytest.fixture(scope="session")
def finished(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The leaderboard of the linear study. Tests must not change it."""
    return study.finalize(tmp_path_factory.mktemp("boards") / "linear")


@pytest.fixture
def board(finished: Path, tmp_path: Path) -> Path:
    """A copy of that leaderboard, which a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "board"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignore the warning about unused labels: these studies train only a few of them."""
    unused = "ignore:.*hold 0 and 1 but are not used:headsweep.errors.HeadsweepWarning"
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(unused))
