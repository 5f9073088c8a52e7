"""Small file systems in memory, where this process may mount them."""

from __future__ import annotations

import os
import subprocess
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
