"""Runtime settings, which change no leaderboard number, with units and defaults."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

DEFAULT_STORAGE_URL = "sqlite:///storage/headsweep.db"
STORAGE_URL_VARIABLE = "HEADSWEEP_STORAGE"
LAUNCHER_VARIABLE = "HEADSWEEP_LAUNCHER_PID"
"""Tells workers which process launched them: they drain when it is gone."""
WORKER_VARIABLE = "HEADSWEEP_WORKER"
"""A worker's id, where a launcher or a scheduler starts the same worker again after its end."""
HOST_VARIABLE = "HEADSWEEP_HOST"
"""The machine a worker runs on, where its own host name does not tell, as in a container."""

CPU_SLOTS = 32
"""Default number of slots on a CPU, where more gained nothing (`docs/benchmarks/training.md`)."""
GPU_SLOTS = 128
"""Default number of slots on a GPU, where a step of a few slots leaves most of it idle."""


@dataclass(frozen=True)
class EngineSettings:
    """How a training engine uses its machine.

    `device` is `auto`, `cpu`, `cuda` or `cuda:i`; `slots` is the number of trials trained at once,
    None for the default of the device; `threads` is the number of CPU threads of one process
    (results are equal to the bit only at one thread count).
    """

    device: str = "auto"
    slots: int | None = None
    threads: int = 1

    def slots_on(self, device_type: str) -> int:
        """Return the number of slots on a device of this type (`cpu` or `cuda`)."""
        return self.slots or (GPU_SLOTS if device_type == "cuda" else CPU_SLOTS)

    def options(self) -> list[str]:
        """Return the options of `headsweep worker` that give these settings."""
        slots = [] if self.slots is None else ["--slots", str(self.slots)]
        return ["--device", self.device, *slots]


@dataclass(frozen=True)
class WorkerSettings:
    """How a worker keeps its trials alive and ends.

    A trial whose worker has not renewed its lease for `lease_s` is taken back by another worker,
    at most `max_retries` times. `grace_s` bounds how long a draining worker may finish its epoch.
    The study stops when more than `max_failures` trials fail by themselves.
    """

    lease_s: float = 60.0
    poll_s: float = 1.0
    grace_s: float = 30.0
    max_retries: int = 3
    max_failures: int = 20


def default_storage_url() -> str:
    """Return the storage URL used when none is given: `$HEADSWEEP_STORAGE`, or the local SQLite."""
    return os.environ.get(STORAGE_URL_VARIABLE, DEFAULT_STORAGE_URL)


def host_name() -> str:
    """Return the name of this machine: `$HEADSWEEP_HOST`, or its host name."""
    return os.environ.get(HOST_VARIABLE) or socket.gethostname()


def cache_dir() -> Path:
    """Return the folder of packed features: `$HEADSWEEP_CACHE`, or `storage/packed`."""
    return Path(os.environ.get("HEADSWEEP_CACHE", "storage/packed"))


def usable_cores() -> int:
    """Return on how many CPU cores this process may run."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it, macOS does not
    return len(affinity(0)) if affinity else os.cpu_count() or 1
