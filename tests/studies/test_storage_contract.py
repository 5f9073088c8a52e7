"""Optuna's own suite for storages, inherited by ours."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.storages import BaseStorage
from optuna.testing.pytest_storages import StorageTestCase

from headsweep.studies.database import open_database
from headsweep.studies.storage import BatchedStorage


class TestOnSQLite(StorageTestCase):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Iterator[BaseStorage]:
        database = open_database(f"sqlite:///{tmp_path}/studies.db", create=True)
        yield BatchedStorage(database)
        database.close()
