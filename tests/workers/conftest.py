"""Stores on both databases, and worker processes on them."""

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess

import pytest

from headsweep.storage.batched_storage import BatchedStorage
from headsweep.studies.study import open_storage
from tests.helpers.curves import work_as_process

Start = Callable[..., BaseProcess]

# Forked from a process that has loaded everything and holds no connection: quick, and clean.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.helpers.curves"])


@pytest.fixture
def storage(store_url: str) -> Iterator[BatchedStorage]:
    storage = open_storage(store_url, create=True)
    yield storage
    storage.database.close()


@pytest.fixture
def start(store_url: str) -> Iterator[Start]:
    """Starts worker processes on the study `probe`, and leaves none behind."""
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
