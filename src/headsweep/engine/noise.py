"""Dropout noise from counters: a function of seed, step and place, never of a slot's neighbours.

All slots of a group share seed and step, so they share one stream of random bits and differ only
in the threshold they compare it with: the noise costs the same for one slot as for sixty-four.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MULTIPLIERS = (0x7FEB352D, 0x846CA68B - 2**32)
_GOLDEN = 0x9E3779B9


def random_bits(seed: int, step: int, layer: int, count: int, device: torch.device) -> Tensor:
    """Uniform int32 `(count,)`; a shorter stream is a prefix of a longer one.

    The hash is `lowbias32` (C. Wellons, "Prospecting for Hash Functions", 2018) of the position,
    keyed by seed, step and layer.
    """
    key = _mix(_mix(_mix(seed & 0xFFFFFFFF) ^ (step * _GOLDEN)) ^ (layer + 1))
    x = torch.arange(count, dtype=torch.int32, device=device)
    x += key - 2**32 if key >= 2**31 else key
    x ^= (x >> 16) & 0xFFFF
    x *= _MULTIPLIERS[0]
    x ^= (x >> 15) & 0x1FFFF
    x *= _MULTIPLIERS[1]
    x ^= (x >> 16) & 0xFFFF
    return x


def dropout_mask(bits: Tensor, dropout: float) -> Tensor:
    """Float32 mask of the shape of `bits`: 0 with probability `dropout`, else 1 / (1 - dropout)."""
    threshold = round((1 - dropout) * 2**32) - 2**31
    return (bits < threshold) * (1 / (1 - dropout))


def _mix(x: int) -> int:
    """`lowbias32` of one unsigned integer."""
    x &= 0xFFFFFFFF
    x ^= x >> 16
    x = x * 0x7FEB352D & 0xFFFFFFFF
    x ^= x >> 15
    x = x * 0x846CA68B & 0xFFFFFFFF
    return x ^ x >> 16
