"""What a fork server loads before it forks workers; only fork servers import this module."""

from __future__ import annotations

import pytest
from optuna.storages import RDBStorage

from tests.helpers import curves
from tests.helpers.alembic_scripts import read_once

__all__ = ["curves"]

read_once(pytest.MonkeyPatch())
_storage = RDBStorage("sqlite://")
_storage.get_head_version()
_storage.engine.dispose()
