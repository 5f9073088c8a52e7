"""`Study`, the handle of the Python API: create, search, inspect, confirm."""

from __future__ import annotations

import html
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from headsweep.arguments import (
    MOST_TRIALS,
    optional_seconds,
    optional_whole_number,
    refuse_other_types,
    whole_number,
)
from headsweep.config.values import value_at
from headsweep.errors import HeadsweepWarning, StudyError
from headsweep.launching import progress as study_progress
from headsweep.launching.devices import default_workers
from headsweep.launching.local import launch_local
from headsweep.package_info import study_path
from headsweep.preflight import (
    check_board_folder,
    check_manifests,
    refuse_empty_path,
)
from headsweep.search.enqueued import split_by_fit
from headsweep.search.spec import StudySpec
from headsweep.search.study_file import load_study_file, study_from_dict
from headsweep.settings import EngineSettings, default_storage_url
from headsweep.storage.urls import sqlite_url
from headsweep.studies.references import with_references
from headsweep.studies.study import StoredStudy
from headsweep.studies.summary import Summary
from headsweep.studies.trials import searched_inputs
from headsweep.workers.signals import stop_in_process

if TYPE_CHECKING:
    import optuna
    import pandas as pd

    from headsweep.data.dataset import Dataset
    from headsweep.leaderboard.leaderboard import Leaderboard


class Study:
    """A search: created from a study file, run to its budget, ended with a leaderboard.

    It keeps one connection to its storage and loads train and valid once. It is a context manager;
    `close` releases the storage.

    Example:
        ```python
        import headsweep as hs

        with hs.Study.create("linear_visual", overrides=["study.n_trials=50"]) as study:
            study.run()
            study.best_params
        ```
    """

    def __init__(self, stored: StoredStudy, out: Path, data: Dataset | None) -> None:
        self._stored = stored
        self._data = data
        self.out = out
        """Folder of the leaderboard and of the workers' logs."""

    @classmethod
    def create(
        cls,
        study: str | Path | Mapping[str, Any],
        *,
        data: Dataset | None = None,
        storage: str | None = None,
        out: str | Path | None = None,
        overrides: Sequence[str] = (),
        n_trials: int | None = None,
    ) -> Self:
        """Create a study, or continue the one of this name, after checking all inputs.

        Args:
            study: a study file, the name of one that comes with headsweep, or its sections as a
                dict.
            data: the data to search on; None is what the study file names.
            storage: Optuna storage, `sqlite:///FILE` or `postgresql://…`. None is
                `$HEADSWEEP_STORAGE` or `storage/headsweep.db`; for data in memory it is
                `study.db` in `out`.
            out: folder of the leaderboard and the logs; None is `outputs/<study>`.
            overrides: `key=value` texts, as on the command line.
            n_trials: finished trials to reach; None is the study file's number.

        Returns:
            The study.

        Raises:
            InputError: something given cannot be used; nothing was written.
        """
        _refuse_arguments(data, storage)
        inputs = None if data is None else {"data.inputs": value_at(data.config, "data.inputs")}
        spec = load_spec(study, overrides, n_trials, fixed=inputs)
        if data is not None:
            spec = spec.model_copy(update={"config": data.apply_to(spec.config)})
        folder = out_folder(spec, out)
        in_memory = data is not None and data.in_memory
        if storage is None:
            storage = sqlite_url(folder / "study.db") if in_memory else default_storage_url()
        if data is None:
            data = _configured_data(spec)
        check_board_folder(folder)
        if not in_memory:
            check_manifests(spec.config)
        source = data
        stored = StoredStudy.create(spec, storage, check=lambda: _check_data(spec, source))
        return cls(stored, folder, data)

    @classmethod
    def open(
        cls,
        name: str,
        *,
        data: Dataset | None = None,
        storage: str | None = None,
        out: str | Path | None = None,
    ) -> Self:
        """Open a study that exists.

        Args:
            name: the study's name.
            data: the data to search on, needed again if they are in memory; None is what the
                study names.
            storage: as for `create`.
            out: as for `create`.

        Returns:
            The study.

        Raises:
            StudyError: the storage holds no study of this name.
            StorageError: the storage cannot be opened.
        """
        _refuse_arguments(data, storage)
        stored = StoredStudy.open(name, storage or default_storage_url())
        return cls(stored, out_folder(stored.spec, out), data)

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
        """Release the storage."""
        self._stored.close()

    @property
    def name(self) -> str:
        """The study's name."""
        return self._stored.name

    @property
    def spec(self) -> StudySpec:
        """What is searched and how."""
        return self._stored.spec

    @property
    def data(self) -> Dataset:
        """The data that are searched on; files are read when they are first needed."""
        if self._data is None:
            self._data = _configured_data(self.spec)
        return self._data

    @property
    def optuna(self) -> optuna.Study:
        """The same study as an `optuna.Study`, for Optuna's plots and tools."""
        import optuna

        return optuna.load_study(study_name=self.name, storage=self._stored.storage)

    def run(
        self,
        workers: int | None = None,
        *,
        device: str = EngineSettings.device,
        slots: int | None = None,
        timeout_s: float | None = None,
        progress: bool = True,
    ) -> Self:
        """Search until the budget is spent; called again, it continues where it stopped.

        Worker processes are started on this machine. A study on data in memory runs in this process
        instead, with one worker. After Ctrl-C, workers hand their trials back before they end.

        Args:
            workers: worker processes; None is one for each GPU, and on a CPU two.
            device: `auto`, `cpu`, `cuda` or `cuda:i`.
            slots: trials that one worker trains at once.
            timeout_s: seconds after which no trial starts and running ones end at their next rung,
                on all machines; None is no limit. The search continues when `run` is called again.
            progress: whether progress is shown on standard error.

        Returns:
            The study itself.

        Raises:
            InputError: the data, the storage or the device cannot be used.
            WorkError: too many trials failed, or the workers crashed.
            KeyboardInterrupt: after the workers handed their trials back.
        """
        engine = EngineSettings(device=device, slots=optional_whole_number("slots", slots))
        workers = optional_whole_number("workers", workers)
        self._stored.set_deadline(optional_seconds("timeout_s", timeout_s))
        with study_progress.shown(visible=progress) as show:
            if self.data.in_memory:
                self._run_here(engine, show)
            else:
                launch_local(
                    self._stored,
                    workers or default_workers(device),
                    engine,
                    log_dir=self.out / "logs",
                    show=show,
                )
        return self

    def enqueue(self, *params: Mapping[str, Any]) -> list[int]:
        """Add trials with given params; workers run each of them once, before they suggest others.

        Args:
            params: values by config keys of the space. Keys that are left out get the study's
                default value, so `{}` is the default config.

        Returns:
            Numbers of the trials.

        Raises:
            StudyError: a key is not searched, or a value is outside its range.
        """
        return self._stored.enqueue(params, by="user")

    def enqueue_from(self, study: str, *, top: int = 10) -> list[int]:
        """Enqueue the best trials of another study in the same storage.

        Trials whose params do not fit this space are left out, with a warning.

        Args:
            study: name of the other study.
            top: number of its best complete trials.

        Returns:
            Numbers of the new trials.

        Raises:
            StudyError: there is no such study, or it has no complete trial, or none of them fits.
        """
        top = whole_number("top", top)
        best = StoredStudy.open(study, self._stored.storage).best_trials(top)
        fitting, misfits = split_by_fit({t.number: t.params for t in best}, self.spec)
        if not fitting:
            raise StudyError(f"no trial of study {study!r} fits the space: {misfits[0]}")
        if misfits:
            warnings.warn(
                f"{len(misfits)} of {len(best)} trials of study {study!r} do not fit the space "
                f"and are left out; the first: {misfits[0]}",
                HeadsweepWarning,
                stacklevel=2,
            )
        return self._stored.enqueue(fitting, by=f"study {study}")

    def finalize(
        self,
        *,
        device: str = EngineSettings.device,
        slots: int | None = None,
        reopen: str | None = None,
    ) -> Leaderboard:
        """Train the best trials with several seeds, open test once, write the leaderboard.

        Args:
            device: `auto`, `cpu`, `cuda` or `cuda:i`.
            slots: heads that are trained at once.
            reopen: why test is opened again for other trials; the reason is on the leaderboard.

        Returns:
            The leaderboard; it can be used as the path of its folder.

        Raises:
            StudyError: test was already opened for other trials.
            WorkError: no trial is complete, or a finalist diverged.
            InputError: the data or the folder cannot be used.
        """
        slots = optional_whole_number("slots", slots)
        from headsweep.leaderboard.finalize import finalize
        from headsweep.leaderboard.leaderboard import Leaderboard
        from headsweep.leaderboard.report.dashboard_notes import attach_board

        with _threads_restored(), self._stored.data_errors_explained():
            engine = EngineSettings(device=device, slots=slots)
            folder = finalize(self._stored, self.out, engine, data=self.data, reopen=reopen)
        attach_board(self._stored, folder)
        return Leaderboard(folder)

    def status(self) -> Summary:
        """Return the progress: trials by state, best value, speed, live workers."""
        return self._stored.summary()

    def trials_dataframe(self) -> pd.DataFrame:
        """Return the trials as a DataFrame with Optuna's columns, a row for each trial.

        The objective's metric on valid is in the column `value`; all metrics are in columns such as
        `user_attrs_val/auroc_macro`.
        """
        study = self.optuna
        frame: pd.DataFrame = study.trials_dataframe()
        return frame.rename(columns={f"value_{name}": "value" for name in study.metric_names or ()})

    @property
    def best_params(self) -> dict[str, Any]:
        """Params of the best complete trial that meets the constraint.

        Raises:
            StudyError: no trial is complete, or none meets the constraint.
        """
        return dict(self._stored.best_trials(1)[0].params)

    @property
    def best_value(self) -> float:
        """The objective's metric on valid of the best complete trial that meets the constraint.

        Raises:
            StudyError: no trial is complete, or none meets the constraint.
        """
        return float(self._stored.best_trials(1)[0].value or 0.0)

    def export(self, file: str | Path, trial: int | None = None) -> Path:
        """Write a complete trial's config, which `headsweep train --config` trains again.

        Args:
            file: YAML file to write.
            trial: number of the trial; None is the best one.

        Returns:
            The file.

        Raises:
            StudyError: there is no such trial, or it is not complete.
            OutputError: the file cannot be written.
        """
        number = optional_whole_number("trial", trial, least=0, most=MOST_TRIALS)
        self._stored.export(refuse_empty_path(file, "file"), number)
        return Path(file)

    def _run_here(self, engine: EngineSettings, show: Any) -> None:
        """Work on the study in this process, on a connection of the worker's own.

        Raises:
            KeyboardInterrupt: after trials were handed back.
        """
        from headsweep.workers.worker import work

        url = self._stored.storage.database.secret_url()
        with (
            study_progress.refreshed(lambda: show(self.status())),
            _threads_restored(),
            stop_in_process() as stop,
            StoredStudy.open(self.name, url) as own,
        ):
            work(own, engine, stop, data=self.data)
        if stop.requested:
            raise KeyboardInterrupt
        show(self.status())

    def __repr__(self) -> str:
        summary = self.status()
        return f"<headsweep.Study {self.name!r}: {study_progress.line(summary)}>"

    def _repr_html_(self) -> str:
        summary = self.status()
        rows = {
            "trials": f"{summary.finished} of {summary.n_trials}",
            "progress": study_progress.line(summary),
            "storage": self._stored.storage.database.shown,
            "leaderboard": str(self.out),
        }
        cells = "".join(
            f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in rows.items()
        )
        return f"<b>{html.escape(self.name)}</b><table>{cells}</table>"


def load_spec(
    study: str | Path | Mapping[str, Any],
    overrides: Sequence[str],
    n_trials: int | None,
    *,
    fixed: Mapping[str, Any] | None = None,
) -> StudySpec:
    """Read a study file, a shipped study or a dict; see `Study.create` for the arguments.

    `fixed` holds config values that replace those of the study.

    Returns:
        The checked spec.

    Raises:
        StudyError: the file does not match its schema.
        ConfigError: a config value is not allowed.
    """
    n_trials = optional_whole_number("n_trials", n_trials, most=MOST_TRIALS)
    expected = "a study file, the name of a shipped study or a dict"
    refuse_other_types("study", study, (str, Path, Mapping), expected)
    refuse_other_types("overrides", overrides, (list, tuple), "a list of key=value texts")
    if isinstance(study, Mapping):
        spec = study_from_dict(study, overrides, fixed=fixed)
    else:
        spec = load_study_file(study_path(Path(study)), overrides, fixed=fixed)
    return spec if n_trials is None else spec.model_copy(update={"n_trials": n_trials})


def _refuse_arguments(data: Any, storage: Any) -> None:
    """Refuse data and storages of another type."""
    if data is not None:
        from headsweep.data.dataset import Dataset

        refuse_other_types("data", data, Dataset, "a headsweep.Dataset")
    url = "the URL of a storage, such as sqlite:///FILE"
    refuse_other_types("storage", storage, (str, type(None)), url)


def out_folder(spec: StudySpec, out: str | Path | None) -> Path:
    """Return the folder of a study's leaderboard: the given one, or `outputs/<study>`.

    Raises:
        OutputError: the given folder is an empty text.
    """
    if out is None:
        return Path(spec.config.paths.output_dir) / spec.name
    refuse_other_types("out", out, (str, Path), "a folder")
    return refuse_empty_path(out, "out")


def _configured_data(spec: StudySpec) -> Dataset:
    """Return the data that a study names; its library of tables is loaded only now.

    Returns:
        The data, which show their progress when they load.
    """
    from headsweep.data.dataset import Dataset

    return Dataset.from_config(spec.config, progress=True)


def _check_data(spec: StudySpec, data: Dataset) -> None:
    """Load train and valid, and look at headers, names and feature paths of test."""
    from headsweep.data.manifest_headers import check_test_headers, check_test_rows
    from headsweep.data.one_class import warn_of_one_class
    from headsweep.data.prompts import prompts_for
    from headsweep.studies.folds import folds_of

    inputs = with_references(spec, searched_inputs(spec))
    data.refuse_mixed_labels(spec.config)
    train, valid = data.search_splits(spec.config, inputs=inputs)
    warn_of_one_class(train, valid)
    folds_of(spec.objective, spec.seed, train, valid)  # refuses more folds than patients
    if not data.in_memory:
        check_test_headers(spec.config, train.labels, inputs)
        check_test_rows(spec.config, inputs, (train, valid))
    if "zero_shot" in spec.references:
        prompts_for(spec.config, train)  # refuses a file that the leaderboard could not use


@contextmanager
def _threads_restored() -> Iterator[None]:
    """Restore the number of threads of this process, which an engine changes."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
