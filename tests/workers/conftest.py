"""Fixtures: a storage on SQLite and on PostgreSQL, and worker processes that use it."""

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess

import pytest

from headsweep.storage.batched_storage import BatchedStorage
from headsweep.studies.storages import open_storage
from tests.helpers.curves import work_as_process

Start = Callable[..., BaseProcess]

# Workers are forked from a process that has loaded all modules and has no connections.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.helpers.fork_server"])


@pytest.fixture
def storage(store_url: str) -> Iterator[BatchedStorage]:
    storage = open_storage(store_url, create=True)
    yield storage
    storage.database.close()


@pytest.fixture
def start(store_url: str) -> Iterator[Start]:
    """A function that starts worker processes on the study `probe`. All are killed at the end."""
    workers: list[BaseProcess] = []

    def start(**options: float) -> BaseProcess:
        worker = PROCESSES.Process(target=work_as_process, args=("probe", store_url, options))
        worker.start()
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        worker.kill()
        worker.join()
