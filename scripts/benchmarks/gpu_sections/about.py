"""The card, and the speed of a copy."""

from __future__ import annotations

import sys
from typing import Any

import torch
import triton

from gpu_sections.device import CUDA, DEVICE, timed
from gpu_sections.run import Run
from headsweep.engine.programs.grouped.availability import triton_available


def about(run: Run, until: float) -> dict[str, Any]:
    """Name the card, and measure the speed of a copy.

    Returns:
        The measurements.
    """
    found = {
        "card": torch.cuda.get_device_name() if CUDA else "CPU, Triton's interpreter",
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": sys.version.split()[0],
        "triton_available": triton_available(),
    }
    numbers = torch.rand(run.sizes.copy_mib * 2**18, device=DEVICE)
    copy = torch.empty_like(numbers)
    seconds = timed(lambda: copy.copy_(numbers), 10)
    found["copy_gb_s"] = 2 * numbers.nbytes / seconds / 1e9
    run.say("card", str(found["card"]))
    run.say("torch, triton, available", f"{torch.__version__} {triton.__version__} "
            f"{found['triton_available']}")  # fmt: skip
    run.say("copy GB/s", f"{found['copy_gb_s']:.0f}")
    return found
