"""An exported trial of a study with folds: `train` gives its value and the mean of its heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headsweep as hs
from headsweep.config.files import read_config
from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.data.dataset import Dataset
from headsweep.data.folds import divide
from headsweep.engine.slots import EpochReport
from headsweep.errors import StudyError
from headsweep.evaluation.evaluate import evaluate
from headsweep.heads.ensemble import EnsembleHead
from headsweep.settings import EngineSettings
from headsweep.single_run import train
from headsweep.studies.study import StoredStudy
from headsweep.workers.signals import Stop
from headsweep.workers.worker import work
from tests.helpers.data_sets import LABELS, write_split
from tests.helpers.plain_training import macro_average_precision
from tests.helpers.study_specs import make_spec

CPU = EngineSettings(device="cpu")
FOLDS, SEED = 3, 11


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The exported best trial of a study with folds, and its recorded value."""
    folder = tmp_path_factory.mktemp("folds")
    rng = np.random.default_rng(0)
    for name, split, n in (("train", "train", 60), ("valid", "valid", 20), ("test", "valid", 20)):
        first = 1 if name != "test" else 500
        rows = {f"{split}_{first + i}_a_1": rng.integers(0, 2, len(LABELS)) for i in range(n)}
        write_split(folder, name, {volume: [*map(int, row)] for volume, row in rows.items()})
    base = [
        *("head=linear", "training.max_epochs=6", "training.batch_size=16"),
        *(f"paths.data_root={folder}/features", f"paths.manifest_dir={folder}/manifests"),
        "data.test_manifests=[test.csv]",
    ]
    sections: dict[str, Any] = {
        "study": {"name": "folded", "n_trials": 4, "seed": SEED},
        "base": base,
        "space": {
            "training.learning_rate": {"type": "float", "low": 1e-3, "high": 0.1, "log": True}
        },
        "objective": {"folds": FOLDS},
        "pruner": {"name": "none"},
    }
    spec, url = make_spec(folder, **sections), f"sqlite:///{folder}/studies.db"
    StoredStudy.create(spec, url).close()
    with StoredStudy.open("folded", url) as study:
        work(study, CPU, Stop())
    with StoredStudy.open("folded", url) as study:
        best = study.export(folder / "best.yaml")
    assert best.value is not None
    return folder, best.value


def exported(searched: tuple[Path, float], out: Path, **folds: Any) -> Config:
    config = read_config(searched[0] / "best.yaml")
    assert config.training.folds is not None
    changed = config.training.folds.model_dump() | folds
    values = {"paths.checkpoint_dir": str(out), "training.folds": changed}
    return with_values(config, values, where="test")


def test_train_of_an_exported_trial_with_folds_gives_its_value_and_the_mean_of_its_heads(
    searched: tuple[Path, float], tmp_path: Path
) -> None:
    config = exported(searched, tmp_path)
    trained = train(config, CPU, progress=False)
    assert trained.best_value == searched[1]
    predictor = hs.load_predictor(tmp_path)
    assert isinstance(predictor.head, EnsembleHead)
    members = predictor.head.predictors
    assert len(members) == FOLDS
    rows, _ = Dataset.from_config(config).search_splits()
    folds = divide(rows, None, FOLDS, SEED)
    x, pooled = rows.features["visual"], np.zeros(rows.targets.shape, np.float32)
    for k, member in enumerate(members):
        held_out = folds.held_out_rows(k)
        pooled[held_out] = member.decision_function({"visual": x[held_out]})
    assert macro_average_precision(rows.targets, pooled) == pytest.approx(searched[1], abs=1e-6)
    mean = np.mean([member.decision_function({"visual": x}) for member in members], axis=0)
    assert predictor.decision_function({"visual": x}) == pytest.approx(mean, abs=1e-5)

    thresholds = json.loads((tmp_path / "thresholds.json").read_text())
    assert thresholds["chosen_on"] == "out_of_fold"
    assert "test" in evaluate(tmp_path, config, tmp_path / "evaluation", progress=False)


def test_train_with_refit_is_one_head_of_all_rows_and_the_value_stays(
    searched: tuple[Path, float], tmp_path: Path
) -> None:
    config = exported(searched, tmp_path, refit=True)
    assert train(config, CPU, progress=False).best_value == searched[1]
    predictor = hs.load_predictor(tmp_path)
    assert not isinstance(predictor.head, EnsembleHead)


def test_train_with_folds_when_stopped_and_resumed_has_the_same_value(
    searched: tuple[Path, float], tmp_path: Path
) -> None:
    config = exported(searched, tmp_path)

    def stop(report: EpochReport) -> None:
        if report.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, CPU, progress=False, on_epoch=stop)
    resumed = with_values(config, {"training.resume.enabled": True}, where="test")
    trained = train(resumed, CPU, progress=False)
    assert trained.best_value == searched[1]
    assert [report.epoch for report in trained.history] == [1, 2, 3, 4, 5, 6]


def test_train_without_folds_in_the_folder_of_a_run_with_folds_removes_its_thresholds(
    searched: tuple[Path, float], tmp_path: Path
) -> None:
    config = exported(searched, tmp_path)
    (tmp_path / "thresholds.json").write_text('{"chosen_on": "out_of_fold"}')
    single = with_values(config, {"training.folds": None}, where="test")
    train(single, CPU, progress=False)
    assert not (tmp_path / "thresholds.json").exists()


def test_study_whose_base_has_folds_of_a_single_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"training\.folds is for single runs; in a study write"):
        make_spec(tmp_path, base=["head=linear", "training.folds={count: 3}"])
