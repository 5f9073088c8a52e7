"""One study in its storage: created once, continued under the same spec, opened by name."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection

from headsweep.config.schema import Config
from headsweep.errors import FeatureError, ManifestError, StudyError
from headsweep.search.enqueued import complete_params
from headsweep.search.given_params import fits_space
from headsweep.search.objective import is_feasible, is_measured, none_feasible
from headsweep.search.space import distribution, lacks_params
from headsweep.search.spec import StudySpec
from headsweep.storage.attributes import N_TRIALS, typed
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.studies.definition import DEFINITION, FOLDER, define, parse_definition
from headsweep.studies.enqueue import enqueue_once
from headsweep.studies.pinned_data import DATA, pin_data
from headsweep.studies.stopping import clear_past_deadline, set_deadline
from headsweep.studies.storages import open_storage, open_storage_after, study_id
from headsweep.studies.study_attributes import read_study_attrs, write_study_attrs
from headsweep.studies.summary import Summary, summarize
from headsweep.studies.trials import export_trial, single_run_config

N_WORKERS = "headsweep:n_workers"
"""Study attribute: number of workers that have joined; each draws from its own random stream."""


class StoredStudy:
    """A study in an open storage.

    Opened with a URL it owns its storage and `close` closes it; opened with a storage it leaves
    closing to the caller. It is a context manager that closes itself.

    Args:
        name: name of the study.
        study_id: its id in the storage.
        storage: an open storage.
        owns_storage: whether `close` closes the storage.
    """

    def __init__(
        self, name: str, study_id: int, storage: BatchedStorage, *, owns_storage: bool = False
    ) -> None:
        self.name = name
        self.study_id = study_id
        self.storage = storage
        self._owns_storage = owns_storage
        self._parsed: tuple[str, StudySpec] | None = None
        self._searched: tuple[StudySpec, dict[str, BaseDistribution]] | None = None
        storage.bind(study_id)

    @classmethod
    def open(cls, name: str, storage: BatchedStorage | str) -> Self:
        """Open an existing study.

        Args:
            name: name of the study.
            storage: an open storage, or the URL of one.

        Returns:
            The study.

        Raises:
            StudyError: the storage holds no study of headsweep's with this name.
            StorageError: the storage cannot be opened.
        """
        opened, owned = storage, isinstance(storage, str)
        if isinstance(opened, str):
            opened = open_storage(opened)
        try:
            study = cls(name, study_id(name, opened), opened, owns_storage=owned)
            _ = study.spec  # refuses a study of stock Optuna
        except BaseException:
            if owned:
                opened.database.close()
            raise
        return study

    @classmethod
    def create(
        cls,
        spec: StudySpec,
        storage: BatchedStorage | str,
        *,
        check: Callable[[], None] | None = None,
    ) -> Self:
        """Create a study, or continue it with a budget that may have grown.

        Args:
            spec: what is searched and how.
            storage: an open storage, or the URL of one, which is created if it is a file.
            check: called when the storage is known to answer, before anything is written.

        Returns:
            The study.

        Raises:
            StudyError: a study of this name exists with another spec or a larger budget, or was
                created by another program and cannot be adopted.
            StorageError: the storage cannot be opened or created.
        """
        opened, owned = storage, isinstance(storage, str)
        check = check or (lambda: None)
        if isinstance(opened, str):
            opened = open_storage_after(check, opened)
        else:
            check()
        try:
            defined = define(spec, opened)
            opened.bind(defined, writes=True)
        except BaseException:
            if owned:
                opened.database.close()
            raise
        return cls(spec.name, defined, opened, owns_storage=owned)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the storage if this study opened it."""
        if self._owns_storage:
            self.storage.database.close()

    @property
    def spec(self) -> StudySpec:
        """The stored spec with the present budget; parsed again only when it changed."""
        return self._spec_of(self.attrs())

    @contextmanager
    def data_errors_explained(self) -> Iterator[None]:
        """Add to an error of the data which folder its relative paths refer to.

        Yields:
            Nothing.

        Raises:
            FeatureError: the block raised one; both folders are named if they differ.
            ManifestError: the same.
        """
        try:
            yield
        except (ManifestError, FeatureError) as error:
            created, here = self.attrs().get(FOLDER), str(Path.cwd())
            paths = self.spec.config.paths
            absolute = Path(paths.data_root).is_absolute(), Path(paths.manifest_dir).is_absolute()
            if created in (None, here) or all(absolute):
                raise
            raise type(error)(
                f"{error} (paths are relative to the current folder, {here}; "
                f"the study was created in {created})"
            ) from None

    def attrs(self) -> Mapping[str, Any]:
        """Return the study's user attributes.

        Raises:
            StudyDeletedError: the study was deleted.
        """
        return self.storage.get_study_user_attrs(self.study_id)

    def trials(self, states: Sequence[TrialState] | None = None) -> list[FrozenTrial]:
        """Return the study's trials in the order of their numbers; they must not be changed.

        Args:
            states: only trials in one of these states; None is all.
        """
        wanted = None if states is None else tuple(states)
        return self.storage.get_all_trials(self.study_id, deepcopy=False, states=wanted)

    def trial(self, number: int) -> FrozenTrial:
        """Return the trial with this number.

        Raises:
            StudyError: there is no such trial.
        """
        try:
            trial_id = self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number)
        except KeyError:
            raise StudyError(f"study {self.name!r} has no trial {number}") from None
        return self.storage.get_trial(trial_id)

    def fits(self, trial: FrozenTrial) -> bool:
        """Return whether a finished trial's params are complete and in the space.

        Those of another program may not. Nor does another program measure what the study's
        constraint bounds.
        """
        if self._searched is None:
            spec = self.spec
            self._searched = spec, {k: distribution(d) for k, d in spec.space.items()}
        spec, distributions = self._searched
        constraint = spec.objective.constraint
        if constraint and not is_measured(trial, constraint):
            return False
        fitting = fits_space(trial, distributions)
        return fitting and not lacks_params(trial, spec.space, spec.config)

    def best_trials(self, n: int) -> list[FrozenTrial]:
        """Return the `n` best COMPLETE trials, best first; the earlier of two equals comes first.

        Trials that do not meet the study's constraint, and those of other programs whose params do
        not fit the space, are left out.

        Raises:
            StudyError: no trial is COMPLETE, or none meets the constraint.
        """
        trials = [trial for trial in self.trials((TrialState.COMPLETE,)) if self.fits(trial)]
        if not trials:
            raise StudyError(f"study {self.name!r} has no complete trial yet")
        feasible = [trial for trial in trials if is_feasible(trial)]
        if not feasible:
            text = none_feasible(trials, self.spec.objective.constraint)
            raise StudyError(f"study {self.name!r}: {text}")
        return sorted(feasible, key=lambda trial: (-(trial.value or 0.0), trial.number))[:n]

    def config_of(self, trial: FrozenTrial) -> Config:
        """Return the config that trains a trial again, with the folds of the study, if it has any.

        Raises:
            ConfigError: the trial's params together break a constraint of the config.
        """
        return single_run_config(self.spec, trial)

    def export(self, path: Path, number: int | None = None) -> FrozenTrial:
        """Write the config of a complete trial, which `headsweep train --config` trains again.

        Args:
            path: YAML file to write.
            number: number of the trial; None is the best one.

        Returns:
            The trial.

        Raises:
            StudyError: there is no such trial, or it has no value.
            OutputError: the file cannot be written.
        """
        trial = self.best_trials(1)[0] if number is None else self.trial(number)
        export_trial(self.spec, trial, path)
        return trial

    def summary(self, *, lease_s: float = 60.0) -> Summary:
        """Return the progress of the study.

        Args:
            lease_s: a worker is live if it renewed a trial within this time.

        Raises:
            StudyDeletedError: the study was deleted.
        """
        attrs = self.attrs()
        return summarize(
            self._spec_of(attrs), attrs, self.study_id, self.storage, self.fits, lease_s=lease_s
        )

    def pin_data(self, fingerprints: Mapping[str, str]) -> None:
        """Bind the study to the data it is searched on: the first worker writes, others compare.

        Args:
            fingerprints: of every manifest and feature matrix, by name.

        Raises:
            StudyError: the data differ from the study's.
        """
        self.storage.write(self.study_id, lambda c: pin_data(c, self.study_id, fingerprints))

    def pinned_data(self) -> Mapping[str, str]:
        """Return the fingerprints of the study's data; empty before its first worker began."""
        data: Mapping[str, str] = self.attrs().get(DATA, {})
        return data

    def amend_attr(self, name: str, amend: Callable[[Any], Any]) -> Any:
        """Replace an attribute in one transaction that no other writer interrupts.

        Args:
            name: name of the attribute.
            amend: makes the new value of the old one, or of None; it may raise, and is called
                again after an outage.

        Returns:
            The new value.
        """

        def work(connection: Connection) -> Any:
            amended = amend(read_study_attrs(connection, self.study_id).get(name))
            write_study_attrs(connection, self.study_id, {name: amended})
            return amended

        return self.storage.write(self.study_id, work)

    def enqueue(self, params: Sequence[Mapping[str, Any]], *, by: str) -> list[int]:
        """Add trials that workers run before they suggest others, each exactly once.

        Args:
            params: of each trial; keys that are left out get the study's default value.
            by: who enqueues them; kept with the trials.

        Returns:
            Numbers of the trials.

        Raises:
            StudyError: a key is not searched, or a value is outside its range.
        """
        spec, token = self.spec, secrets.token_hex(8)
        complete = [complete_params(one, spec, where=f"enqueue {one!r}") for one in params]
        return self.storage.write(
            self.study_id,
            lambda c: enqueue_once(c, self.study_id, complete, by=by, token=token),
        )

    def set_deadline(self, timeout_s: float | None) -> None:
        """Set when the search stops: no trial starts after it, running ones end at their next rung.

        Args:
            timeout_s: seconds from now by the database's clock; None removes the deadline.
        """
        self.storage.write(self.study_id, lambda c: set_deadline(c, self.study_id, timeout_s))

    def clear_past_deadline(self) -> None:
        """Remove a deadline that has passed, so that the search goes on; a coming one stays."""
        self.storage.write(self.study_id, lambda c: clear_past_deadline(c, self.study_id))

    def next_worker_index(self) -> int:
        """Count a worker that joins.

        Returns:
            Number of workers that joined before.
        """

        def count(connection: Connection) -> int:
            index = typed(
                read_study_attrs(connection, self.study_id), N_WORKERS, 0, where=self.name
            )
            write_study_attrs(connection, self.study_id, {N_WORKERS: index + 1})
            return index

        return self.storage.write(self.study_id, count)

    def _spec_of(self, attrs: Mapping[str, Any]) -> StudySpec:
        text = attrs.get(DEFINITION)
        if text is None:
            raise StudyError(f"study {self.name!r} was not created by headsweep")
        if self._parsed is None or self._parsed[0] != text:
            self._parsed = (text, parse_definition(text, self.name))
        spec = self._parsed[1]
        n_trials = typed(attrs, N_TRIALS, spec.n_trials, where=self.name)
        return spec if n_trials == spec.n_trials else spec.model_copy(update={"n_trials": n_trials})
