"""Folds of a cross-validated search: patients whole, every row held out once, reproducible."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headsweep.data.folds import OUT_OF_FOLD, divide, joined, take
from headsweep.data.splits import Split
from headsweep.errors import HeadsweepWarning, ManifestError
from tests.helpers.splits import make_split

pytestmark = pytest.mark.filterwarnings("ignore::headsweep.errors.HeadsweepWarning")


def split_of(name: str, patients: list[int], reports: list[int], seed: int) -> Split:
    """Rows of given patients and reports; report 0 is empty."""
    split = make_split(name, len(patients), seed=seed)
    return replace(
        split,
        patients=tuple(f"{name}-{patient}" for patient in patients),
        reports=tuple("" if report == 0 else f"report {report}" for report in reports),
    )


rows = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40)), min_size=12, max_size=60)


@given(rows, rows, st.integers(2, 6), st.integers(0, 5))
def test_divide_holds_out_every_row_once_and_keeps_patients_whole(
    of_train: list[tuple[int, int]], of_valid: list[tuple[int, int]], count: int, seed: int
) -> None:
    train = split_of("train", *map(list, zip(*of_train, strict=True)), seed=1)
    valid = split_of("valid", *map(list, zip(*of_valid, strict=True)), seed=2)
    if len({*train.patients, *valid.patients}) < count:
        return
    folds = divide(train, valid, count, seed)
    assert folds.rows.volumes == (*train.volumes, *valid.volumes)
    held_out = np.concatenate([folds.held_out_rows(k) for k in range(folds.count)])
    assert sorted(held_out.tolist()) == list(range(len(folds.rows.volumes)))
    for k in range(count):
        training, measured = folds.training(k), folds.held_out(k)
        assert len(measured.volumes) > 0
        assert not {*training.patients} & {*measured.patients}
        assert not {*training.volumes} & {*measured.volumes}
    assert np.array_equal(divide(train, valid, count, seed).fold_of, folds.fold_of)


def test_divide_keeps_equal_reports_in_one_fold() -> None:
    split = split_of("train", list(range(60)), [1 + i // 2 for i in range(60)], seed=1)
    folds = divide(split, None, 5, seed=0)
    fold_of_report = dict(zip(split.reports or (), folds.fold_of.tolist(), strict=True))
    assert [fold_of_report[report] for report in split.reports or ()] == folds.fold_of.tolist()


def test_divide_when_one_report_fills_more_than_a_fold_divides_by_patient_with_a_warning() -> None:
    split = split_of("train", list(range(60)), [1] * 20 + list(range(2, 42)), seed=1)
    with pytest.warns(HeadsweepWarning, match="20 of 60 rows share reports with each other"):
        folds = divide(split, None, 5, seed=0)
    assert max(Counter(folds.fold_of.tolist()).values()) <= 14


def test_divide_does_not_depend_on_features() -> None:
    split = make_split("train", 80, seed=1)
    other = replace(split, features={"visual": np.zeros((80, 3), np.float32)})
    assert divide(split, None, 4, 7).fingerprint == divide(other, None, 4, 7).fingerprint
    assert divide(split, None, 4, 8).fingerprint != divide(split, None, 4, 7).fingerprint


def test_divide_stratifies_over_the_labels() -> None:
    folds = divide(make_split("train", 400, seed=1), None, 5, seed=0)
    shares = np.stack([folds.held_out(k).targets.mean(axis=0) for k in range(5)])
    assert np.abs(shares - folds.rows.targets.mean(axis=0)).max() < 0.02


def test_divide_into_more_folds_than_patients_is_refused_in_one_line() -> None:
    split = split_of("train", [0, 0, 1, 1, 2, 2], [0] * 6, seed=1)
    with pytest.raises(
        ManifestError, match=r"objective\.folds must be at most the number"
    ) as error:
        divide(split, None, 4, seed=0)
    assert str(error.value).endswith("found 4 folds and 3 patients")


def test_divide_when_positives_do_not_reach_every_fold_warns() -> None:
    split = make_split("train", 40, seed=1)
    targets = split.targets.copy()
    targets[:, 2] = 0
    targets[:3, 2] = 1
    with pytest.warns(HeadsweepWarning, match=r"positives of 1 labels .* 'label 2' \(in 3\)"):
        divide(replace(split, targets=targets), None, 5, seed=0)


def test_take_and_joined_keep_the_fields_of_a_row_together() -> None:
    one, other = make_split("train", 30, seed=1), make_split("valid", 20, seed=2)
    both = joined(replace(one, reports=("r",) * 30), replace(other, reports=("s",) * 20))
    chosen = np.array([29, 30, 3, 49])
    part = take(both, chosen)
    assert part.volumes == ("train_29_a_1", "valid_0_a_1", "train_3_a_1", "valid_19_a_1")
    assert part.patients == ("train_29", "valid_0", "train_3", "valid_19")
    assert part.reports == ("r", "s", "r", "s")
    assert part.labels == one.labels
    for modality in ("visual", "text"):
        expected = np.concatenate([one.features[modality], other.features[modality]])[chosen]
        assert np.array_equal(part.features[modality], expected)
    assert np.array_equal(part.targets[1], other.targets[0])
    assert divide(one, None, 2, 0).rows.name == OUT_OF_FOLD
