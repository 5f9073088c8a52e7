"""Labels of one class are named in one line before a search or a training, as by `data check`."""

import csv
import warnings
from dataclasses import replace

import numpy as np
import pytest

from headsweep.api import Study
from headsweep.data.one_class import one_class_labels, warn_of_one_class
from headsweep.errors import HeadsweepWarning
from headsweep.metrics.masking import BLANK
from tests.helpers.data_sets import write_dataset
from tests.helpers.splits import make_split

STUDY = """
study: {name: tiny, n_trials: 1, seed: 1}
base: [head=linear, features=visual, training.max_epochs=1, 'data.test_manifests=[test.csv]']
space: {training.learning_rate: {type: float, low: 1.0e-4, high: 1.0e-1}}
finalists: {top_k: 1, seeds: [0], references: []}
"""


def test_one_class_labels_counts_rows_that_are_not_blank():
    targets = np.array([[0, 1, 1, 1], [0, BLANK, 0, BLANK], [0, 1, 1, 0]], np.uint8)
    assert one_class_labels("abcd", targets) == [("a", 0, 3), ("b", 2, 2)]


def test_warn_of_one_class_with_many_labels_names_the_first():
    split = make_split("valid", 9, seed=0, n_labels=9)
    split = replace(split, targets=np.zeros((9, 9), np.uint8))
    with pytest.warns(HeadsweepWarning, match=r"9 of 9 labels .* and 4 more$") as caught:
        warn_of_one_class(split)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_one_class(replace(split, targets=np.eye(9, dtype=np.uint8)))


def test_train_and_study_with_a_label_of_one_class_warn_in_one_line(
    tmp_path, monkeypatch, headsweep
):
    """`headsweep run` warns as `headsweep data check` does."""
    write_dataset(tmp_path)
    monkeypatch.chdir(tmp_path)
    valid = tmp_path / "manifests" / "valid.csv"
    header, *rows = csv.reader(valid.read_text().splitlines())
    label = header[-1]
    with valid.open("w", newline="") as file:
        csv.writer(file).writerows([header, *([*row[:-1], "0"] for row in rows)])
    (tmp_path / "s.yaml").write_text(STUDY)
    paths = ("paths.data_root=features", "paths.manifest_dir=manifests")
    expected = (
        "valid: 1 of 2 labels do not have both positives and negatives, so their AUPRC and AUROC "
        f"are undefined there; positives: {label!r} (0 of {len(rows)} rows)"
    )
    with pytest.warns(HeadsweepWarning) as caught:  # as `headsweep run` does
        Study.create("s.yaml", overrides=paths).close()
    assert [str(one.message) for one in caught].count(expected) == 1
    warnings.simplefilter("default")  # pytest restores its filters
    ended = headsweep("train", "training.max_epochs=1", "features=visual", *paths)
    assert ended.code == 0, ended.err
    assert ended.err.splitlines().count(f"Warning: {expected}") == 1, ended.err
