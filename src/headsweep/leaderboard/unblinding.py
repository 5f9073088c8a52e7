"""The firewall: test manifests are opened once, for named trials, and each opening is recorded."""

from __future__ import annotations

import datetime
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import optuna

from headsweep.config.schema import Config
from headsweep.data.ct_rate.metadata import read_subgroups
from headsweep.data.dataset import Dataset, Split
from headsweep.data.unseen import rows_in_train
from headsweep.errors import HeadsweepWarning, InputError, StudyError
from headsweep.evaluation.subgroups import CONTENT, IN_TRAIN, UNSEEN, Attributes
from headsweep.leaderboard.formatting import listed
from headsweep.package_info import code_commit
from headsweep.studies.study import StoredStudy

OPENINGS = "headsweep:test_openings"
"""Study attribute that holds the openings, oldest first."""


@dataclass(frozen=True)
class Opening:
    """One opening of test: when (UTC), for which trials, with which commit of the code.

    `why` is the reason given for opening test again; the first opening has none. `files` has the
    SHA-256 of the test manifests and label maps, by name; openings of before have none.
    """

    when: str
    trials: tuple[int, ...]
    commit: str | None
    why: str | None
    files: Mapping[str, str] = field(default_factory=dict)


def digests_of_test(config: Config, data: Dataset) -> dict[str, str]:
    """Return the SHA-256 of the test manifests and their label maps, by name; no label is read.

    Files that cannot be read are left out, as are all of a data set in memory.
    """
    if data.in_memory:
        return {}
    names = [*config.data.test_manifests, *(config.data.label_maps or {}).values()]
    digests = {}
    for name in dict.fromkeys(names):
        with suppress(OSError):
            content = (Path(config.paths.manifest_dir) / name).read_bytes()
            digests[name] = hashlib.sha256(content).hexdigest()
    return digests


def changed_test_files(
    openings: Sequence[Opening], trials: Sequence[int], files: Mapping[str, str]
) -> list[str]:
    """Return the test files that changed since test was opened for the same trials.

    Args:
        openings: so far.
        trials: numbers of the finalists.
        files: what `digests_of_test` returned.
    """
    if not openings or openings[-1].trials != tuple(sorted(trials)):
        return []
    before = openings[-1].files
    return [name for name, digest in files.items() if before.get(name, digest) != digest]


def reopening_advice(changed: Sequence[str], opening: Opening) -> str:
    """Return what to do about test files that changed since an opening."""
    return (
        f"{', '.join(changed)} changed since the test set was opened on {opening.when}. To use the "
        'present files, pass --reopen "reason"; the reason is shown on the leaderboard'
    )


def is_to_be_reopened(
    study: StoredStudy, trials: Sequence[int], data: Dataset, config: Config, reopen: str | None
) -> bool:
    """Return whether a finished leaderboard is to be made again, as test files changed since.

    Without a reason to open test again it stays, with a warning that names the files.
    """
    openings = _openings(study.attrs().get(OPENINGS, []))
    changed = changed_test_files(openings, trials, digests_of_test(config, data))
    if changed and not reopen:
        text = f"{study.name}: {reopening_advice(changed, openings[-1])}"
        warnings.warn(text, HeadsweepWarning, stacklevel=2)
    return bool(changed and reopen)


def open_test(
    study: StoredStudy,
    trials: Sequence[int],
    data: Dataset,
    config: Config,
    inputs: Sequence[str],
    *,
    reopen: str | None = None,
) -> tuple[tuple[Opening, ...], tuple[Split, ...]]:
    """Record the opening in the study, then read the test manifests.

    Opening again for the same trials and files is not recorded, since it shows nothing new. If the
    data cannot be used, nothing was evaluated, and the record is withdrawn.

    Args:
        study: whose finalists are fixed.
        trials: numbers of the finalists.
        data: holds the test splits.
        config: decides what is read.
        inputs: names of the inputs to load.
        reopen: why test is opened for other trials or files than before; None refuses that.

    Returns:
        All openings so far, and the test splits.

    Raises:
        StudyError: test was opened before for other trials or files, and no reason is given.
        InputError: the data cannot be used.
    """
    named, files = tuple(sorted(trials)), digests_of_test(config, data)
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

    def amend(recorded: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
        openings = _openings(recorded or [])
        changed = changed_test_files(openings, named, files)
        if openings and openings[-1].trials == named and not changed:
            return recorded or []
        if changed and not reopen:
            raise StudyError(f"{study.name}: {reopening_advice(changed, openings[-1])}")
        if openings and not reopen:
            raise StudyError(
                f"{study.name}: the test set was already opened for trials "
                f"{listed(openings[-1].trials)} on {openings[-1].when}. To evaluate trials "
                f'{listed(named)}, pass --reopen "reason"; the reason is shown on the leaderboard'
            )
        opening = Opening(when, named, code_commit(), reopen if openings else None, files)
        return [*(recorded or []), asdict(opening)]

    # In one transaction, so that of two simultaneous openings the second sees the first.
    openings = _openings(study.amend_attr(OPENINGS, amend))
    try:
        return openings, load_test(data, config, inputs)
    except InputError:
        if openings[-1].when == when:
            study.amend_attr(OPENINGS, lambda recorded: _without(recorded, openings[-1]))
        raise


def load_test(data: Dataset, config: Config, inputs: Sequence[str]) -> tuple[Split, ...]:
    """Return the test splits, for trials for which test was opened before, as verification does."""
    return tuple(data.test_splits(config, inputs=inputs))


def load_test_subgroups(
    data: Dataset, config: Config, tests: Sequence[Split]
) -> dict[str, Attributes]:
    """Return the subgroups of the rows of each test split; empty without metadata."""
    if data.in_memory:
        return {test.name: {} for test in tests}
    folder = Path(config.paths.manifest_dir)
    return {
        test.name: read_subgroups(folder / name, config.data.columns, test.volumes)
        for name, test in zip(config.data.test_manifests, tests, strict=True)
    }


def with_content(
    subgroups: Mapping[str, Attributes], train: Split, tests: Sequence[Split]
) -> dict[str, Attributes]:
    """Add the attribute `content` to the splits that share reports or features with train.

    Returns:
        Subgroups of each test split's rows: `unseen`, or `also in train`.
    """
    amended = dict(subgroups)
    for test in tests:
        shared = rows_in_train(train, test)
        if shared.any():
            groups = [IN_TRAIN if one else UNSEEN for one in shared]
            amended[test.name] = {**amended[test.name], CONTENT: groups}
    return amended


def past_openings(study: optuna.Study) -> tuple[Opening, ...]:
    """Return the openings recorded so far, oldest first."""
    return _openings(study.user_attrs.get(OPENINGS, []))


def _openings(recorded: Sequence[dict[str, Any]]) -> tuple[Opening, ...]:
    return tuple(Opening(**{**act, "trials": tuple(act["trials"])}) for act in recorded)


def _without(recorded: list[dict[str, Any]] | None, opening: Opening) -> list[dict[str, Any]]:
    kept = recorded or []
    return kept[:-1] if _openings(kept[-1:]) == (opening,) else kept
