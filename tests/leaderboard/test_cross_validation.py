"""The example of docs/how_to/cross_validation.md: its trials, its board, and what they rest on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import headsweep as hs
from headsweep.data.folds import Folds
from headsweep.engine.engine import FoldedEngine
from headsweep.errors import ManifestError, StudyError, VerificationError
from headsweep.evaluation.evaluate import evaluate
from headsweep.evaluation.predictions import read_predictions
from headsweep.evaluation.summaries import choose_thresholds
from headsweep.heads.ensemble import EnsembleHead
from headsweep.heads.predictor import Predictor, load_predictor
from headsweep.settings import EngineSettings, WorkerSettings
from headsweep.studies.folds import folds_of
from headsweep.studies.study import StoredStudy
from headsweep.workers.signals import Stop
from headsweep.workers.worker import work
from tests.helpers.plain_training import macro_average_precision

PAGE = Path(__file__).parents[2] / "docs/how_to/cross_validation.md"
CPU = EngineSettings(device="cpu")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the page's example defines, after it ran in an empty folder."""
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.M)
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("example"))
        exec(compile(example, str(PAGE), "exec"), names)
        names["board"].folder = Path.cwd() / names["board"].folder
        yield names


def folds(page: dict[str, Any]) -> Folds:
    with hs.Study.open("cross-validated", data=page["data"], storage=storage(page)) as study:
        found = folds_of(study.spec.objective, study.spec.seed, *page["data"].search_splits())
    assert found is not None
    return found


def storage(page: dict[str, Any]) -> str:
    return f"sqlite:///{page['board'].folder / 'study.db'}"


def members(predictor: Predictor) -> tuple[Predictor, ...]:
    assert isinstance(predictor.head, EnsembleHead)
    return tuple(predictor.head.predictors)


def pooled(predictor: Predictor, of: Folds) -> np.ndarray:
    """Out-of-fold logits by a loop over the folds."""
    scores = np.zeros(of.rows.targets.shape, np.float32)
    for k, member in enumerate(members(predictor)):
        rows = of.held_out_rows(k)
        scores[rows] = member.decision_function({"visual": of.rows.features["visual"][rows]})
    return scores


def test_value_of_every_complete_trial_is_that_of_its_folds_trained_again(
    page: dict[str, Any],
) -> None:
    found = folds(page)
    with hs.Study.open("cross-validated", data=page["data"], storage=storage(page)) as study:
        trials = [t for t in study.optuna.trials if t.state.name == "COMPLETE"]
        stored = StoredStudy.open("cross-validated", storage(page))
        configs = [stored.config_of(trial) for trial in trials]
        stored.close()
    assert len(trials) >= 3
    for trial, config in zip(trials, configs, strict=True):
        engine = FoldedEngine(found, CPU)
        slot = engine.replay(config).slot
        while not (history := engine.history(slot)) or not history[-1].finished:
            engine.run_epoch()
        assert trial.value == history[-1].best_value
        assert trial.intermediate_values == {r.epoch: r.value for r in history}
        value = macro_average_precision(found.rows.targets, pooled(engine.predictor(slot), found))
        assert trial.value == pytest.approx(value, abs=1e-3)
        by_fold = [
            macro_average_precision(found.held_out(k).targets, member.decision_function(
                found.held_out(k).features))
            for k, member in enumerate(members(engine.predictor(slot)))
        ]  # fmt: skip
        recorded = trial.user_attrs["val/auprc_macro_fold_mean"]
        assert recorded == pytest.approx(np.mean(by_fold), abs=5e-3)


def test_board_names_the_fold_of_every_row_and_says_that_valid_is_out_of_fold(
    page: dict[str, Any],
) -> None:
    board, found = page["board"], folds(page)
    table = pq.read_table(board.folder / "folds.parquet").to_pydict()
    assert tuple(table["volumename"]) == found.rows.volumes
    assert table["fold"] == found.fold_of.tolist()
    record = board.provenance["cross_validation"]
    assert record["objective"] == {"folds": 5, "include_valid": True}
    assert (record["seed"], record["fingerprint"]) == (42, found.fingerprint)
    assert sum(record["rows"]) == len(found.rows.volumes)
    assert board.to_dataframe()["n_folds"].tolist() == [5, 5]
    note = f"each of the {len(found.rows.volumes)} rows of train and valid is scored by the head"
    for file in ("leaderboard.md", "report.html"):
        assert note in (board.folder / file).read_text("utf-8")


def test_predictions_on_valid_are_those_of_heads_that_were_not_trained_on_the_row(
    page: dict[str, Any],
) -> None:
    board, found = page["board"], folds(page)
    predictor = board.predictor(rank=1, seed=1)
    folder = board.finalist(1) / "seed_1"
    on_valid = read_predictions(folder / "predictions/out_of_fold.parquet")
    assert on_valid.logits is not None
    assert np.array_equal(on_valid.logits, pooled(predictor, found))
    assert on_valid.volumes == found.rows.volumes
    test = read_predictions(next(folder.glob("predictions/test*.parquet")))
    (split,) = page["data"].test_splits()
    each = [member.decision_function(split.features) for member in members(predictor)]
    assert np.allclose(test.logits, np.mean(each, axis=0), atol=1e-5)


def test_thresholds_are_chosen_on_out_of_fold_predictions_also_by_evaluate(
    page: dict[str, Any], tmp_path: Path
) -> None:
    board = page["board"]
    folder = board.finalist(1) / "seed_0"
    written = json.loads((folder / "thresholds.json").read_text("utf-8"))
    chosen = choose_thresholds(read_predictions(folder / "predictions/out_of_fold.parquet"))
    assert written["chosen_on"] == "out_of_fold"
    assert list(written["f1_logit"].values()) == chosen.f1.tolist()
    config = page["data"].config
    metrics = evaluate(folder, config, tmp_path, data=page["data"], progress=False)
    (stem,) = metrics
    test = read_predictions(folder / "predictions" / f"{stem}.parquet")
    calls = test.logits >= chosen.f1
    true = (calls & (test.targets == 1)).sum(axis=0)
    f1 = 2 * true / (calls.sum(axis=0) + (test.targets == 1).sum(axis=0))
    assert metrics[stem]["f1_macro"]["mean"] == pytest.approx(f1.mean(), abs=1e-12)


def test_verify_trains_all_folds_again_and_refuses_other_folds(
    page: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board, trained = page["board"], list[int]()
    real = FoldedEngine.replay
    monkeypatch.setattr(
        FoldedEngine, "replay", lambda self, config: trained.append(1) or real(self, config)
    )
    said = board.verify(data=page["data"])
    assert said == "2 finalists with 2 seeds and 5 folds trained again: equal to the bit"
    assert len(trained) == 4
    assert board.verify(recompute=True)
    shutil.copytree(board.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("study.db*"))
    provenance = json.loads((tmp_path / "copy/provenance.json").read_text("utf-8"))
    provenance["cross_validation"]["seed"] = 43
    (tmp_path / "copy/provenance.json").write_text(json.dumps(provenance), "utf-8")
    with pytest.raises(VerificationError, match="the rows fall into other folds"):
        hs.Leaderboard(tmp_path / "copy").verify(data=page["data"])


def test_refit_finalist_is_one_head_of_all_rows_and_verifies(
    page: dict[str, Any], tmp_path: Path
) -> None:
    definition = page["definition"] | {
        "study": {"name": "refit", "n_trials": 2, "seed": 1},
        "base": ["head=linear", "training.optimizer=lbfgs"],
        "space": {"training.weight_decay": {"type": "float", "low": 1e-3, "high": 1.0}},
        "objective": {"folds": 3, "refit": True},
        "pruner": {"name": "none"},
        "finalists": {"top_k": 1, "seeds": [0], "references": []},
    }
    data = page["data"]
    with hs.Study.create(definition, data=data, out=tmp_path / "refit") as study:
        board = study.run(progress=False).finalize()
    predictor = load_predictor(board.finalist(1) / "seed_0")
    assert not isinstance(predictor.head, EnsembleHead)
    train, _ = data.search_splits()
    mean = predictor.normalizers["visual"].state_dict()["mean"].numpy()
    assert np.allclose(mean, train.features["visual"].mean(axis=0), atol=1e-4)
    assert "was trained on all of them" in (board.folder / "leaderboard.md").read_text("utf-8")
    assert "3 folds trained again: equal to the bit" in board.verify(data=data)


def noise(folder: Path, n: int = 120) -> tuple[hs.Dataset, dict[str, Any]]:
    """Labels that no feature tells, and more features than rows: a head knows what it has seen."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, 200)), rng.integers(0, 2, (n, 3))
    patients = np.arange(n) // 2
    data = hs.Dataset.from_arrays(
        {"visual": x}, y, labels=["a", "b", "c"], patients=patients, split=["train"] * n
    )
    definition = {
        "study": {"name": "noise", "n_trials": 14, "seed": 3},
        "base": ["head=linear", "training.max_epochs=12", "training.early_stopping_patience=null"],
        "space": {
            "training.learning_rate": {"type": "float", "low": 0.01, "high": 0.1, "log": True},
            "training.batch_size": {"type": "categorical", "choices": [16, 64]},
        },
        "objective": {"folds": 4, "include_valid": True},
        "sampler": {"name": "random"},
        "pruner": {"name": "successive_halving", "min_resource": 4, "reduction_factor": 2},
    }
    return data, definition


def test_no_worker_scores_a_row_that_it_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three workers, of which the first two hand their trials back in the middle; two slots each.

    A head that was trained on a row of this data ranks it perfectly, and is at chance otherwise.
    """
    data, definition = noise(tmp_path)
    with hs.Study.create(definition, data=data, out=tmp_path) as study:
        url = f"sqlite:///{tmp_path / 'study.db'}"
        slots = EngineSettings(device="cpu", slots=2)
        real = FoldedEngine.run_epoch
        for epochs in (6, 17, 10_000):
            stop, left = Stop(), [epochs]

            def counted(self: FoldedEngine, stop: Stop = stop, left: list[int] = left) -> Any:
                left[0] -= 1
                if left[0] == 0:
                    stop._received.set()
                return real(self)

            monkeypatch.setattr(FoldedEngine, "run_epoch", counted)
            with StoredStudy.open("noise", url) as own:
                work(own, slots, stop, WorkerSettings(), data=data)
        trials = study.optuna.trials
    finished = [trial for trial in trials if trial.state.is_finished() and trial.value is not None]
    assert len(finished) == 14
    assert len({trial.user_attrs["worker"] for trial in trials}) == 3
    values = np.array([v for trial in finished for v in trial.intermediate_values.values()])
    chance = np.mean(data.search_splits()[0].targets)
    assert values.max() < chance + 0.15
    assert values.mean() == pytest.approx(chance, abs=0.08)


def test_worker_refuses_a_study_with_other_folds(tmp_path: Path) -> None:
    data, definition = noise(tmp_path)
    definition["study"]["n_trials"] = 1
    url = f"sqlite:///{tmp_path / 'study.db'}"
    with hs.Study.create(definition, data=data, out=tmp_path):
        with StoredStudy.open("noise", url) as own:
            own.pin_data({"folds": "others"})
        with (
            StoredStudy.open("noise", url) as own,
            pytest.raises(StudyError, match="the data changed since the study began"),
        ):
            work(own, CPU, Stop(), data=data)


def test_more_folds_than_patients_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    data, definition = noise(tmp_path, n=20)
    definition["objective"]["folds"] = 11
    with pytest.raises(ManifestError, match=r"objective\.folds must be at most the number of"):
        hs.Study.create(definition, data=data, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
