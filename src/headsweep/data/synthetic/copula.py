"""Correlated binary labels: a Gaussian copula with given prevalences and co-occurrence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray


def latent_correlation(
    prevalences: Sequence[float], phi: Mapping[tuple[int, int], float], base: float
) -> NDArray[np.float64]:
    """Compute the correlation matrix of the normal variables behind c labels.

    Args:
        prevalences: share of positives of each label.
        phi: the phi coefficient of some pairs of labels.
        base: latent correlation of all other pairs.

    Returns:
        Shape (c, c).
    """
    matrix = np.full((len(prevalences),) * 2, base)
    for (i, j), value in phi.items():
        matrix[i, j] = matrix[j, i] = tetrachoric(prevalences[i], prevalences[j], value)
    np.fill_diagonal(matrix, 1.0)
    # Pairs set one by one need not fit together: the nearest semidefinite matrix does.
    values, vectors = np.linalg.eigh(matrix)
    matrix = (vectors * np.maximum(values, 1e-6)) @ vectors.T
    scale = np.sqrt(np.diag(matrix))
    nearest: NDArray[np.float64] = matrix / np.outer(scale, scale)
    return nearest


def tetrachoric(p: float, q: float, phi: float) -> float:
    """Return the correlation of two normal variables whose upper p and q quantiles have this phi.

    Uses Plackett's identity, dP(x > a, y > b)/dr = density of the bivariate normal at (a, b).

    Returns:
        The correlation.
    """
    a, b = NormalDist().inv_cdf(1 - p), NormalDist().inv_cdf(1 - q)
    r = np.linspace(0, 0.995, 2000)
    rest = 1 - r**2
    density = np.exp(-(a * a - 2 * r * a * b + b * b) / (2 * rest)) / (2 * np.pi * np.sqrt(rest))
    covariance = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(r))])
    return float(np.interp(phi * np.sqrt(p * (1 - p) * q * (1 - q)), covariance, r))


def to_labels(latent: NDArray[np.float64], prevalences: Sequence[float]) -> NDArray[np.uint8]:
    """Return labels (n, c) that are 1 where a standard normal variable is in its upper quantile."""
    thresholds = np.array([NormalDist().inv_cdf(1 - p) for p in prevalences])
    return (latent > thresholds).astype(np.uint8)
