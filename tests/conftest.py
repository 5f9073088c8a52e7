"""Fixtures shared by all tests."""

from pathlib import Path

import pytest

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
