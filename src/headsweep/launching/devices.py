"""The GPUs of this host by the names that CUDA uses; no tensor library is loaded."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from headsweep.settings import usable_cores

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
_NAME = re.compile(r"\d+|GPU-[\w-]+|MIG-[\w/-]+")
_MIG_UUID = re.compile(r"\(UUID: (MIG-[^)]+)\)")


def visible_gpus() -> tuple[str, ...]:
    """Return names for `$CUDA_VISIBLE_DEVICES`: indices, UUIDs of GPUs, UUIDs of MIG slices.

    If the variable is set, for example by a scheduler, its devices are used. Otherwise all GPUs
    are, and all slices of a GPU in MIG mode, of which CUDA by itself shows a process only the
    first.
    """
    given = os.environ.get(VISIBLE_DEVICES)
    if given is None:
        return _from_driver() or _from_device_files()
    names: list[str] = []
    for name in given.split(","):
        if not _NAME.fullmatch(name.strip()):
            break  # CUDA ignores everything after an invalid name, such as -1
        names.append(name.strip())
    return tuple(names)


def device_of_worker(device: str, worker: int) -> dict[str, str]:
    """Return the environment that selects a worker's GPU; with more workers than GPUs, in turn.

    Args:
        device: `auto` or `cuda`, by which a GPU is taken; any other leaves the environment alone.
        worker: counted from 0.
    """
    gpus = visible_gpus() if device in ("auto", "cuda") else ()
    return {VISIBLE_DEVICES: gpus[worker % len(gpus)]} if gpus else {}


def default_workers(device: str) -> int:
    """Return one worker for each GPU; on a CPU two, or one where there is a single core."""
    if device in ("auto", "cuda") and (gpus := visible_gpus()):
        return len(gpus)
    return min(2, usable_cores()) if device in ("auto", "cpu") else 1


def _from_driver() -> tuple[str, ...]:
    """Return the devices that `nvidia-smi -L` lists: one line per GPU, its MIG slices below it."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=30
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    names: list[str] = []
    for gpu in re.split(r"^(?=GPU \d+:)", listed, flags=re.MULTILINE)[1:]:
        index = gpu.removeprefix("GPU ").partition(":")[0]
        names += _MIG_UUID.findall(gpu) or [index]
    return tuple(names)


def _from_device_files() -> tuple[str, ...]:
    files = Path("/dev").glob("nvidia[0-9]*")
    return tuple(str(i) for i in sorted(int(file.name.removeprefix("nvidia")) for file in files))
