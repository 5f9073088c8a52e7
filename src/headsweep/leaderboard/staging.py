"""A leaderboard's folder is written beside its target, and moved there when it is complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from headsweep.atomic_files import locked, synced_together
from headsweep.errors import OutputError

PROVENANCE = "provenance.json"
"""Removed first and written last: a folder without it is not complete."""
PARTIAL, LOCK = ".partial-", ".lock"


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """Yield a folder whose content is moved to `out` once everything in it is written.

    Other files of `out` stay. Provenance is removed first and written last, so a folder without
    provenance was interrupted between the old and the new content. One process at a time stages
    into `out`; remains of killed processes are removed.

    Yields:
        The temporary folder.

    Raises:
        OutputError: `out` cannot be written.
    """
    with ExitStack() as held:
        try:
            out.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(out / LOCK))
            for leftover in out.glob(f"{PARTIAL}*"):
                shutil.rmtree(leftover)
            staged = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=out))
        except OSError as error:
            raise OutputError(f"{out}: cannot write to the folder: {error.strerror}") from None
        held.callback(shutil.rmtree, staged)
        with synced_together(staged):
            yield staged
        entries = sorted(staged.iterdir(), key=lambda entry: entry.name == PROVENANCE)
        if entries:
            (out / PROVENANCE).unlink(missing_ok=True)
        for entry in entries:
            target = out / entry.name
            # What is in the way is removed with the temporary folder, and complete until then.
            if target.is_dir() or (entry.is_dir() and os.path.lexists(target)):
                target.replace(staged / f"{PARTIAL}{entry.name}")
            entry.replace(target)
