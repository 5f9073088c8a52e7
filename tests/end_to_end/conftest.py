"""Whole studies on real data, run once through the command line and shared by the tests."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial

import headsweep as hs
from headsweep.studies.summary import Summary
from tests.helpers.command_line import Ended

SEARCH_SPACES = Path(__file__).parents[2] / "search_spaces"
FEW_FINALISTS = ("finalists.top_k=2", "finalists.seeds=[0,1]")
"""Confirming finalists and drawing the report takes longer than a small search."""


@dataclass(frozen=True)
class Job:
    """A study in its own folder, run by the command line and read by the API."""

    file: Path
    name: str
    folder: Path
    overrides: tuple[str, ...]
    headsweep: Callable[..., Ended]

    @property
    def storage(self) -> tuple[str, str]:
        """The option that names its storage."""
        return ("--storage", f"sqlite:///{self.folder}/study.db")

    @property
    def board(self) -> Path:
        return self.folder / "board"

    @property
    def definition(self) -> tuple[object, ...]:
        """The arguments of `create` and `run` for this study."""
        return (self.file, f"study.name={self.name}", *self.overrides, *self.storage)

    def run(self, *options: object) -> str:
        """Start or continue the study until it ends, and return the output."""
        return self.call("run", *self.definition, "--out", self.board, *options)

    def call(self, *args: object) -> str:
        """Run a command, check that it succeeds, and return its output."""
        ended = self.headsweep(*args)
        assert ended.code == 0, ended.err
        return ended.out

    def opened(self) -> hs.Study:
        """Open the study as a context manager."""
        return hs.Study.open(self.name, storage=self.storage[1], out=self.board)

    def summary(self) -> Summary:
        with self.opened() as study:
            return study.status()

    def trials(self) -> list[FrozenTrial]:
        with self.opened() as study:
            return study.optuna.get_trials()

    def rows(self) -> list[dict[str, str]]:
        """Return the rows of its leaderboard."""
        with (self.board / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


@dataclass(frozen=True)
class Studies:
    """Makes studies on the real reports."""

    folder: Path
    data: tuple[str, ...]
    headsweep: Callable[..., Ended]

    def new(self, file: str, name: str, *overrides: str) -> Job:
        folder = self.folder / name
        folder.mkdir()
        path = SEARCH_SPACES / f"{file}.yaml"
        return Job(path, name, folder, (*self.data, *FEW_FINALISTS, *overrides), self.headsweep)

    def finished(self, file: str, name: str, *overrides: str, n_trials: int) -> Job:
        """Return a study with its leaderboard, made in this process: no other one is started."""
        study = self.searched(file, name, *overrides, n_trials=n_trials)
        study.call("finalize", study.name, *study.storage, "--out", study.board)
        return study

    def searched(self, file: str, name: str, *overrides: str, n_trials: int) -> Job:
        """Return a study whose budget is spent, without a leaderboard."""
        study = self.new(file, name, *overrides)
        study.call("create", *study.definition, "--n-trials", n_trials)
        study.call("worker", study.name, *study.storage)
        return study


@pytest.fixture(scope="package")
def studies(
    tmp_path_factory: pytest.TempPathFactory,
    real_reports: Path,
    headsweep: Callable[..., Ended],
) -> Iterator[Studies]:
    folder, data = tmp_path_factory.mktemp("studies"), real_reports.resolve()
    places = (f"paths.data_root={data / 'features'}", f"paths.manifest_dir={data / 'manifests'}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSWEEP_CACHE", str(folder / "packed"))
        yield Studies(folder, places, headsweep)


def subprocess_command(*args: object) -> list[str]:
    """Return the command line of another process."""
    return [sys.executable, "-m", "headsweep", *map(str, args)]
