"""Parzen estimators over mixed spaces, as TPE uses them: many points evaluated at once.

A density is a product of truncated normals (numbers) and smoothed one-hot weights (categories)
around each observation, and of one broad kernel over the whole space. With the widths of
`neighbour_gaps` it is that of Optuna's multivariate TPE.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

Floats = NDArray[np.float64]

_TINY = 1e-300
_FINEST = 100
"""No kernel is narrower than 1/100 of the range; fewer observations have wider kernels."""


@dataclass(frozen=True)
class Scale:
    """The scale on which a numerical dimension is searched, logarithmic if `log`.

    A stepped dimension is widened by half a step at both ends.
    """

    low: float
    high: float
    log: bool
    step: float | None

    @property
    def span(self) -> float:
        """The width of the range."""
        return self.high - self.low

    def of(self, x: Floats) -> Floats:
        """Return values on this scale."""
        return np.log(x) if self.log else x


Widths = Callable[[Floats, Scale], Floats]
"""Maps (n,) observations on a scale to the widths (n,) of their kernels."""


def neighbour_gaps(mu: Floats, scale: Scale) -> Floats:
    """Return kernel widths (n,): the larger gap to the neighbours, at the ends the inner gap.

    Source: `optuna.samplers.TPESampler`.
    """
    order = np.argsort(mu)
    gaps = np.diff(np.concatenate([[scale.low], mu[order], [scale.high]]))
    widths = np.maximum(gaps[:-1], gaps[1:])
    if len(mu) >= 2:
        widths[0], widths[-1] = gaps[1], gaps[-2]
    unsorted = np.empty_like(widths)
    unsorted[order] = widths
    return _clipped_gaps(unsorted, scale, len(mu) + 1)


def closing_in(weights: Floats, n_dimensions: int) -> Widths:
    """Return widths as those of `neighbour_gaps`, but at most as wide as Scott's rule allows.

    Source: D. W. Scott, *Multivariate Density Estimation*, 1992, with the effective number of
    weighted observations. Few observations give a poor estimate of their spread, so n of them have
    kernels of at least 1 / n² of the range. On a stepped dimension kernels are at least a quarter
    of a step wide, so that neighbouring points can be drawn.
    """

    def widths(mu: Floats, scale: Scale) -> Floats:
        if len(mu) == 0:
            return np.empty(0)
        share = weights / weights.sum()
        spread = np.sqrt(share @ (mu - share @ mu) ** 2)
        n_effective = 1 / (share @ share)
        narrowest = scale.span / min(_FINEST, len(mu) ** 2)
        if scale.step is not None and not scale.log:
            narrowest = max(narrowest, scale.step / 4)
        widest = max(spread * n_effective ** (-1 / (n_dimensions + 4)), narrowest)
        clipped: Floats = np.minimum(neighbour_gaps(mu, scale), widest)
        return clipped

    return widths


@dataclass(frozen=True)
class _Numbers:
    """Kernels of one numerical dimension: `mu` and `sigma` on its scale, shape (m,), prior first.

    If the dimension is stepped, a value stands for the interval of one step around it.
    """

    mu: Floats
    sigma: Floats
    scale: Scale

    def log_kernels(self, x: Floats) -> Floats:
        """Return log densities, or log masses if stepped, (n, m) of (n,) values."""
        total = np.log(self._mass(self.scale.low, self.scale.high))
        if self.scale.step is None:
            z = self.scale.of(x)[:, None] - self.mu
            z /= self.sigma
            z *= z
            z *= -0.5
            z -= np.log(self.sigma * np.sqrt(2 * np.pi)) + total
            return z
        # Many values are equal, and each needs two normal integrals a kernel.
        distinct, index = np.unique(x, return_inverse=True)
        half = self.scale.step / 2
        left, right = (self.scale.of(distinct + side * half) for side in (-1, 1))
        mass = self._mass(left[:, None], right[:, None])
        return (np.log(np.maximum(mass, _TINY)) - total)[index]

    def draw(self, kernels: NDArray[np.intp], rng: np.random.RandomState) -> Floats:
        """Return one value from each of the given kernels."""
        mu, sigma, scale = self.mu[kernels], self.sigma[kernels], self.scale
        below = scipy.special.ndtr((scale.low - mu) / sigma)
        above = scipy.special.ndtr((scale.high - mu) / sigma)
        drawn = below + rng.uniform(size=len(mu)) * (above - below)
        scaled = mu + sigma * scipy.special.ndtri(drawn)
        x = np.clip(scaled, scale.low, scale.high)
        return np.exp(x) if scale.log else x

    def kernel_at(self, x: float) -> _Numbers:
        """Return the kernel of one more observation, as wide as the larger gap beside it."""
        point = float(self.scale.of(np.array([x]))[0])
        others = self.mu[1:]  # the first kernel is the prior's
        left = np.max(others, where=others <= point, initial=self.scale.low)
        right = np.min(others, where=others > point, initial=self.scale.high)
        gap = np.array([max(point - left, right - point)])
        width = _clipped_gaps(gap, self.scale, len(others) + 2)
        return replace(self, mu=np.array([point]), sigma=width)

    def joined(self, other: _Numbers) -> _Numbers:
        """Return these kernels and those of another estimate of the same dimension."""
        mu, sigma = np.append(self.mu, other.mu), np.append(self.sigma, other.sigma)
        return replace(self, mu=mu, sigma=sigma)

    def _mass(self, left: Floats | float, right: Floats | float) -> Floats:
        right, left = (right - self.mu) / self.sigma, (left - self.mu) / self.sigma
        mass: Floats = scipy.special.ndtr(right) - scipy.special.ndtr(left)
        return mass


@dataclass(frozen=True)
class _Categories:
    """Kernels of one categorical dimension: `weights` has shape (m, number of choices)."""

    weights: Floats

    def log_kernels(self, x: Floats) -> Floats:
        """Return log masses (n, m) of (n,) indices of choices."""
        masses: Floats = np.log(self.weights.T)[x.astype(int)]
        return masses

    def draw(self, kernels: NDArray[np.intp], rng: np.random.RandomState) -> Floats:
        """Return one index from each of the given kernels."""
        cumulative = self.weights[kernels].cumsum(axis=1)
        cumulative[:, -1] = 1.0
        drawn: Floats = (cumulative < rng.uniform(size=len(kernels))[:, None]).sum(axis=1) * 1.0
        return drawn

    def kernel_at(self, x: float) -> _Categories:
        """Return the kernel of one more observation, as smooth as the others."""
        n_kernels, n_choices = self.weights.shape
        return _Categories(_smoothed(np.array([x]), n_choices, n_kernels))

    def joined(self, other: _Categories) -> _Categories:
        """Return these kernels and those of another estimate of the same dimension."""
        return _Categories(np.concatenate([self.weights, other.weights]))


class Parzen:
    """A weighted mixture of product kernels, to which points can be added.

    Args:
        observations: (n, d), in Optuna's internal representation.
        space: the d distributions.
        weights: (n,), relative to the prior's weight of 1.
        widths: returns the widths of kernels of numbers.
    """

    def __init__(
        self,
        observations: Floats,
        space: Sequence[BaseDistribution],
        weights: Floats,
        widths: Widths = neighbour_gaps,
    ) -> None:
        self._space = space
        self._weights = np.append(1.0, weights)
        self._columns = [_column(observations[:, i], d, widths) for i, d in enumerate(space)]

    @property
    def weight(self) -> float:
        """The sum of all weights, the prior's included."""
        return float(self._weights.sum())

    def draw(self, n: int, rng: np.random.RandomState) -> Floats:
        """Return `n` legal points (n, d), all values of a point drawn from one kernel."""
        kernels = self._kernels(n, rng)
        return self._legal([column.draw(kernels, rng) for column in self._columns])

    def recombine(self, n: int, rng: np.random.RandomState) -> Floats:
        """Return `n` legal points (n, d), each value drawn from its own kernel."""
        return self._legal([column.draw(self._kernels(n, rng), rng) for column in self._columns])

    def log_density(self, points: Floats) -> Floats:
        """Return log densities (n,) of the points (n, d) that `draw` draws."""
        kernels = _log_products(self._columns, points) + np.log(self._shares)
        density: Floats = scipy.special.logsumexp(kernels, axis=1)
        return density

    def log_recombined(self, points: Floats) -> Floats:
        """Return the same for `recombine`: the product of the densities of single dimensions."""
        density = np.zeros(len(points))
        for column, x in zip(self._columns, points.T, strict=True):
            # One dimension of the broad kernel is never so thin that the sum would vanish.
            density += np.log(np.exp(column.log_kernels(x)) @ self._shares)
        return density

    def add(self, point: Floats, weight: float, *, at: Floats) -> Floats:
        """Add a point to the mixture.

        Returns:
            Log densities (n,) of its kernel at the points `at` (n, d).
        """
        kernels = [c.kernel_at(x) for c, x in zip(self._columns, point, strict=True)]
        pairs = zip(self._columns, kernels, strict=True)
        self._columns = [column.joined(kernel) for column, kernel in pairs]  # type: ignore[arg-type]
        self._weights = np.append(self._weights, weight)
        return _log_products(kernels, at)[:, 0]

    @property
    def _shares(self) -> Floats:
        return self._weights / self.weight

    def _kernels(self, n: int, rng: np.random.RandomState) -> NDArray[np.intp]:
        return rng.choice(len(self._weights), size=n, p=self._shares)

    def _legal(self, drawn: Sequence[Floats]) -> Floats:
        return np.stack([_legal(x, d) for x, d in zip(drawn, self._space, strict=True)], axis=1)


def _column(
    observations: Floats, distribution: BaseDistribution, widths: Widths
) -> _Numbers | _Categories:
    if isinstance(distribution, CategoricalDistribution):
        n_kernels, n_choices = len(observations) + 1, len(distribution.choices)
        prior = np.full((1, n_choices), 1.0 / n_choices)
        return _Categories(np.concatenate([prior, _smoothed(observations, n_choices, n_kernels)]))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    half = (distribution.step or 0.0) / 2
    low, high = distribution.low - half, distribution.high + half
    mu = observations
    if distribution.log:
        mu, low, high = np.log(mu), float(np.log(low)), float(np.log(high))
    scale = Scale(low, high, distribution.log, distribution.step)
    mu = np.clip(mu, low, high)  # an older trial may be outside of a range that was narrowed
    sigma = np.append(scale.span, widths(mu, scale))
    return _Numbers(np.append(0.5 * (low + high), mu), sigma, scale)


def _log_products(columns: Sequence[_Numbers | _Categories], points: Floats) -> Floats:
    product = np.zeros((1, 1))
    for column, x in zip(columns, points.T, strict=True):
        product = product + column.log_kernels(x)
    return product


def _smoothed(indices: Floats, n_choices: int, n_kernels: int) -> Floats:
    """Return one-hot weights of (n,) choices; every choice gets 1 / n_kernels more."""
    weights = np.full((len(indices), n_choices), 1.0 / n_kernels)
    weights[np.arange(len(indices)), indices.astype(int)] += 1.0
    smoothed: Floats = weights / weights.sum(axis=1, keepdims=True)
    return smoothed


def _clipped_gaps(gaps: Floats, scale: Scale, n_kernels: int) -> Floats:
    clipped: Floats = np.clip(gaps, scale.span / min(_FINEST, 1 + n_kernels), scale.span)
    return clipped


def _legal(x: Floats, distribution: BaseDistribution) -> Floats:
    """Return drawn values, rounded to the steps and kept within the bounds."""
    if isinstance(distribution, CategoricalDistribution):
        return x
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    stepped = x if step is None else low + np.round((x - low) / step) * step
    return np.clip(stepped, low, high)
