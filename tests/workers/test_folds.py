"""A study with folds on PostgreSQL: two workers at once, one stops and returns its trials."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState

from headsweep.config.files import read_config
from headsweep.config.values import with_values
from headsweep.settings import EngineSettings
from headsweep.single_run import train
from headsweep.studies.study import StoredStudy
from tests.helpers.data_sets import LABELS, write_split
from tests.helpers.exact_budget import assert_exact
from tests.helpers.postgres import Server
from tests.helpers.study_specs import make_spec

BUDGET = 8
WAIT_S = 240


@pytest.mark.postgres
@pytest.mark.slow
def test_two_workers_with_folds_when_one_hands_back_give_values_that_training_alone_gives(
    postgres: Server, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for name, first, n in (("train", 1, 60), ("valid", 100, 20)):
        write_split(
            tmp_path,
            name,
            {
                f"{name}_{first + i}_a_1": [*map(int, rng.integers(0, 2, len(LABELS)))]
                for i in range(n)
            },
        )
    url = postgres.url(postgres.new_database())
    spec = make_spec(
        tmp_path,
        study={"name": "folded", "n_trials": BUDGET, "seed": 3},
        base=[
            *("head=linear", "training.max_epochs=60", "training.batch_size=8"),
            "training.early_stopping_patience=null",
            *(f"paths.data_root={tmp_path}/features", f"paths.manifest_dir={tmp_path}/manifests"),
            "data.test_manifests=[]",
        ],
        space={"training.learning_rate": {"type": "float", "low": 1e-3, "high": 0.1, "log": True}},
        objective={"folds": 3},
        pruner={"name": "none"},
    )
    command = [sys.executable, "-m", "headsweep", "worker", "folded", "--storage", url]
    with StoredStudy.create(spec, url) as study:
        workers = [
            subprocess.Popen([*command, "--slots", "1", "--device", "cpu"], cwd=tmp_path)
            for _ in range(2)
        ]
        try:
            deadline = time.monotonic() + WAIT_S
            while not study.trials((TrialState.COMPLETE,)) and time.monotonic() < deadline:
                time.sleep(0.05)
            workers[0].terminate()  # hands its trials back
            workers[0].wait()
            # A third takes its place.
            workers.append(subprocess.Popen([*command, "--device", "cpu"], cwd=tmp_path))
            assert [worker.wait(WAIT_S) for worker in workers[1:]] == [0, 0]
        finally:
            for worker in workers:
                worker.kill()
        assert_exact(study.trials(), BUDGET)
        best = study.export(tmp_path / "best.yaml")
    config = with_values(
        read_config(tmp_path / "best.yaml"),
        {"paths.checkpoint_dir": str(tmp_path / "trained")},
        where="test",
    )
    alone = train(config, EngineSettings(device="cpu"), progress=False)
    assert alone.best_value == pytest.approx(best.value, abs=1e-9)
