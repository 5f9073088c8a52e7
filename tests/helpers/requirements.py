"""Tests that need a program or data: not run where it is missing, and named at the end.

A test needs what its fixtures need: `chromium`, `slurm` and `real_reports` are fixtures, and every
test that uses one directly or through another fixture gets the marker of the same name. Where
`HEADSWEEP_REQUIRE` lists a marker, its tests run, and fail if what they need is missing.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REQUIRED = "HEADSWEEP_REQUIRE"
REAL_REPORTS = Path(__file__).parents[3] / "shared" / "real_reports"
SLURM_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel")


@dataclass(frozen=True)
class Requirement:
    """What the tests of one marker need, and how to get it."""

    available: Callable[[], bool]
    remedy: str


def _slurm_available() -> bool:
    return os.geteuid() == 0 and all(map(shutil.which, SLURM_PROGRAMS))


REQUIREMENTS = {
    "chromium": Requirement(
        lambda: shutil.which("chromium") is not None,
        "install the program chromium (Debian: apt-get install chromium)",
    ),
    "slurm": Requirement(
        _slurm_available,
        "install Slurm and run as root (Debian: apt-get install slurm-wlm munge)",
    ),
    "real_reports": Requirement(
        REAL_REPORTS.is_dir,
        "put the embeddings of real CT-RATE reports into shared/real_reports beside the checkout",
    ),
}
MARKED_FIXTURES = REQUIREMENTS.keys() | {"postgres"}


def required_markers() -> frozenset[str]:
    """The markers that `HEADSWEEP_REQUIRE` lists, separated by commas."""
    names = frozenset(filter(None, os.environ.get(REQUIRED, "").split(",")))
    if unknown := sorted(names - REQUIREMENTS.keys()):
        known = ", ".join(REQUIREMENTS)
        raise pytest.UsageError(f"{REQUIRED}: unknown marker {unknown[0]!r}; known are {known}")
    return names


def require(marker: str) -> None:
    """Fail the test that asks for what this machine lacks."""
    requirement = REQUIREMENTS[marker]
    if not requirement.available():
        pytest.fail(f"{marker} is required and missing: {requirement.remedy}", pytrace=False)


class MissingRequirements:
    """Deselects the tests that cannot run on this machine, and counts them by marker."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._not_run: Counter[str] = Counter()
        required = required_markers()
        self._missing = [
            name
            for name, requirement in REQUIREMENTS.items()
            if name not in required and not requirement.available()
        ]

    @pytest.hookimpl(wrapper=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Iterator[None]:
        for item in items:
            for name in MARKED_FIXTURES & set(getattr(item, "fixturenames", ())):
                item.add_marker(name)
        yield  # -m and -k deselect here: what they leave out does not count as missing
        not_run = []
        for item in items:
            lacking = [name for name in self._missing if item.get_closest_marker(name)]
            self._not_run.update(lacking)
            if lacking:
                not_run.append(item)
        if not_run:
            items[:] = [item for item in items if item not in not_run]
            self._config.hook.pytest_deselected(items=not_run)

    def pytest_sessionfinish(self) -> None:
        # Only the worker processes of xdist collect, and only their parent prints.
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output["not_run"] = dict(self._not_run)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        output = getattr(node, "workeroutput", {})
        self._not_run = Counter(output.get("not_run", self._not_run))  # the same in each worker

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
        yield
        if not self._not_run:
            return
        terminalreporter.section("not run, because this machine lacks what they need")
        for name, count in sorted(self._not_run.items()):
            tests = "1 test" if count == 1 else f"{count} tests"
            terminalreporter.write_line(f"{name}: {tests}; {REQUIREMENTS[name].remedy}")
