"""The tests of a file run in one process, and the longest files are begun first."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.helpers.scheduling import LONGEST, FilesTogether, LongestFirst

ROOT = Path(__file__).parents[2]


class Process:
    """Stands for a process of xdist: records what it is given, and finishes it in order."""

    shutting_down = False

    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.given: list[int] = []
        self.done = 0

    def send_runtest_some(self, indices: list[int]) -> None:
        self.given += indices

    def shutdown(self) -> None:
        self.shutting_down = True


def collection() -> list[str]:
    """Return 30 files of two to six tests, with two of `LONGEST` in the middle."""
    files = [f"tests/test_{i}.py" for i in range(28)]
    files[14:14] = [LONGEST[1], LONGEST[0]]
    return [f"{file}::test_{j}" for i, file in enumerate(files) for j in range(2 + i % 5)]


def test_files_when_distributed_stay_in_one_process_longest_first(
    pytestconfig: pytest.Config,
) -> None:
    ids, processes = collection(), [Process("a"), Process("b"), Process("c")]
    options = SimpleNamespace(loadscopereorder=True, maxworkerrestart=None)
    config = SimpleNamespace(
        option=options,
        hook=pytestconfig.hook,
        getvalue=lambda name: {"tx": ["popen"] * len(processes), "dist": "loadfile"}[name],
    )
    scheduler = FilesTogether().pytest_xdist_make_scheduler(config, None)
    assert isinstance(scheduler, LongestFirst)
    for process in processes:
        scheduler.add_node(process)
        scheduler.add_node_collection(process, ids)
    scheduler.schedule()
    assert {ids[p.given[0]].split("::")[0] for p in processes} >= set(LONGEST[:2])
    while busy := [p for p in processes if p.done < len(p.given)]:
        for process in busy:
            scheduler.mark_test_complete(process, process.given[process.done])
            process.done += 1
    assert sorted(index for p in processes for index in p.given) == list(range(len(ids)))
    ran = {(ids[index].split("::")[0], p.gateway.id) for p in processes for index in p.given}
    assert len(ran) == 30


def test_make_scheduler_for_another_distribution_leaves_it_to_xdist() -> None:
    config = SimpleNamespace(getvalue=lambda name: "load")
    assert FilesTogether().pytest_xdist_make_scheduler(config, None) is None


def test_longest_files_all_exist() -> None:
    assert [file for file in LONGEST if not (ROOT / file).is_file()] == []


def test_scheduler_is_registered(pytestconfig: pytest.Config) -> None:
    assert isinstance(pytestconfig.pluginmanager.get_plugin("files_together"), FilesTogether)
