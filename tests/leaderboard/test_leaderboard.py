"""`Leaderboard` reads tables, metrics, predictions and heads of a finished study."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import headsweep
from headsweep.data.dataset import Dataset
from headsweep.errors import OutputError, VerificationError
from headsweep.leaderboard.leaderboard import Leaderboard
from headsweep.leaderboard.merge import read_board
from tests.leaderboard.conftest import LABELS


@pytest.fixture(scope="module")
def read(finished: Path) -> Leaderboard:
    return headsweep.Leaderboard(str(finished))


def test_to_dataframe_has_the_columns_and_values_of_the_csv(read, finished) -> None:
    frame = read.to_dataframe()
    rows = read_board(finished)
    assert list(frame.columns) == list(rows[0])
    assert frame["rank"].tolist() == [1, 2]
    assert frame["trial"].dtype == np.int64
    for name in ("val/auprc_macro", "test_manual_all/auroc_macro_ci_low", "val/auroc_macro"):
        assert frame[name].tolist() == [float(row[name]) for row in rows]
    pd.testing.assert_frame_equal(Leaderboard.merge([finished]).to_dataframe(), frame)


def test_metrics_of_a_rank_equal_the_file(read, finished) -> None:
    assert read.metrics(2) == json.loads((finished / "finalists/2/metrics.json").read_text())


def test_predictions_of_one_seed_equal_the_file(read, finished) -> None:
    path = finished / "finalists/1/seed_2/predictions/test_manual_all.parquet"
    pd.testing.assert_frame_equal(
        read.predictions(1, "test_manual_all", seed=2), pq.read_table(path).to_pandas()
    )


def test_predictions_without_seed_average_the_probabilities(read) -> None:
    mean = read.predictions(rank=1)
    column = f"y_score:{LABELS[0]}"
    by_seed = [read.predictions(1, "test_manual_all", seed=seed)[column] for seed in (0, 1, 2)]
    np.testing.assert_allclose(mean[column], np.mean(by_seed, axis=0), atol=1e-15)
    assert not [name for name in mean.columns if name.startswith("y_logit:")]


def test_predictor_gives_the_stored_predictions(read, data) -> None:
    head = read.predictor(rank=1, seed=0)
    config = Dataset.from_manifests(
        data / "features",
        data / "manifests",
        overrides={"training.target_labels": list(head.labels)},
    )
    (test, *_) = config.splits_alone(inputs=("visual",))
    stored = read.predictions(1, test.name, seed=0)
    found = head.predict_proba({"visual": test.features["visual"]})
    expected = stored[[f"y_score:{label}" for label in head.labels]].to_numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_verify_names_what_was_compared(read) -> None:
    assert read.verify().endswith("equal to the bit")
    assert read.verify(recompute=True).startswith("metrics of 2 finalists")


def test_leaderboard_with_an_unknown_rank_seed_or_split_names_the_valid_ones(read) -> None:
    with pytest.raises(OutputError, match="rank must be one of 1, 2, found 9"):
        read.metrics(9)
    with pytest.raises(OutputError, match="seed must be one of 0, 1, 2, found 7"):
        read.predictor(1, seed=7)
    with pytest.raises(OutputError, match="split must be one of valid, test_manual_all, "):
        read.predictions(1, "train")


def test_leaderboard_of_a_folder_without_a_board_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"leaderboard\.csv"):
        Leaderboard(tmp_path)


def test_metrics_when_the_file_is_damaged_is_refused(board: Path) -> None:
    (board / "finalists/1/metrics.json").write_text("{")
    with pytest.raises(VerificationError, match="cannot read metrics"):
        Leaderboard(board).metrics(1)


def test_merge_accepts_boards_and_folders(read, finished) -> None:
    merged = Leaderboard.merge([read, finished])
    assert merged.to_dataframe()["test_manual_all/tied_rank"].tolist() == [1, 1]
    assert merged.to_csv().count("\n") == 3


def test_repr_html_is_a_table_with_every_finalist(read) -> None:
    text = read._repr_html_()
    assert text.count("<table>") == 3
    assert text.count("trial ") == 6
    assert "<html" not in text
    assert Path(read) == read.folder
