"""Reads Alembic's scripts once a process: reading them takes 0.2 s for the first storage."""

from __future__ import annotations

import pytest
from alembic.script import ScriptDirectory
from optuna.storages._rdb.storage import _VersionManager


def read_once(patch: pytest.MonkeyPatch) -> None:
    """Remember the scripts after they were read for the first time; they are Optuna's own."""
    read, scripts = _VersionManager._create_alembic_script, list[ScriptDirectory]()

    def remembered(manager: _VersionManager) -> ScriptDirectory:
        if not scripts:
            scripts.append(read(manager))
        return scripts[0]

    patch.setattr(_VersionManager, "_create_alembic_script", remembered)
