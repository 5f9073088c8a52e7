"""An opening of test whose data could not be read is not recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from headsweep.config.schema import Config
from headsweep.data.dataset import Dataset, Split
from headsweep.errors import ManifestError, StudyError
from headsweep.leaderboard import unblinding
from headsweep.leaderboard.unblinding import OPENINGS, open_test
from headsweep.studies.study import StoredStudy
from tests.helpers.data_sets import write_dataset, write_split
from tests.helpers.study_specs import make_spec


@pytest.fixture
def study(tmp_path: Path) -> StoredStudy:
    return StoredStudy.create(make_spec(tmp_path), f"sqlite:///{tmp_path}/study.db")


def opened(study: StoredStudy, config: Config, root: Path, **reopen: str) -> list[Split]:
    data = Dataset.from_config(config, cache_dir=root / "packed")
    return list(open_test(study, [0, 1], data, config, ["visual"], **reopen)[1])


def test_opening_of_data_that_cannot_be_used_needs_no_reason_once_they_are_corrected(
    study: StoredStudy, tmp_path: Path
) -> None:
    config = write_dataset(tmp_path)
    write_split(tmp_path, "test", {"valid_3_a_1": (1, 2), "valid_4_b_1": (0, 1)})
    with pytest.raises(ManifestError, match="a label must be 0 or 1, found '2'"):
        opened(study, config, tmp_path)
    assert study.attrs()[OPENINGS] == []
    write_split(tmp_path, "test", {"valid_3_a_1": (1, 0), "valid_4_b_1": (0, 1)})
    assert len(opened(study, config, tmp_path)) == 1
    (first,) = study.attrs()[OPENINGS]

    write_split(tmp_path, "test", {"valid_3_a_1": (1, 2), "valid_4_b_1": (0, 1)})
    with pytest.raises(StudyError, match="changed since"):
        opened(study, config, tmp_path)
    with pytest.raises(ManifestError, match="found '2'"):
        opened(study, config, tmp_path, reopen="more rows")
    assert study.attrs()[OPENINGS] == [first]
    study.close()


def test_opening_that_fails_for_another_reason_stays_recorded(
    study: StoredStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether anything was seen is not known then."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    config = write_dataset(tmp_path)
    monkeypatch.setattr(unblinding, "load_test", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened(study, config, tmp_path)
    assert len(study.attrs()[OPENINGS]) == 1
    study.close()
