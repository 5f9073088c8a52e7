"""Tests that need a program or data are deselected where it is missing, and reported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFTEST = """
import pytest
from tests.helpers import requirements
from tests.helpers.chromium import chromium

requirements.REQUIREMENTS["real_reports"] = requirements.Requirement(lambda: True, "nothing")

def pytest_configure(config):
    plugin = requirements.MissingRequirements(config)
    config.pluginmanager.register(plugin, "missing_requirements")

@pytest.fixture
def page(chromium):
    return 1

@pytest.fixture
def real_reports():
    return 2
"""
TESTS = """
def test_one(): pass
def test_data(real_reports): pass
def test_browser(chromium): pass
def test_page(page): pass
"""


def run_tests(folder: Path, *options: str, required: str = "") -> tuple[int, list[str]]:
    """Run four tests on a machine without Chromium; exit code and lines of output."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_few.py").write_text(TESTS)
    (folder / "bin").mkdir(exist_ok=True)
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), *options, str(folder)],
        env=os.environ
        | {
            "PATH": str(folder / "bin"),
            "PYTHONPATH": str(ROOT),
            "HEADSWEEP_REQUIRE": required,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.returncode, (ended.stdout + ended.stderr).splitlines()


@pytest.mark.parametrize("processes", ["0", "2"])
def test_run_without_chromium_reports_once_what_was_not_run(tmp_path, processes):
    code, lines = run_tests(tmp_path, "--numprocesses", processes)
    assert code == 0
    assert [line for line in lines if line.startswith("chromium:")] == [
        "chromium: 2 tests; install the program chromium (Debian: apt-get install chromium)"
    ]
    assert lines[-2].startswith("chromium:")
    assert lines[-1].startswith(("2 passed", "===")), lines[-1]


def test_run_with_chromium_required_fails_its_tests(tmp_path):
    code, lines = run_tests(tmp_path, required="chromium")
    assert code == 1
    assert any("chromium is required and missing: install the program" in line for line in lines)
    assert any("2 passed" in line and "2 errors" in line for line in lines)


def test_run_of_other_markers_does_not_report_tests_left_out(tmp_path):
    code, lines = run_tests(tmp_path, "-m", "real_reports")
    assert code == 0
    assert not [line for line in lines if line.startswith("chromium:")]
    assert any("1 passed" in line for line in lines)


def test_unknown_required_marker_is_a_usage_error(tmp_path):
    code, lines = run_tests(tmp_path, required="chrome")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert any("unknown marker 'chrome'" in line for line in lines)
