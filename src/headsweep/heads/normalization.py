"""Input normalisation, fitted on training features only."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from headsweep.config.data_sections import Normalization

CONSTANT_STD = 1e-7
"""A column whose standard deviation is below this share of the largest one counts as constant."""

WHITENING_SHRINKAGE = 1e-3
"""Share of the mean variance added to each principal component before whitening."""

LAYER_EPSILON = 1e-5
"""Added to a row's variance in `layer`, as PyTorch's `layer_norm` does by default."""

BLOCK_ROWS = 1024
"""Training rows held in float64 at once."""


class Normalizer(nn.Module):
    """An affine map of columns, or a function of each row by itself.

    `whiten` is `(x - mean) @ projection`, `zscore` is `(x - mean) * scale`, `std` is `x * scale`.
    `l2` divides a row by its length. `layer` subtracts a row's mean and divides by the root of its
    variance plus `LAYER_EPSILON`. `none` changes nothing.
    """

    mean: Tensor
    scale: Tensor
    projection: Tensor

    def __init__(self, kind: Normalization, width: int) -> None:
        super().__init__()
        self.kind: Normalization = kind
        if kind in ("zscore", "whiten"):
            self.register_buffer("mean", torch.zeros(width))
        if kind in ("zscore", "std"):
            self.register_buffer("scale", torch.ones(width))
        if kind == "whiten":
            self.register_buffer("projection", torch.eye(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised features `(n, d)` of raw features `(n, d)`."""
        match self.kind:
            case "none":
                return x
            case "l2":
                return functional.normalize(x, dim=1)
            case "layer":
                return functional.layer_norm(x, x.shape[1:], eps=LAYER_EPSILON)
            case "std":
                return x * self.scale
            case "zscore":
                return (x - self.mean).mul_(self.scale)
            case "whiten":
                return (x - self.mean) @ self.projection


def fit_normalizer(kind: Normalization, train: Tensor) -> Normalizer:
    """Return the normaliser of raw training features `(n, d)`; constant columns become zero.

    `whiten` is PCA whitening in the original axes (ZCA; Kessy et al. 2018) with a little
    shrinkage, so that directions of almost no variance are not blown up.
    """
    normalizer = Normalizer(kind, train.shape[1])
    if kind in ("none", "l2", "layer"):
        return normalizer
    blocks = [rows.cpu() for rows in torch.split(train, BLOCK_ROWS)]
    mean = _total(rows.double().sum(dim=0) for rows in blocks) / len(train)
    centred = (rows - mean for rows in blocks)
    if kind != "std":
        normalizer.mean.copy_(mean)
    if kind in ("zscore", "std"):
        std = (_total(rows.square().sum(dim=0) for rows in centred) / len(train)).sqrt()
        varies = std > CONSTANT_STD * std.max().clamp_min(torch.finfo(torch.float32).tiny)
        normalizer.scale.copy_(torch.where(varies, 1 / std.clamp_min(1e-300), 0.0))
    else:
        covariance = _total(rows.T @ rows for rows in centred) / len(train)
        variance, axes = torch.linalg.eigh(covariance)
        floor = WHITENING_SHRINKAGE * variance.mean().clamp_min(1e-300)
        gain = 1 / (variance.clamp_min(0) + floor).sqrt()
        normalizer.projection.copy_((axes * gain) @ axes.T)
    return normalizer.to(train.device)


def _total(terms: Iterable[Tensor]) -> Tensor:
    return functools.reduce(Tensor.add_, terms)
