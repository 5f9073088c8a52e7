"""File systems in memory, where this process may mount them."""

import os
import subprocess
from pathlib import Path


def mount(folder: Path, size: str) -> bool:
    """Whether a file system in memory could be mounted, or mounted anew at another size."""
    remount = os.path.ismount(folder)
    options = f"remount,size={size}" if remount else f"size={size}"
    command = ["mount", "-t", "tmpfs", "-o", options, "headsweep", str(folder)]
    return os.geteuid() == 0 and subprocess.run(command, stderr=subprocess.PIPE).returncode == 0
