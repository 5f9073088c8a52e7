"""Reads the version of the database from Alembic's scripts once a process: it takes 0.2 s."""

from __future__ import annotations

import pytest
from optuna.storages._rdb.storage import _VersionManager


def read_once(patch: pytest.MonkeyPatch) -> None:
    """Remember the version after it was read for the first time."""
    read, heads = _VersionManager.get_head_version, list[str]()

    def remembered(manager: _VersionManager) -> str:
        if not heads:
            heads.append(read(manager))
        return heads[0]

    patch.setattr(_VersionManager, "get_head_version", remembered)
