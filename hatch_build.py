"""Writes the commit that a wheel or an sdist is built from into it, as the file COMMIT."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PLACES = {"wheel": "headsweep/COMMIT", "sdist": "src/headsweep/COMMIT"}
DESCRIBE = ("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


class CommitHook(BuildHookInterface):
    """Writes the commit; a wheel that is built from an sdist uses the commit of the sdist."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the file, unless the build is an editable one, which asks git when it runs."""
        root = Path(self.root)
        if version == "editable" or (root / PLACES["sdist"]).exists():
            return
        if not (root / ".git").exists():
            return
        found = subprocess.run(DESCRIBE, cwd=root, capture_output=True, text=True, check=True)
        self._folder = tempfile.TemporaryDirectory()
        file = Path(self._folder.name) / "COMMIT"
        file.write_text(found.stdout, encoding="utf-8")
        build_data["force_include"][str(file)] = PLACES[self.target_name]

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what `initialize` wrote."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()
