"""Scores of methods that are not searched: prevalence, logistic regression, kNN, zero-shot.

All are computed in double precision. Arrays have shape `(n, d)` for features, `(n, c)` for targets
and scores; scores are probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from headsweep.data.prompts import Prompts
from headsweep.data.splits import row_digests
from headsweep.engine.numerics.logistic_solver import solve_logistic
from headsweep.heads.neighbours import largest
from headsweep.metrics.masking import has_blanks, labelled, prevalence

Matrix = NDArray[np.float32]
Targets = NDArray[np.uint8]
Probabilities = NDArray[np.float64]

DECREMENT = 1e-11
"""Error of the logits at which a logistic regression is solved."""

BLOCK_ROWS = 256
"""Rows whose similarities to all training rows are computed at once."""

CANDIDATES = 20
"""Further rows, beside the nearest, that are compared in double precision."""

TIE = 1e-9
"""Similarities nearer than this are equal: the earlier training row is the nearer neighbour."""


def prevalence_scores(targets: Targets, n_rows: int) -> Probabilities:
    """Score rows by the prevalence of each label in train; 0 where all its rows are blank.

    Returns:
        `n_rows` equal rows.
    """
    return np.tile(np.nan_to_num(prevalence(targets)), (n_rows, 1))


def logistic_scores(
    train: Matrix, targets: Targets, splits: Sequence[Matrix]
) -> list[Probabilities]:
    """Fit a logistic regression for each label, and score splits with it.

    It is scikit-learn's `make_pipeline(StandardScaler(), LogisticRegression(C=1))`, solved to
    convergence for all labels at once. A label with one class in train is scored by its prevalence.
    Rows in which a label is blank train the scaler, but not that label.

    Args:
        train: features of train.
        targets: of train.
        splits: features of the splits.

    Returns:
        Scores of each split.
    """
    x = train.astype(np.float64)
    mean, scale = standardization(x)
    x -= mean
    x /= scale
    both = np.flatnonzero((targets == 1).any(axis=0) & (targets == 0).any(axis=0))
    weight, bias = np.zeros((targets.shape[1], x.shape[1])), np.zeros(targets.shape[1])
    if both.size:
        weight[both], bias[both] = _solved(x, targets[:, both])
    scores = []
    for split in splits:
        logits = _product((split.astype(np.float64) - mean) / scale, weight) + bias
        one_class = prevalence_scores(targets, len(split))
        scores.append(
            np.where(np.isin(np.arange(targets.shape[1]), both), expit(logits), one_class)
        )
    return scores


def standardization(x: Probabilities) -> tuple[Probabilities, Probabilities]:
    """Return mean and scale `(d,)` of features, bit for bit as scikit-learn's `StandardScaler`.

    Loading scikit-learn for it alone would take longer than most fits. A constant feature, up to
    the rounding of its variance, has the scale 1.
    """
    n, eps = len(x), np.finfo(np.float64).eps
    mean = x.sum(axis=0) / n
    centred = x - mean
    variance = ((centred**2).sum(axis=0) - centred.sum(axis=0) ** 2 / n) / n
    constant = variance <= n * eps * variance + (n * mean * eps) ** 2
    return mean, np.where(constant, 1.0, np.sqrt(np.where(constant, 1.0, variance)))


def _solved(x: Probabilities, targets: Targets) -> tuple[Probabilities, Probabilities]:
    """Return weights `(c, d)` and biases `(c,)` of labels that have both classes."""
    matrix = torch.from_numpy(x)
    y = torch.from_numpy(np.ascontiguousarray((targets == 1).T, np.float64))
    known = labelled(targets)
    penalty = torch.from_numpy(1 / known.sum(axis=0))
    weights = torch.from_numpy(known.T.astype(np.float64)) if has_blanks(targets) else None
    solution = solve_logistic(matrix, y, penalty, weights, decrement=DECREMENT)
    weight, bias = solution.weight.numpy(), solution.bias.numpy()
    for j in np.flatnonzero(~solution.converged.numpy()):
        from sklearn.linear_model import LogisticRegression  # takes longer to load than most fits

        fitted = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10, max_iter=1000)
        fitted.fit(x[known[:, j]], targets[known[:, j], j])
        weight[j], bias[j] = fitted.coef_[0], fitted.intercept_[0]
    return weight, bias


def knn_scores(
    train: Matrix,
    targets: Targets,
    splits: Sequence[Matrix],
    ks: Sequence[int],
    *,
    on_rows: Callable[[int], None] = lambda _: None,
) -> dict[int, list[Probabilities]]:
    """Score splits by the labels of the nearest training rows by cosine, weighted by similarity.

    It is scikit-learn's `KNeighborsClassifier(k, metric="cosine")` with the cosine as the weight,
    or 0 where it is negative. Where no cosine is positive, the neighbours weigh equally.
    A neighbour in which a label is blank has no vote on it; if none has one, the score is the
    prevalence.

    Args:
        train: features of train.
        targets: of train.
        splits: features of the splits.
        ks: numbers of neighbours.
        on_rows: called with the number of rows that were scored.

    Returns:
        Scores of each split by number of neighbours.
    """
    gallery, y = _Gallery.of(train), torch.from_numpy((targets == 1).astype(np.float64))
    known = torch.from_numpy(labelled(targets).astype(np.float64)) if has_blanks(targets) else None
    chance = torch.from_numpy(prevalence_scores(targets, 1))
    rows = np.concatenate(splits)
    first, inverse = _distinct(rows)
    blocks: Mapping[int, list[torch.Tensor]] = {k: [] for k in ks}
    for block in torch.split(_directions(rows[first]), BLOCK_ROWS):
        similarity, index = gallery.nearest(block, min(max(ks), len(train)))
        weight = similarity.clamp_min(0)
        for k in ks:
            own = weight[:, :k]
            own = torch.where(own.sum(dim=1, keepdim=True) > 0, own, 1.0)
            found = (own.unsqueeze(2) * y[index[:, :k]]).sum(dim=1)
            total = own.sum(dim=1, keepdim=True)
            if known is not None:
                total = (own.unsqueeze(2) * known[index[:, :k]]).sum(dim=1)
            blocks[k].append(torch.where(total > 0, found / total, chance))
        on_rows(len(block))
    on_rows(len(rows) - len(first))
    ends = np.cumsum([len(split) for split in splits])[:-1]
    by_k = {k: torch.cat(blocks[k]).numpy()[inverse] for k in ks}
    return {k: np.split(scores, ends) for k, scores in by_k.items()}


def _distinct(rows: Matrix) -> tuple[list[int], list[int]]:
    """Return the index of the first of equal rows, and the place of every row among those.

    Test manifests may overlap: their rows are searched once.
    """
    places: dict[bytes, int] = {}
    first: list[int] = []
    inverse = []
    for i, digest in enumerate(row_digests(rows)):
        if digest not in places:
            places[digest] = len(first)
            first.append(i)
        inverse.append(places[digest])
    return first, inverse


def zero_shot_scores(split: Matrix, prompts: Prompts) -> Probabilities:
    """Score rows by the cosine to the prompt of each label, less that to its negative prompt.

    Returns:
        The sigmoid of the difference times `logit_scale`: for a pair, CT-CLIP's softmax.
    """
    rows = _directions(split).numpy()
    difference = _product(rows, prompts.positive) - _product(rows, prompts.negative)
    return np.asarray(expit(prompts.scale * difference))


def _product(rows: Probabilities, columns: Probabilities) -> Probabilities:
    """Return `rows @ columns.T`, by the library whose number of threads the engine fixes."""
    product: Probabilities = (torch.from_numpy(rows) @ torch.from_numpy(columns).T).numpy()
    return product


def _directions(matrix: Matrix) -> torch.Tensor:
    """Return rows of length 1 in double precision; rows of zeros stay."""
    x = torch.from_numpy(matrix.astype(np.float64))
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x.div_(torch.where(length > 0, length, 1.0))


@dataclass(frozen=True, eq=False)
class _Gallery:
    """Directions of the training rows `(n, d)` in double and in single precision."""

    exact: torch.Tensor
    rounded: torch.Tensor
    buffer: torch.Tensor
    """Holds the similarities of a block of rows, `(BLOCK_ROWS, n)`."""

    @classmethod
    def of(cls, train: Matrix) -> _Gallery:
        exact = _directions(train)
        rounded = exact.float()
        return cls(exact, rounded, rounded.new_empty(BLOCK_ROWS, len(train)))

    def nearest(self, rows: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return similarity and index `(b, k)` of the nearest training rows, nearest first.

        Candidates are searched in single precision, and compared in double precision. Where its
        rounding may have hidden a nearer row, all similarities are computed again in double.
        """
        n, width = self.exact.shape
        m = min(k + CANDIDATES, n)
        found = torch.mm(rows.float(), self.rounded.T, out=self.buffer[: len(rows)])
        smallest, candidates = largest(found, m)
        candidates = candidates.sort(dim=1).values
        values = (self.exact[candidates] * rows.unsqueeze(1)).sum(dim=2)
        order = torch.argsort((-values / TIE).round(), dim=1, stable=True)[:, :k]
        similarity, index = values.gather(1, order), candidates.gather(1, order)
        if m < n:
            slack = width * torch.finfo(torch.float32).eps
            unsure = similarity[:, -1] - TIE <= smallest.amin(dim=1).double() + slack
            if unsure.any():
                all_values = rows[unsure] @ self.exact.T
                similarity[unsure], index[unsure] = _nearest(all_values, k)
        return similarity, index


def _nearest(similarity: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return similarity and index `(b, k)` of the nearest of all rows, nearest first.

    Args:
        similarity: to all training rows, `(b, n)`.
        k: number of neighbours, at most n.
    """
    values, index = similarity.topk(min(k + 1, similarity.shape[1]), dim=1)
    for row in _with_ties(values):
        candidates = (similarity[row] >= values[row, k - 1] - TIE).nonzero().squeeze(1)
        order = torch.argsort((-similarity[row, candidates] / TIE).round(), stable=True)[:k]
        index[row, :k] = candidates[order]
        values[row, :k] = similarity[row, candidates[order]]
    return values[:, :k], index[:, :k]


def _with_ties(values: torch.Tensor) -> Iterator[int]:
    """Yield the rows in which two sorted values are equal."""
    gaps = values[:, :-1] - values[:, 1:]
    yield from (gaps < TIE).any(dim=1).nonzero().squeeze(1).tolist()
