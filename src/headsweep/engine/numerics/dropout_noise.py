"""Dropout noise from counters: a function of seed, step and position only.

All slots of a group share seed and step, so they share one stream of random bits and differ only
in the threshold: the noise costs the same for one slot as for sixty-four.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN = 0x9E3779B9
_ALL_BITS = 0xFFFFFFFF

_ROUNDS = ((16, 0x7FEB352D), (15, 0x846CA68B))
"""Shifts and multipliers of `lowbias32`, which ends with one more shift."""
_LAST_SHIFT = 16

_BLOCK = 2**16
"""Numbers that are drawn at once on a CPU, so that they stay in its cache."""

_POSITIONS = np.arange(_BLOCK, dtype=np.uint32)


def uniforms(seed: int, step: int, layer: int, count: int, device: torch.device) -> Tensor:
    """Return float32 numbers `(count,)`, uniform in [0, 1].

    A shorter stream is a prefix of a longer one.

    The hash is `lowbias32` (C. Wellons, "Prospecting for Hash Functions", 2018) of the position,
    keyed by seed, step and layer.
    """
    key = minibatch_key(seed, step, layer)
    if device.type == "cpu":
        return torch.from_numpy(_uniforms_in_blocks(key, count))
    return uniforms_at(torch.arange(count, dtype=torch.int32, device=device), signed(key))


def uniforms_at(positions: Tensor, keys: int | Tensor) -> Tensor:
    """Return the same stream at int32 positions of any shape; keys are int32 too, and broadcast."""
    x = positions + keys
    for shift, multiplier in _ROUNDS:
        x ^= (x >> shift) & (_ALL_BITS >> shift)
        x *= signed(multiplier)
    x ^= (x >> _LAST_SHIFT) & (_ALL_BITS >> _LAST_SHIFT)
    return x.float().mul_(2.0**-32).add_(0.5)


def _uniforms_in_blocks(key: int, count: int) -> NDArray[np.float32]:
    """Return the same stream in half the time, by NumPy's unsigned integers in small blocks."""
    stream = np.empty(count, np.float32)
    x, shifted = np.empty((2, min(count, _BLOCK)), np.uint32)
    for start in range(0, count, _BLOCK):
        block = stream[start : start + _BLOCK]
        x, shifted = x[: len(block)], shifted[: len(block)]
        np.add(_POSITIONS[: len(block)], np.uint32(start + key & _ALL_BITS), out=x)
        for shift, multiplier in _ROUNDS:
            x ^= np.right_shift(x, shift, out=shifted)
            x *= np.uint32(multiplier)
        x ^= np.right_shift(x, _LAST_SHIFT, out=shifted)
        block[:] = x.view(np.int32)
        block *= np.float32(2.0**-32)
        block += np.float32(0.5)
    return stream


def apply_dropout(x: Tensor, noise: Tensor, dropout: float) -> Tensor:
    """Return `x` where `noise`, uniform and of the same shape, exceeds `dropout`, else 0.

    Linear in `x`, so the backward pass is the same function of the error. The values are not
    scaled. A threshold kernel is an order of magnitude faster on a CPU than a product with a
    boolean mask.
    """
    x_kept: Tensor = torch.ops.aten.threshold_backward(x, noise, dropout)
    return x_kept


def apply_dropout_(x: Tensor, noise: Tensor, dropout: float) -> None:
    """Do the same in place."""
    torch.ops.aten.threshold_backward.grad_input(x, noise, dropout, grad_input=x)


def minibatch_key(seed: int, step: int, layer: int) -> int:
    """Return an unsigned 32-bit key for one layer of one minibatch."""
    return _mix(_mix(seed_key(seed) ^ (step * _GOLDEN)) ^ (layer + 1))


def seed_key(seed: int) -> int:
    """Return the number from which the keys of all minibatches of a seed are mixed, 32 bits."""
    return _mix(seed)


def signed(key: int) -> int:
    """Return the same 32 bits as a signed integer."""
    return key - 2**32 if key >= 2**31 else key


def _mix(x: int) -> int:
    """Return `lowbias32` of one unsigned integer."""
    x &= _ALL_BITS
    for shift, multiplier in _ROUNDS:
        x ^= x >> shift
        x = x * multiplier & _ALL_BITS
    return x ^ x >> _LAST_SHIFT
