"""Fixtures: small and real data, and a function that runs the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from headsweep.data.synthetic.generate import synthesize
from tests.helpers.command_line import Ended

Run = Callable[..., str]


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Overrides that name a synthetic data set of some hundred rows."""
    folder = tmp_path_factory.mktemp("small_data")
    patients = {"patients_train": 60, "patients_valid": 40, "patients_test": 30}
    synthesize(folder, **patients, width=96, seed=7, progress=False)
    return (f"paths.data_root={folder}/features", f"paths.manifest_dir={folder}/manifests")


@pytest.fixture(scope="session")
def real_data(real_reports: Path) -> tuple[str, ...]:
    """Overrides that name the real report embeddings."""
    folder = real_reports.resolve()
    return (f"paths.data_root={folder}/features", f"paths.manifest_dir={folder}/manifests")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder for packed features of all tests in this folder."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("packed")
        patch.setenv("HEADSWEEP_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Use one thread, because results are equal to the bit only at the same thread count."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def run(headsweep: Callable[..., Ended]) -> Run:
    """A function that runs a command, checks that it succeeds and returns its output."""

    def succeed(*args: object) -> str:
        ended = headsweep(*args)
        assert ended.code == 0, ended.err
        return ended.out

    return succeed
