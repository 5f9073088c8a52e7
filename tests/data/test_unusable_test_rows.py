"""Rows of test manifests that could not be evaluated are refused before the search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import headsweep as hs
from headsweep.data.dataset import Dataset
from headsweep.data.manifest_headers import check_test_rows
from headsweep.errors import InputError
from tests.helpers.data_sets import write_dataset, write_split


def shared_patient(root: Path) -> None:
    write_split(root, "test", {"valid_3_a_1": (1, 0), "train_2_b_1": (0, 1), "train_1_c_1": (0, 1)})


def no_rows(root: Path) -> None:
    write_split(root, "test", {})


def missing_feature(root: Path) -> None:
    (root / "features/image/valid_4_b_1.npz").unlink()


def volume_twice(root: Path) -> None:
    file = root / "manifests/test.csv"
    file.write_text(file.read_text() + file.read_text().splitlines()[-1] + "\n")


def cut_row(root: Path) -> None:
    file = root / "manifests/test.csv"
    file.write_text(file.read_text() + "valid_9_a_1\n")


FAULTS = [
    (
        shared_patient,
        r"test\.csv:3: a patient must be in one split, found 'train_2' also in train "
        r"\(and 1 more rows\)",
    ),
    (no_rows, r"test\.csv: a manifest must have rows, found only a header"),
    (missing_feature, r"test\.csv:3: feature file not found: .*image/valid_4_b_1\.npz$"),
    (volume_twice, r"test\.csv:4: a volume must be in one row, found 'valid_4_b_1' also in row 3"),
    (cut_row, r"test\.csv:4: a row must have 4 cells, found 1"),
]


@pytest.mark.parametrize(("spoil", "message"), FAULTS, ids=[spoil.__name__ for spoil, _ in FAULTS])
def test_study_with_a_test_manifest_that_cannot_be_evaluated_is_not_created(
    spoil: Callable[[Path], None],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEADSWEEP_CACHE", str(tmp_path / "packed"))
    config = write_dataset(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=message):
        hs.Study.create(
            "linear_visual",
            data=hs.Dataset.from_config(config),
            storage=f"sqlite:///{tmp_path}/study.db",
            out=tmp_path / "out",
        )
    assert not (tmp_path / "study.db").exists()


def test_check_test_rows_does_not_read_labels(tmp_path: Path) -> None:
    config = write_dataset(tmp_path)
    splits = Dataset.from_config(config, cache_dir=tmp_path / "packed").search_splits()
    write_split(tmp_path, "test", {"valid_3_a_1": ("?", ""), "valid_4_b_1": ("no", 7)})
    check_test_rows(config, ["visual"], splits)
