"""Fixtures shared by all tests."""

import io
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import settings
from optuna.storages._rdb.storage import _VersionManager

from tests.helpers.command_line import Ended
from tests.helpers.postgres import postgres, store_url
from tests.helpers.slurm import slurm

__all__ = ["postgres", "slurm", "store_url"]

# A busy machine is no fault of the code.
settings.register_profile("headsweep", deadline=None)
settings.load_profile("headsweep")

REAL_REPORTS = Path(__file__).parents[2] / "shared" / "real_reports"


@pytest.fixture(scope="session")
def real_reports() -> Path:
    """The folder of real CT-RATE report embeddings that lies beside the checkout."""
    if not REAL_REPORTS.is_dir():
        pytest.fail(
            "this test needs the real data in ../shared/real_reports, beside the checkout "
            f"(looked in {REAL_REPORTS}); see its README for what it holds",
            pytrace=False,
        )
    return REAL_REPORTS


@pytest.fixture(scope="session")
def headsweep() -> Callable[..., Ended]:
    """Runs the command line in this process."""
    from headsweep.cli import main

    def run(*args: object) -> Ended:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main([str(arg) for arg in args])
        return Ended(int(ended.value.code or 0), out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session", autouse=True)
def scripts_of_alembic() -> Iterator[None]:
    """Alembic runs its scripts whenever a store is opened, for 0.2 s; they do not change."""
    read, heads = _VersionManager.get_head_version, list[str]()

    def read_once(manager: _VersionManager) -> str:
        if not heads:
            heads.append(read(manager))
        return heads[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_VersionManager, "get_head_version", read_once)
        yield
