"""Health of a feature matrix: what makes an encoder's features hard to learn from, in numbers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headsweep.data.faults import Fault
from headsweep.data.manifest import Manifest

LEAST_ROWS = 50
"""Fewer rows say too little about a matrix to warn."""

LOW_RANK, LOW_RANK_SHARE = 10.0, 0.1
"""An effective rank below the first number, and below this share of the possible one, is low."""

HIGH_COSINE = 0.8
MANY_DUPLICATES = 0.01
"""Share of rows with a near-duplicate in another patient from which on it is reported."""

DUPLICATE_DISTANCE = 0.01
"""Rows nearer than this share of the typical distance of two rows are near-duplicates."""

OUTLIER_Z = 6.0
"""Robust z score beyond which a row is an outlier; of a million normal values none is."""

CONSTANT_STD = 1e-7
"""A column whose standard deviation is below this share of the largest one is constant."""

SAMPLED_ROWS = 2000
"""Rows that are compared with all others; a larger matrix is sampled."""

BLOCK_ROWS = 4096
NAMED = 5
"""Rows and columns that a warning names."""


@dataclass(frozen=True)
class Health:
    """Numbers that describe features of shape (n, d).

    Attributes:
        effective_rank: exp of the entropy of the variance shares of the principal components
            (Roy & Vetterli 2007, on variances); k equal components have effective rank k.
        possible_rank: min(n - 1, d).
        mean_cosine: mean cosine of two different rows.
        near_duplicates: share of rows that have a near-duplicate of another patient.
        norm_outliers: indices of rows whose norm is an outlier.
        distance_outliers: indices of rows whose distance to the mean row is an outlier.
        constant_columns: indices of columns with one value.
        width: number of columns, d.
    """

    effective_rank: float
    possible_rank: int
    mean_cosine: float
    near_duplicates: float
    norm_outliers: tuple[int, ...]
    distance_outliers: tuple[int, ...]
    constant_columns: tuple[int, ...]
    width: int


def feature_health(matrix: NDArray[np.float32], patients: Sequence[Hashable]) -> Health:
    """Measure features.

    Args:
        matrix: shape (n, d), finite, n at least 2.
        patients: patient of every row; rows of one patient may be alike.

    Returns:
        The numbers; `near_duplicates` is estimated from a seeded sample of a large matrix.
    """
    x = np.asarray(matrix, np.float64)
    mean = x.mean(axis=0)
    norms = np.linalg.norm(x, axis=1)
    distances = np.linalg.norm(x - mean, axis=1)
    covariance = (x - mean).T @ (x - mean) / len(x)
    std = np.sqrt(np.maximum(np.diag(covariance), 0))
    constant = std <= CONSTANT_STD * max(float(std.max()), float(np.abs(mean).max()))
    return Health(
        effective_rank=_effective_rank(covariance),
        possible_rank=min(len(x) - 1, x.shape[1]),
        mean_cosine=_mean_cosine(x, norms),
        near_duplicates=_near_duplicates(x - mean, distances, patients),
        norm_outliers=_outliers(norms),
        distance_outliers=_outliers(distances),
        constant_columns=tuple(np.flatnonzero(constant).tolist()),
        width=x.shape[1],
    )


def health_warnings(
    manifest: Manifest, kind: str, matrix: NDArray[np.float32], rows: Sequence[int]
) -> list[Fault]:
    """Measure features, and describe what is unusual.

    Args:
        manifest: whose features they are.
        kind: of features, for the messages: "visual features".
        matrix: shape (n, d).
        rows: index in the manifest of every row of the matrix.

    Returns:
        A warning for each unusual number; none for fewer than `LEAST_ROWS` rows.
    """
    if len(matrix) < LEAST_ROWS:
        return []
    found = feature_health(matrix, [manifest.patients[row] for row in rows])
    messages = health_messages(found, kind, len(rows), lambda i: manifest.location(rows[i]))
    return [Fault(manifest.path, None, message, severity="warning") for message in messages]


def health_messages(
    found: Health, kind: str, n_rows: int, row_name: Callable[[int], str]
) -> list[str]:
    """Describe what is unusual in the numbers of a feature matrix.

    Args:
        found: the numbers.
        kind: of features: "visual features".
        n_rows: of the matrix.
        row_name: returns the name of a row by its index.

    Returns:
        A sentence for each unusual number; none for fewer than `LEAST_ROWS` rows.
    """
    if n_rows < LEAST_ROWS:
        return []
    messages = []
    if found.effective_rank < min(LOW_RANK, LOW_RANK_SHARE * found.possible_rank):
        messages.append(
            f"{kind} have an effective rank of {found.effective_rank:.1f} of "
            f"{found.possible_rank}: a few directions hold nearly all variance; "
            "features.normalization=whiten may help"
        )
    if found.mean_cosine > HIGH_COSINE:
        messages.append(
            f"{kind} have a mean cosine of {found.mean_cosine:.2f} between rows: they share one "
            "direction; features.normalization=zscore or whiten removes it"
        )
    if found.near_duplicates > MANY_DUPLICATES:
        messages.append(
            f"{100 * found.near_duplicates:.1f} % of rows have {kind} nearly equal to those of "
            "another patient"
        )
    for outliers, what in (
        (found.norm_outliers, "norm"),
        (found.distance_outliers, "distance to the mean"),
    ):
        if outliers:
            names = ", ".join(map(row_name, outliers[:NAMED]))
            messages.append(
                f"{len(outliers)} of {n_rows} rows have {kind} whose {what} is an outlier "
                f"(robust z above {OUTLIER_Z:g}): {names}{', …' if len(outliers) > NAMED else ''}"
            )
    if found.constant_columns:
        named = ", ".join(map(str, found.constant_columns[:NAMED]))
        more = ", …" if len(found.constant_columns) > NAMED else ""
        messages.append(
            f"{kind} are constant in {len(found.constant_columns)} of {found.width} columns: "
            f"{named}{more}"
        )
    return messages


def _effective_rank(covariance: NDArray[np.float64]) -> float:
    variances = np.maximum(np.linalg.eigvalsh(covariance), 0)
    shares = variances / max(float(variances.sum()), np.finfo(np.float64).tiny)
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0


def _mean_cosine(x: NDArray[np.float64], norms: NDArray[np.float64]) -> float:
    has_length = norms > 0
    units = x[has_length] / norms[has_length, None]
    n = len(units)
    if n < 2:
        return 0.0
    return float((np.square(units.sum(axis=0)).sum() - n) / (n * (n - 1)))


def _near_duplicates(
    centred: NDArray[np.float64], distances: NDArray[np.float64], patients: Sequence[Hashable]
) -> float:
    """Return the share of rows that are near to a row of another patient."""
    n = len(centred)
    typical = np.sqrt(2.0) * float(np.median(distances))  # of two independent rows
    numbers: dict[Hashable, int] = {}
    groups = np.array([numbers.setdefault(patient, len(numbers)) for patient in patients])
    chosen = np.arange(n)
    if n > SAMPLED_ROWS:
        chosen = np.sort(np.random.default_rng(0).choice(n, SAMPLED_ROWS, replace=False))
    x = centred.astype(np.float32)
    squared = np.square(x).sum(axis=1)
    near = np.zeros(len(chosen), bool)
    for start in range(0, n, BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        gaps = squared[chosen, None] + squared[None, block] - 2 * x[chosen] @ x[block].T
        is_near = gaps <= np.square(DUPLICATE_DISTANCE * typical)
        is_near &= groups[chosen, None] != groups[None, block]
        near |= is_near.any(axis=1)
    return float(near.mean())


def _outliers(values: NDArray[np.float64]) -> tuple[int, ...]:
    """Return the indices of values with a large robust z score: of median and MAD."""
    median = float(np.median(values))
    gaps = np.abs(values - median)
    # Rows that were scaled to one length differ by rounding alone.
    scale = max(1.4826 * float(np.median(gaps)), 1e-4 * abs(median), np.finfo(np.float64).tiny)
    return tuple(np.flatnonzero(gaps / scale > OUTLIER_Z).tolist())
