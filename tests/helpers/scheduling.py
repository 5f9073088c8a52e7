"""How xdist hands the tests out: a file stays in one process, and the longest files come first.

Fixtures of a module are then set up once, not once in each process. xdist's own `loadgroup` does
not do this: from pytest 9.2 on it ignores the groups (pytest-xdist 3.8.0).
"""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

LONGEST = (
    "tests/end_to_end/test_main_job.py",
    "tests/workers/test_storm.py",
    "tests/end_to_end/test_quality.py",
    "tests/launching/test_slurm.py",
    "tests/engine/test_grouped_programs.py",
    "tests/end_to_end/test_compare_encoders.py",
    "tests/launching/test_local.py",
    "tests/end_to_end/test_tutorial.py",
    "tests/cli/test_bad_inputs.py",
    "tests/project/test_examples.py",
    "tests/workers/test_worker.py",
    "tests/storage/test_outage.py",
    "tests/workers/test_many.py",
    "tests/heads/test_example.py",
    "tests/single/test_real_reports.py",
    "tests/storage/test_storage_contract.py",
    "tests/leaderboard/test_nine_studies.py",
    "tests/leaderboard/test_verify.py",
    "tests/search/test_tpe.py",
    "tests/single/test_resume.py",
    "tests/leaderboard/test_independent.py",
    "tests/project/test_package.py",
    "tests/cli/test_streams.py",
)
"""Files that take longest, by measurement: one of them at the end would keep one process alone.

Some wait for servers and leases, so they are spread between those that compute.
"""


class LongestFirst(LoadFileScheduling):
    """Gives each process whole files, those of `LONGEST` before others."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        for file in LONGEST:
            if file in self.workqueue:
                self.workqueue.move_to_end(file, last=False)
                break
        super()._assign_work_unit(node)


class FilesTogether:
    """The plugin that makes `--dist loadfile` begin with the longest files."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(
        self, config: pytest.Config, log: Producer | None
    ) -> LongestFirst | None:
        """Return the scheduler; None leaves other values of `--dist` to xdist."""
        return LongestFirst(config, log) if config.getvalue("dist") == "loadfile" else None
