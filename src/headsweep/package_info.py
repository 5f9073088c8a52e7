"""The installed package: the commit of its code, and the study files that come with it."""

from __future__ import annotations

import subprocess
from pathlib import Path

PACKAGE = Path(__file__).parent
COMMIT = PACKAGE / "COMMIT"
"""Written when a wheel is built; a checkout asks git."""
IN_PACKAGE, IN_CHECKOUT = PACKAGE / "search_spaces", PACKAGE.parents[1] / "search_spaces"


def code_commit() -> str | None:
    """Return the commit of the running code, `-dirty` if it was changed; None if unknown."""
    if COMMIT.is_file():
        return COMMIT.read_text(encoding="utf-8").strip()
    if not _git("ls-files", "__init__.py"):
        return None
    return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def shipped_studies() -> dict[str, Path]:
    """Return the study files that come with headsweep, by name, such as `quickstart`."""
    folder = IN_PACKAGE if IN_PACKAGE.is_dir() else IN_CHECKOUT
    files = sorted(folder.rglob("*.yaml"))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def study_path(given: Path) -> Path:
    """Return `given` if it exists, else the shipped study file of that name."""
    return given if given.exists() else shipped_studies().get(given.as_posix(), given)


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(PACKAGE), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None
