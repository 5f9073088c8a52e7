"""`headsweep.Study`: from data in memory or in files to a leaderboard."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from sklearn.datasets import make_multilabel_classification

import headsweep as hs
from headsweep.engine.engine import Engine
from headsweep.engine.slots import EpochReport
from headsweep.errors import FeatureError, InputError
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.storage.connections import Database
from tests.helpers.data_sets import LABELS, write_split

N_TRIALS = 20


def definition(name: str = "in-memory", **training: object) -> dict[str, Any]:
    settings = {"max_epochs": 6, **training}
    return {
        "study": {"name": name, "n_trials": N_TRIALS, "seed": 1},
        "base": ["head=linear", *(f"training.{key}={value}" for key, value in settings.items())],
        "space": {
            "training.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}
        },
        "finalists": {"top_k": 2, "seeds": [0, 1]},
    }


@pytest.fixture(scope="module")
def arrays() -> hs.Dataset:
    x, y = make_multilabel_classification(n_samples=300, n_features=12, n_classes=3, random_state=0)
    return hs.Dataset.from_arrays({"visual": x}, y, labels=["a", "b", "c"])


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the present one; nothing outside of it is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEADSWEEP_STORAGE", raising=False)
    monkeypatch.delenv("HEADSWEEP_CACHE", raising=False)
    return tmp_path


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> hs.Dataset:
    """Three splits of a few rows in files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADSWEEP_CACHE", str(tmp_path / "packed"))
    rng = np.random.default_rng(0)
    for name, n in (("train", 60), ("valid", 30), ("test", 30)):
        targets = {f"{name}_{i}_a_1": rng.integers(0, 2, len(LABELS)) for i in range(n)}
        write_split(tmp_path, name, targets)
    return hs.Dataset.from_manifests(
        tmp_path / "features",
        tmp_path / "manifests",
        overrides={"data.test_manifests": ["test.csv"]},
    )


def test_study_on_arrays_ends_with_a_board_and_writes_only_under_out(
    empty: Path, arrays: hs.Dataset
) -> None:
    with hs.Study.create(definition(), data=arrays, out="out") as study:
        study.run(progress=False)
        frame = study.trials_dataframe()
        board = study.finalize()
        head = board.predictor(rank=1, seed=0)
    assert len(frame) == N_TRIALS
    assert set(frame["state"]) == {"COMPLETE"}
    assert frame["value"].max() == study.best_value
    assert {"number", "value", "datetime_start", "params_training.learning_rate"} <= {*frame}
    assert board.to_dataframe()["trial"].tolist()[0] in set(frame["number"])
    _, valid = arrays.search_splits()
    scores = head.predict_proba({"visual": valid.features["visual"]})
    predictions = board.predictions(rank=1, split="valid", seed=0)
    assert head.labels == ("a", "b", "c")
    assert np.allclose(scores, predictions[[f"y_score:{label}" for label in "abc"]])
    assert "equal to the bit" in board.verify(data=arrays)
    with pytest.raises(InputError, match=r"data in memory; give them to .*verify\(data="):
        board.verify()
    assert [path.name for path in empty.iterdir()] == ["out"]


def test_trials_dataframe_has_the_columns_and_rows_of_optuna(
    empty: Path, arrays: hs.Dataset
) -> None:
    with hs.Study.create(definition(), data=arrays, n_trials=3) as study:
        study.run(progress=False)
        frame = study.trials_dataframe()
        url = f"sqlite:///{study.out}/study.db"
        expected = optuna.load_study(study_name=study.name, storage=url).trials_dataframe()
    expected.columns = [c if not c.startswith("value_") else "value" for c in expected.columns]
    assert list(frame.columns) == list(expected.columns)
    assert frame.equals(expected)


def test_run_with_one_worker_repeats_to_the_bit_at_any_speed(
    empty: Path, arrays: hs.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run is interrupted by pauses of random length, as on a busy machine."""
    study = definition()
    study["space"] |= {
        "training.batch_size": {"type": "categorical", "choices": [32, 64]},
        "features.normalization": {"type": "categorical", "choices": ["zscore", "none"]},
    }
    study |= {
        "sampler": {"name": "tpe", "multivariate": True, "n_startup_trials": 4},
        "pruner": {"name": "successive_halving", "min_resource": 1, "reduction_factor": 3},
    }
    run_epoch, pause = Engine.run_epoch, random.Random(0)

    def slowed(engine: Engine) -> list[EpochReport]:
        time.sleep(pause.uniform(0, 0.02))
        return run_epoch(engine)

    searched = []
    for run in ("first", "second"):
        with hs.Study.create(study, data=arrays, out=run) as handle:
            handle.run(progress=False)
            frame = handle.trials_dataframe()
        timed = [name for name in frame if "time" in name or "duration" in name or "worker" in name]
        searched.append(frame.drop(columns=timed))
        monkeypatch.setattr(Engine, "run_epoch", slowed)
    assert set(searched[0]["state"]) == {"COMPLETE", "PRUNED"}
    pd.testing.assert_frame_equal(*searched, check_exact=True)


def test_run_twice_continues_and_a_larger_budget_adds_the_difference(
    empty: Path, arrays: hs.Dataset
) -> None:
    for n_trials in (4, 4, 7):
        with hs.Study.create(definition(), data=arrays, n_trials=n_trials) as study:
            study.run(progress=False)
            assert len(study.trials_dataframe()) == n_trials


def test_run_when_interrupted_hands_trials_back_and_continues_later(
    empty: Path, arrays: hs.Dataset
) -> None:
    threads = threading.active_count()
    epochs = {"max_epochs": 2000, "early_stopping_patience": "null"}
    with hs.Study.create(definition(**epochs), data=arrays, n_trials=2) as study:
        handler = signal.getsignal(signal.SIGINT)

        def interrupt() -> None:
            deadline = time.monotonic() + 60
            while not study.status().states["RUNNING"] and time.monotonic() < deadline:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            study.run(progress=False)
        thread.join()
        assert signal.getsignal(signal.SIGINT) is handler
        assert study.status().states["RUNNING"] == 0
        assert study.status().finished < 2
        study.run(progress=False)
        assert study.status().finished == 2
    assert threading.active_count() <= threads


def test_run_with_other_arrays_is_refused(empty: Path, arrays: hs.Dataset) -> None:
    with hs.Study.create(definition(), data=arrays, n_trials=1) as study:
        study.run(progress=False)
    x, y = make_multilabel_classification(n_samples=300, n_features=12, n_classes=3, random_state=1)
    other = hs.Dataset.from_arrays({"visual": x}, y, labels=["a", "b", "c"])
    with (
        hs.Study.create(definition(), data=other, n_trials=2) as study,
        pytest.raises(hs.StudyError, match="the data changed since the study began"),
    ):
        study.run(progress=False)


def test_create_with_a_bad_definition_writes_nothing(empty: Path, arrays: hs.Dataset) -> None:
    bad = definition(learning_rat=1)
    with pytest.raises(hs.InputError, match="learning_rat"):
        hs.Study.create(bad, data=arrays)
    with pytest.raises(hs.OutputError, match="out must not be empty"):
        hs.Study.create(definition(), data=arrays, out="")
    assert list(empty.iterdir()) == []


def test_open_when_the_study_is_missing_names_those_that_exist(
    empty: Path, arrays: hs.Dataset
) -> None:
    hs.Study.create(definition("one"), data=arrays, out="out").close()
    with pytest.raises(hs.StudyError, match="no study named 'two'; studies there: one"):
        hs.Study.open("two", storage="sqlite:///out/study.db")


def test_export_of_the_best_trial_names_its_params(empty: Path, arrays: hs.Dataset) -> None:
    with hs.Study.create(definition(), data=arrays, n_trials=2) as study:
        study.run(progress=False)
        text = study.export("best.yaml").read_text()
        rate = study.best_params["training.learning_rate"]
    assert repr(rate) in text


def test_repr_html_shows_name_and_progress_escaped(empty: Path, arrays: hs.Dataset) -> None:
    with hs.Study.create(definition(), data=arrays, out="a<b") as study:
        shown = study._repr_html_()
    assert "in-memory" in shown
    assert "0 of 20" in shown
    assert "a&lt;b" in shown


def counted(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[object]:
    """Calls of a method, as they are made."""
    calls: list[object] = []
    method: Callable[..., Any] = getattr(owner, name)

    def count(self: object, *args: Any, **kwargs: Any) -> Any:
        calls.append(args[1] if len(args) > 1 else None)
        return method(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, count)
    return calls


def test_run_and_finalize_on_files_open_the_storage_once_and_load_train_once(
    files: hs.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headsweep.data import loading

    databases = counted(monkeypatch, Database, "__init__")
    storages = counted(monkeypatch, BatchedStorage, "__init__")
    read: list[str] = []
    read_manifest = loading.read_manifest

    def count_reads(path: Path, *args: Any) -> Any:
        read.append(path.name)
        return read_manifest(path, *args)

    monkeypatch.setattr(loading, "read_manifest", count_reads)
    with hs.Study.create(definition("files"), data=files, n_trials=4) as study:
        study.run(workers=1, device="cpu", progress=False)
        study.finalize(device="cpu")
    assert (len(databases), len(storages)) == (1, 1)
    assert read.count("train.csv") == read.count("valid.csv") == read.count("test.csv") == 1
    assert study.out == Path("outputs/files")
    assert (study.out / "leaderboard.csv").is_file()


def test_status_parses_the_stored_definition_once(
    empty: Path, arrays: hs.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    import headsweep.studies.definition as module

    parsed: list[str] = []
    parse = module.spec_from_json
    monkeypatch.setattr(module, "spec_from_json", lambda text: parsed.append(text) or parse(text))
    with hs.Study.create(definition(), data=arrays) as study:
        for _ in range(5):
            study.status()
    assert len(parsed) == 1


def test_study_on_arrays_of_two_encoders_searches_both_and_names_them(tmp_path) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((160, 12)), rng.standard_normal((160, 5))
    targets = (first[:, :2] + rng.standard_normal((160, 2)) > 0).astype(int)
    arrays = {"first": first, "second": second}
    data = hs.Dataset.from_arrays(arrays, targets, labels=["a", "b"])
    enqueued = [{"features.input": one} for one in ("first", "second", ["first", "second"])]
    study = {
        "study": {"name": "two", "n_trials": 3, "enqueue": enqueued},
        "base": ["head=linear", "training.max_epochs=2"],
        "space": {
            "features.input": {
                "type": "categorical",
                "choices": ["first", "second", ["first", "second"]],
            }
        },
        "sampler": {"name": "random"},
        "finalists": {"top_k": 3, "seeds": [0], "references": []},
    }
    with hs.Study.create(study, data=data, out=tmp_path / "out") as made:
        board = made.run(progress=False).finalize()
        assert set(made.trials_dataframe()["params_features.input"]) == {
            *("first", "second", "first+second"),
        }
    frame = board.to_dataframe()
    assert set(frame["features"]) == {"first", "second", "first+second"}
    rank = int(frame.loc[frame["features"] == "first+second", "rank"].iloc[0])
    head = board.predictor(rank=rank, seed=0)
    assert head.inputs == {"first": 12, "second": 5}
    assert head.predict_proba(arrays).shape == (160, 2)
    with pytest.raises(FeatureError, match=r"reads second features, .* Did you mean 'secnd'\?"):
        head.predict_proba({"first": first, "secnd": second})


@pytest.mark.parametrize("name", ["a?b", "?mode=ro", "a%20b", "a#b", "a&b=c", "a:b@c", "'a' \"ü\""])
def test_create_on_arrays_stores_the_study_in_a_folder_of_any_name(
    empty: Path, arrays: hs.Dataset, name: str
) -> None:
    """Before the fix, `?` and `%20` were read as parts of a URL: the file was in another folder."""
    hs.Study.create(definition(), data=arrays, out=name).close()
    assert {path.name for path in empty.iterdir()} == {name}
    assert (empty / name / "study.db").is_file()
