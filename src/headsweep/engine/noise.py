"""Dropout noise from counters: a function of seed, step and place, never of a slot's neighbours.

All slots of a group share seed and step, so they share one stream of random bits and differ only
in the threshold they compare it with: the noise costs the same for one slot as for sixty-four.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MULTIPLIERS = (0x7FEB352D, 0x846CA68B - 2**32)
_GOLDEN = 0x9E3779B9


def uniforms(seed: int, step: int, layer: int, count: int, device: torch.device) -> Tensor:
    """Float32 `(count,)`, uniform in [0, 1]; a shorter stream is a prefix of a longer one.

    The hash is `lowbias32` (C. Wellons, "Prospecting for Hash Functions", 2018) of the position,
    keyed by seed, step and layer.
    """
    positions = torch.arange(count, dtype=torch.int32, device=device)
    return uniforms_at(positions, signed(minibatch_key(seed, step, layer)))


def uniforms_at(positions: Tensor, keys: int | Tensor) -> Tensor:
    """The same stream at int32 positions of any shape; keys are int32 too, and broadcast."""
    x = positions + keys
    x ^= (x >> 16) & 0xFFFF
    x *= _MULTIPLIERS[0]
    x ^= (x >> 15) & 0x1FFFF
    x *= _MULTIPLIERS[1]
    x ^= (x >> 16) & 0xFFFF
    return x.float().mul_(2.0**-32).add_(0.5)


def drop(x: Tensor, noise: Tensor, dropout: float) -> Tensor:
    """`x / (1 - dropout)` where `noise`, uniform and of the same shape, exceeds `dropout`, else 0.

    Linear in `x`, so the backward pass is the same function of the error. A threshold kernel is
    an order of magnitude faster on a CPU than a product with a boolean mask.
    """
    kept: Tensor = torch.ops.aten.threshold_backward(x, noise, dropout)
    return kept.mul_(1 / (1 - dropout))


def minibatch_key(seed: int, step: int, layer: int) -> int:
    """An unsigned 32-bit key for one layer of one minibatch."""
    return _mix(_mix(_mix(seed) ^ (step * _GOLDEN)) ^ (layer + 1))


def signed(key: int) -> int:
    """The same 32 bits as a signed integer."""
    return key - 2**32 if key >= 2**31 else key


def _mix(x: int) -> int:
    """`lowbias32` of one unsigned integer."""
    x &= 0xFFFFFFFF
    x ^= x >> 16
    x = x * 0x7FEB352D & 0xFFFFFFFF
    x ^= x >> 15
    x = x * 0x846CA68B & 0xFFFFFFFF
    return x ^ x >> 16
