"""Optuna's own test suite for storages, run on SQLite and PostgreSQL."""

from collections.abc import Iterator

import pytest
from optuna.storages import BaseStorage
from optuna.testing.pytest_storages import StorageTestCase

from headsweep.studies.storages import open_storage
from tests.helpers.postgres import PASSWORD, Server


class TestOptunasContract(StorageTestCase):
    @pytest.fixture
    def storage(self, store_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[BaseStorage]:
        # A pickled storage has no password; it reads it from the environment.
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
        storage = open_storage(store_url, create=True)
        yield storage
        storage.remove_session()
        storage.database.close()


def test_open_storage_through_a_unix_socket_needs_no_password(postgres: Server) -> None:
    storage = open_storage(postgres.socket_url(postgres.new_database()), create=True)
    assert storage.get_all_studies() == []
    storage.database.close()
