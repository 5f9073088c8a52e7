"""The choice of the device, and process-wide settings that affect the bits of results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from headsweep.errors import ConfigError
from headsweep.settings import EngineSettings


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Flush denormal numbers to zero in the context, since tiny moments would slow a CPU down."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def prepare_device(settings: EngineSettings) -> torch.device:
    """Set the number of threads of this process, and choose the device to train on.

    Returns:
        The device.

    Raises:
        ConfigError: the device does not exist here.
    """
    torch.set_num_threads(settings.threads)
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    refusal = ConfigError(
        f"--device must be auto, cpu or a CUDA device of this machine, found {settings.device!r}"
    )
    try:
        device = torch.device(settings.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError):
        raise refusal from None
    if device.type not in ("cpu", "cuda"):
        raise refusal
    return device
