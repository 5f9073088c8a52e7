"""What the tests of bad input share."""

from collections.abc import Iterator

import pytest
from optuna.storages._rdb.storage import _VersionManager


@pytest.fixture(scope="package", autouse=True)
def scripts_of_alembic() -> Iterator[None]:
    """Alembic runs its scripts whenever a store is opened, for 0.2 s; they do not change."""
    read, heads = _VersionManager.get_head_version, list[str]()

    def read_once(manager: _VersionManager) -> str:
        if not heads:
            heads.append(read(manager))
        return heads[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_VersionManager, "get_head_version", read_once)
        yield
