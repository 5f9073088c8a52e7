"""Ensemble selection (Caruana et al. 2004): greedy, with replacement, bagged over the models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headsweep.metrics.masking import Targets
from headsweep.metrics.ranking import Metric, Scores, average_precision, macro

DIGITS = 12
"""Decimals to which two ensembles are compared. Of equal ones the earlier member is added, so the
last bits of a metric decide nothing."""

_CELLS_PER_BLOCK = 1 << 20


@dataclass(frozen=True)
class Selection:
    """Settings of a selection.

    Caruana, Niculescu-Mizil, Crew and Ksikes (2004), "Ensemble selection from libraries of models",
    section 2.3: bags of half of the models, so that a combination that fits the selection rows by
    chance is in few bags. Fewer rounds than theirs, since the libraries here are small: with 10 and
    with 25 rounds the rows that were not selected on gave the same (`docs/benchmarks/finalize.md`).
    """

    n_bags: int = 20
    share: float = 0.5
    """Share of the models in a bag."""
    n_rounds: int = 10
    """Models that are added to a bag's ensemble; the best beginning of them is used."""
    seed: int = 0
    """Of the draws of the bags."""


def select_weights(targets: Targets, members: Scores, settings: Selection) -> Metric:
    """Choose the weights of an ensemble that averages scores, by macro average precision.

    Every bag is a share of the members, drawn without replacement. Round by round, the member of
    the bag is added that gives the highest macro average precision of the mean, any number of
    times; members after the best round are dropped. The result is the mean over bags.

    Args:
        targets: (n, c), 0, 1 or `BLANK`, of rows on which no member was trained.
        members: (m, n, c) scores that may be averaged. A mean is ranked in their precision.
        settings: of the selection.

    Returns:
        Weights (m,), which add up to 1; a member that was never chosen has 0.

    Raises:
        ValueError: no label has both classes.
    """
    if not np.isfinite(macro(average_precision(targets, members[:1]))[0]):
        raise ValueError("no label has both classes, so no ensemble can be selected")
    rng = np.random.default_rng(settings.seed)
    size = max(1, int(np.ceil(settings.share * len(members))))
    weights = np.zeros(len(members))
    for _ in range(settings.n_bags):
        bag = np.sort(rng.choice(len(members), size, replace=False))
        chosen = _chosen_in_bag(targets, members, bag, settings.n_rounds)
        weights += np.bincount(chosen, minlength=len(members)) / len(chosen)
    return np.asarray(weights / settings.n_bags)


def weighted_mean(scores: Iterable[Scores], weights: Sequence[float]) -> Metric:
    """Return the weighted mean of arrays of one shape, summed in their order in float64."""
    terms = [weight * one.astype(np.float64) for weight, one in zip(weights, scores, strict=True)]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _chosen_in_bag(
    targets: Targets, members: Scores, bag: NDArray[np.intp], n_rounds: int
) -> list[int]:
    """Return the members that a bag's ensemble consists of, in the order of their rounds."""
    total = np.zeros(members.shape[1:])
    chosen: list[int] = []
    values: list[float] = []
    for n_members in range(1, n_rounds + 1):
        found = np.round(_values_with_each(targets, members, bag, total, n_members), DIGITS)
        best = int(np.argmax(found))
        chosen.append(int(bag[best]))
        values.append(float(found[best]))
        total += members[bag[best]]
    return chosen[: int(np.argmax(values)) + 1]


def _values_with_each(
    targets: Targets, members: Scores, bag: NDArray[np.intp], total: Metric, n_members: int
) -> NDArray[np.floating[Any]]:
    """Return the macro average precision of the mean with each member of the bag added, (b,)."""
    step = max(1, _CELLS_PER_BLOCK // total.size)
    found = []
    for start in range(0, len(bag), step):
        means = (total + members[bag[start : start + step]]) / n_members
        found.append(macro(average_precision(targets, means.astype(members.dtype))))
    return np.concatenate(found)
