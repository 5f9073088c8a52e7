"""Fixtures shared by all tests."""

import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import settings

from tests.helpers.alembic_scripts import read_once
from tests.helpers.chromium import chromium
from tests.helpers.command_line import Ended
from tests.helpers.postgres import postgres, store_url
from tests.helpers.requirements import REAL_REPORTS, MissingRequirements, require
from tests.helpers.scheduling import FilesTogether
from tests.helpers.slurm import slurm

__all__ = ["chromium", "postgres", "slurm", "store_url"]

# The time of a single example varies too much on a busy machine to be a limit.
settings.register_profile("headsweep", deadline=None)
settings.load_profile("headsweep")

# A shell's background jobs ignore SIGINT, `nohup` ignores SIGHUP, and child processes inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Triton reads it when it is imported: its kernels then run on the CPU.
os.environ["TRITON_INTERPRET"] = "1"


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(MissingRequirements(config), "missing_requirements")
    config.pluginmanager.register(FilesTogether(), "files_together")


@pytest.fixture(scope="session")
def real_reports() -> Path:
    """The folder of real CT-RATE report embeddings beside the checkout."""
    require("real_reports")
    return REAL_REPORTS


@pytest.fixture(scope="session")
def headsweep() -> Callable[..., Ended]:
    """Run the command line in this process."""
    from headsweep.cli import main

    def run(*args: object) -> Ended:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main([str(arg) for arg in args])
        return Ended(int(ended.value.code or 0), out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session", autouse=True)
def read_alembic_scripts_once() -> Iterator[None]:
    """Read the database version of Alembic's scripts once, not for every opened storage."""
    with pytest.MonkeyPatch.context() as patch:
        read_once(patch)
        yield
