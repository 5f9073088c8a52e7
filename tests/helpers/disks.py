"""Small file systems in memory, where this process may mount them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def mount(folder: Path, size: str) -> bool:
    """Mount a file system in memory, or mount it again with another size.

    Returns:
        Whether that succeeded; only root may mount.
    """
    if os.geteuid() != 0:
        return False
    options = f"remount,size={size}" if os.path.ismount(folder) else f"size={size}"
    command = ["mount", "-t", "tmpfs", "-o", options, "headsweep", str(folder)]
    return subprocess.run(command, stderr=subprocess.PIPE, check=False).returncode == 0


@contextmanager
def read_only(folder: Path) -> Iterator[bool]:
    """Forbid this process to write to a folder, also if it is root's.

    Yields:
        Whether that succeeded; root must be able to mount.
    """
    if os.geteuid() != 0:
        mode = folder.stat().st_mode
        folder.chmod(0o555)
        try:
            yield True
        finally:
            folder.chmod(mode)
        return
    for command in (["--bind", str(folder)], ["-o", "remount,bind,ro"]):
        done = subprocess.run(["mount", *command, str(folder)], stderr=subprocess.PIPE, check=False)
        if done.returncode != 0:
            yield False
            return
    try:
        yield True
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
