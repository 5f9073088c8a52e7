"""Which heads grouped kernels can train, and whether Triton can compile and run kernels here."""

from __future__ import annotations

import functools
import importlib.util
import logging

import torch

from headsweep.config.head_section import MLPConfig
from headsweep.config.schema import Config

LARGEST_DEPTH = 5
"""Hidden layers up to which a step takes at most 30 launches."""

LARGEST_MATRIX = 2**31
"""Kernels count the numbers of a matrix in 32 bits."""

logger = logging.getLogger(__name__)


def can_group(config: Config) -> bool:
    """Return whether grouped kernels can train a head of this config."""
    head, training = config.head, config.training
    if head.kind == "linear":
        return training.optimizer != "lbfgs"
    if not isinstance(head, MLPConfig) or head.norm == "batch" or len(head.widths) > LARGEST_DEPTH:
        return False
    widest = max(head.widths, default=1)
    return widest * max(widest, training.batch_size) < LARGEST_MATRIX


@functools.cache
def triton_available() -> bool:
    """Return whether a Triton kernel runs on the CUDA device; logs one line where none does.

    Triton is missing on Windows, and needs a C compiler to start its first kernel.
    """
    if not torch.cuda.is_available():
        return False
    if importlib.util.find_spec("triton") is None:
        logger.warning("Triton is not installed: MLP and linear heads train in slower programs")
        return False
    try:
        _probe()
    except Exception as error:  # a missing compiler, driver or architecture: any of many types
        reason = str(error).partition("\n")[0]
        logger.warning("Triton does not work here, so heads train in slower programs: %s", reason)
        return False
    return True


def _probe() -> None:
    """Run one small kernel.

    Raises:
        RuntimeError: its result is wrong.
    """
    from headsweep.engine.programs.grouped.vector_kernels import clip_kernel

    device = torch.device("cuda")
    sums = torch.tensor([[0, 2]], device=device)
    partials = torch.tensor([9.0, 16.0], device=device)
    hypers = torch.full((1, 16), 2.5, device=device)
    scales = torch.zeros(1, device=device)
    clip_kernel[(1,)](sums, partials, hypers, scales, BLOCK=128)
    found = float(scales[0])
    if abs(found - 0.5) > 1e-6:
        raise RuntimeError(f"a kernel must compute 0.5, found {found}")
