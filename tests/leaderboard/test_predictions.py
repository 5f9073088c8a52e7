"""Files of predictions, ranks and subgroups are read back unchanged, or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headsweep.errors import VerificationError
from headsweep.evaluation.predictions import (
    DIRECTIONS,
    Predictions,
    read_predictions,
    read_ranks,
    read_seeds,
    write_predictions,
    write_ranks,
)
from headsweep.evaluation.subgroups import read_subgroups_of, write_subgroups

SPLIT = Predictions(
    "test",
    ("valid_1_a_1", "valid_2_a_1", "valid_2_b_1"),
    ("valid_1", "valid_2", "valid_2"),
    ("Emphysema", "Lung nodule"),
    np.array([[0, 1], [1, 0], [1, 1]], dtype=np.uint8),
    np.array([[0.25, 0.5], [0.75, 0.125], [0.5, 1.0]]),
    np.array([[-1.0, 0.0], [1.0, -2.0], [0.0, 40.0]], dtype=np.float32),
)


def test_read_predictions_after_write_returns_equal_values(tmp_path: Path) -> None:
    write_predictions(SPLIT, tmp_path / "seed_0" / "test.parquet")
    found = read_predictions(tmp_path / "seed_0" / "test.parquet")
    assert (found.name, found.volumes, found.patients) == ("test", SPLIT.volumes, SPLIT.patients)
    assert found.labels == SPLIT.labels
    np.testing.assert_array_equal(found.targets, SPLIT.targets)
    for kind in ("scores", "logits"):
        assert getattr(found, kind).dtype == getattr(SPLIT, kind).dtype
        np.testing.assert_array_equal(getattr(found, kind), getattr(SPLIT, kind))


def test_read_predictions_without_logits_ranks_by_scores(tmp_path: Path) -> None:
    old = replace(SPLIT, scores=SPLIT.scores.astype(np.float32), logits=None)
    write_predictions(old, tmp_path / "test.parquet")
    found = read_predictions(tmp_path / "test.parquet")
    assert found.logits is None
    assert found.ranking.dtype == np.float32
    np.testing.assert_array_equal(found.ranking, old.scores)


@pytest.mark.parametrize(
    "fault",
    [
        replace(SPLIT, scores=np.full((3, 2), np.nan, dtype=np.float32)),
        replace(SPLIT, scores=SPLIT.scores.astype(np.float16)),
        replace(SPLIT, logits=np.full((3, 2), np.inf, dtype=np.float32)),
        replace(SPLIT, logits=SPLIT.scores),
        replace(SPLIT, targets=SPLIT.targets * 2),
        replace(SPLIT, targets=SPLIT.targets.astype(np.int64)),
    ],
)
def test_read_predictions_with_bad_values_or_dtypes_is_refused(
    tmp_path: Path, fault: Predictions
) -> None:
    write_predictions(fault, tmp_path / "test.parquet")
    with pytest.raises(VerificationError, match=r"test\.parquet: cannot read predictions"):
        read_predictions(tmp_path / "test.parquet")


def test_read_seeds_when_rows_or_labels_differ_is_refused(tmp_path: Path) -> None:
    others = {
        "volumes": replace(SPLIT, volumes=SPLIT.volumes[::-1]),
        "patients": replace(SPLIT, patients=("valid_1", "valid_2", "valid_3")),
        "labels": replace(SPLIT, labels=("Emphysema", "Atelectasis")),
        "targets": replace(SPLIT, targets=1 - SPLIT.targets),
    }
    first, other = tmp_path / "first.parquet", tmp_path / "other.parquet"
    write_predictions(SPLIT, first)
    write_predictions(replace(SPLIT, scores=SPLIT.scores / 2), other)
    assert [seed.scores[0, 0] for seed in read_seeds([first, other], tmp_path)] == [0.25, 0.125]
    for split in others.values():
        write_predictions(split, other)
        with pytest.raises(VerificationError, match=r"other\.parquet: rows or labels differ"):
            read_seeds([first, other], tmp_path)
    with pytest.raises(VerificationError, match="the finalist has no predictions"):
        read_seeds([], tmp_path)


def test_read_ranks_after_write_returns_equal_values(tmp_path: Path) -> None:
    ranks = {name: np.array([1, 3, i]) for i, name in enumerate(DIRECTIONS, start=1)}
    write_ranks(ranks, SPLIT, tmp_path / "ranks.parquet")
    found = read_ranks(tmp_path / "ranks.parquet")
    assert {name: values.tolist() for name, values in found.items()} == {
        name: values.tolist() for name, values in ranks.items()
    }


def test_read_ranks_with_bad_columns_or_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ranks.parquet"
    contents = (
        {"volumename": ["a"]},
        {f"rank:{name}": ["first"] for name in DIRECTIONS},
        {f"rank:{name}": [1.5] for name in DIRECTIONS},
    )
    for content in contents:
        pq.write_table(pa.table(content), path)
        with pytest.raises(VerificationError, match=r"ranks\.parquet: cannot read ranks: "):
            read_ranks(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(VerificationError, match=r"ranks\.parquet: cannot read ranks: "):
        read_ranks(path)


def test_read_subgroups_of_a_split_returns_only_its_groups(tmp_path: Path) -> None:
    path = tmp_path / "subgroups.parquet"
    assert read_subgroups_of(path, "test") == {}
    by_split = {
        "test": (SPLIT.volumes, {"sex": ["F", "M", "M"]}),
        "other": (SPLIT.volumes[:1], {"age": ["40-59"]}),
    }
    write_subgroups(by_split, path)
    assert read_subgroups_of(path, "test") == {"sex": ["F", "M", "M"]}
    assert read_subgroups_of(path, "other") == {"age": ["40-59"]}
    assert read_subgroups_of(path, "none") == {}
    path.write_bytes(b"PAR1")
    with pytest.raises(VerificationError, match=r"parquet: cannot read subgroups: "):
        read_subgroups_of(path, "test")
