"""Detection of errors that mean that memory ran out."""

from __future__ import annotations

import torch

WORDS = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory")
"""Texts of PyTorch's CPU allocator, of a BLAS handle's workspace, and of the CUDA driver."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or one that caused it, says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in WORDS):
        return True
    return error.__context__ is not None and ran_out_of_memory(error.__context__)
