"""Fixtures shared by all tests."""

import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

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


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


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
