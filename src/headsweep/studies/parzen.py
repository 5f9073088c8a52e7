"""Parzen estimators over mixed spaces, as TPE uses them: many points evaluated at once.

Kernels, widths and prior are those of Optuna's multivariate TPE: a product of truncated normals
(numbers) and smoothed one-hot weights (categories) around each observation, and one broad kernel
over the whole space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from scipy.special import logsumexp, ndtr, ndtri

Floats = NDArray[np.float64]

_TINY = 1e-300
_SMALLEST_WIDTH = 100
"""No kernel is narrower than this share of the range, once there are as many observations."""


@dataclass(frozen=True)
class _Numbers:
    """Kernels of one numerical dimension, on the scale in which it is searched.

    `mu` and `sigma` have shape (m,). A stepped dimension is widened by half a step at both ends,
    and a value stands for the interval of one step around it.
    """

    mu: Floats
    sigma: Floats
    low: float
    high: float
    log: bool
    step: float | None

    def log_kernels(self, x: Floats) -> Floats:
        """Log densities, or masses where there are steps; (n,) values → (n, m)."""
        total = np.log(self._mass(self.low, self.high))
        if self.step is None:
            z = (self._scaled(x)[:, None] - self.mu) / self.sigma
            density: Floats = -0.5 * z * z - np.log(self.sigma * np.sqrt(2 * np.pi)) - total
            return density
        # Many values are equal; each needs two normal integrals a kernel.
        distinct, place = np.unique(x, return_inverse=True)
        left, right = (self._scaled(distinct + side * self.step / 2) for side in (-1, 1))
        mass = self._mass(left[:, None], right[:, None])
        return (np.log(np.maximum(mass, _TINY)) - total)[place]

    def draw(self, kernels: NDArray[np.intp], rng: np.random.RandomState) -> Floats:
        """One value from each of the given kernels."""
        mu, sigma = self.mu[kernels], self.sigma[kernels]
        below, above = ndtr((self.low - mu) / sigma), ndtr((self.high - mu) / sigma)
        scaled = mu + sigma * ndtri(below + rng.uniform(size=len(mu)) * (above - below))
        x = np.clip(scaled, self.low, self.high)
        return np.exp(x) if self.log else x

    def grown(self, x: float) -> _Numbers:
        """With one more kernel, as wide as the larger gap to its neighbours."""
        point = float(self._scaled(np.array([x]))[0])
        neighbours = np.sort(self.mu[1:])  # the first kernel is the prior's
        place = int(np.searchsorted(neighbours, point))
        left = neighbours[place - 1] if place > 0 else self.low
        right = neighbours[place] if place < len(neighbours) else self.high
        gap = np.array([max(point - left, right - point)])
        width = _clipped(gap, self.high - self.low, len(neighbours) + 2)
        return replace(self, mu=np.append(self.mu, point), sigma=np.append(self.sigma, width))

    def _scaled(self, x: Floats) -> Floats:
        return np.log(x) if self.log else x

    def _mass(self, left: Floats | float, right: Floats | float) -> Floats:
        mass: Floats = ndtr((right - self.mu) / self.sigma) - ndtr((left - self.mu) / self.sigma)
        return mass


@dataclass(frozen=True)
class _Categories:
    """Kernels of one categorical dimension: `weights` has shape (m, number of choices)."""

    weights: Floats

    def log_kernels(self, x: Floats) -> Floats:
        """Log masses; (n,) indices of choices → (n, m)."""
        masses: Floats = np.log(self.weights.T[x.astype(int)])
        return masses

    def draw(self, kernels: NDArray[np.intp], rng: np.random.RandomState) -> Floats:
        """One index from each of the given kernels."""
        cumulative = self.weights[kernels].cumsum(axis=1)
        cumulative[:, -1] = 1.0
        drawn: Floats = (cumulative < rng.uniform(size=len(kernels))[:, None]).sum(axis=1) * 1.0
        return drawn

    def grown(self, x: float) -> _Categories:
        """With one more kernel, as smooth as the others."""
        n_kernels, n_choices = self.weights.shape
        one = np.full((1, n_choices), 1.0 / n_kernels)
        one[0, int(x)] += 1.0
        return _Categories(np.concatenate([self.weights, one / one.sum()]))


class Parzen:
    """A weighted mixture of product kernels, to which points can be added.

    Args:
        observations: (n, d), in Optuna's internal representation.
        space: the d distributions.
        weights: (n,), relative to the prior's weight of 1.
    """

    def __init__(
        self, observations: Floats, space: Sequence[BaseDistribution], weights: Floats
    ) -> None:
        self._space = space
        self._weights = np.append(1.0, weights)
        self._columns = [_column(observations[:, i], d) for i, d in enumerate(space)]

    def draw(self, n: int, rng: np.random.RandomState) -> Floats:
        """`n` points, (n, d), each legal in its dimension."""
        kernels = rng.choice(len(self._weights), size=n, p=self._weights / self._weights.sum())
        drawn = [column.draw(kernels, rng) for column in self._columns]
        return np.stack([_legal(x, d) for x, d in zip(drawn, self._space, strict=True)], axis=1)

    def log_density(self, points: Floats) -> Floats:
        """Log densities of (n, d) points, (n,)."""
        kernels = sum(column.log_kernels(points[:, i]) for i, column in enumerate(self._columns))
        log_weights = np.log(self._weights / self._weights.sum())
        density: Floats = logsumexp(kernels + log_weights, axis=1)
        return density

    def add(self, point: Floats) -> None:
        """Lets one more point of weight 1 into the mixture."""
        self._columns = [c.grown(x) for c, x in zip(self._columns, point, strict=True)]
        self._weights = np.append(self._weights, 1.0)


def _column(observations: Floats, distribution: BaseDistribution) -> _Numbers | _Categories:
    if isinstance(distribution, CategoricalDistribution):
        n_kernels, n_choices = len(observations) + 1, len(distribution.choices)
        weights = np.full((n_kernels, n_choices), 1.0 / n_kernels)
        weights[np.arange(1, n_kernels), observations.astype(int)] += 1.0
        return _Categories(weights / weights.sum(axis=1, keepdims=True))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    half = (distribution.step or 0.0) / 2
    low, high = distribution.low - half, distribution.high + half
    mu = observations
    if distribution.log:
        mu, low, high = np.log(mu), float(np.log(low)), float(np.log(high))
    mu = np.clip(mu, low, high)  # a trial may be from before the range was narrowed
    sigma = np.append(high - low, _widths(mu, low, high))
    mu = np.append(0.5 * (low + high), mu)
    return _Numbers(mu, sigma, low, high, distribution.log, distribution.step)


def _widths(mu: Floats, low: float, high: float) -> Floats:
    """A kernel's width is the larger gap to its neighbours; the ends look inwards only."""
    order = np.argsort(mu)
    padded = np.concatenate([[low], mu[order], [high]])
    gaps = np.diff(padded)
    widths = np.maximum(gaps[:-1], gaps[1:])
    if len(mu) >= 2:
        widths[0], widths[-1] = gaps[1], gaps[-2]
    unsorted = np.empty_like(widths)
    unsorted[order] = widths
    return _clipped(unsorted, high - low, len(mu) + 1)


def _clipped(widths: Floats, span: float, n_kernels: int) -> Floats:
    clipped: Floats = np.clip(widths, span / min(_SMALLEST_WIDTH, 1 + n_kernels), span)
    return clipped


def _legal(x: Floats, distribution: BaseDistribution) -> Floats:
    """Drawn values, rounded to the steps and kept within the bounds."""
    if isinstance(distribution, CategoricalDistribution):
        return x
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    stepped = x if step is None else low + np.round((x - low) / step) * step
    return np.clip(stepped, low, high)
