#!/usr/bin/env python3
"""Measure coverage of the leaderboard's intervals of AUPRC and AUROC on other designs of data.

`coverage.py --rare` simulates normal scores, 60 % of whose variance is shared by the rows of a
patient, and one to three rows a patient. Here scores have heavy tails, are skewed or have ties;
rows of a patient differ in their label; patients have up to 40 rows, or one; a tenth of the
patients with the label do not look like it. Labels of single data sets have about 5, 10 or 20
patients; `--macro` measures macro means over 18 labels that 2 to 40 % of 100 patients have.

Takes about an hour; `--sets 20` a few minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from headsweep.evaluation.areas import MIN_PATIENTS_OF_AREAS
from headsweep.evaluation.summaries import CONFIDENCE
from headsweep.metrics.bootstrap import bound_of_perfect, patients_with, resampled_ranking
from headsweep.metrics.macro_intervals import macro_auroc_interval
from headsweep.metrics.ranking import average_precision_and_auroc
from headsweep.metrics.score_intervals import (
    auprc_intervals,
    auroc_intervals,
    macro_auprc_interval,
)

Array = NDArray[np.float64]
LABEL_AREAS = (0.65, 0.80, 0.92, 0.97)
MACRO_AREAS = (0.65, 0.80, 0.92, 0.75, 0.90, 0.85)
MACRO_PREVALENCES = np.geomspace(0.02, 0.4, 18)
MACRO_PATIENTS = 100
N_DRAWN = 10
"""Sets of resamples that the data sets take in turn; patients are exchangeable."""
POPULATION = 100_000
"""Rows of each class from which true values are computed."""
MANY_ROWS = 4000
"""Larger data sets: two of the four areas, and half as many sets."""


def normal(z: Array) -> Array:
    """Return normal values as they are."""
    return z


def heavy(z: Array) -> Array:
    """Return values of Student's t with 3 degrees of freedom, of variance 1."""
    return np.asarray(stdtrit(3, ndtr(np.clip(z, -8, 8))) / np.sqrt(3))


def right(z: Array) -> Array:
    """Return exponential values, skewed to the right."""
    return np.asarray(-np.log(ndtr(-z)) - 1)


def left(z: Array) -> Array:
    """Return exponential values, skewed to the left."""
    return -right(z)


@dataclass(frozen=True)
class Design:
    """How scores and rows are drawn."""

    noise: Callable[[Array], Array] = normal
    """Noise of variance 1 from normal values."""
    by_patient: float = 0.6
    """Share of the noise's variance that the rows of a patient have in common."""
    rows: tuple[int, int] = (1, 3)
    """Fewest and most rows of a patient."""
    labelled: float = 1.0
    """Share of the rows of a patient with the label that have it."""
    levels: int = 0
    """Number of distinct scores; 0 is any."""
    hidden: float = 0.0
    """Share of the rows with the label that are scored as those without."""

    def scores(self, rng: np.random.Generator, noise: Array) -> Array:
        """Return scores of rows without the label, given the patients' noise of each row."""
        own = self.noise(rng.normal(size=len(noise)))
        return noise + np.sqrt(1 - self.by_patient) * own

    def rounded(self, scores: Array) -> Array:
        """Return scores rounded to the design's levels."""
        return np.round(ndtr(scores / 1.5 - 0.5) * self.levels) if self.levels else scores


DESIGNS = {
    "first": Design(),
    "heavy tails": Design(noise=heavy),
    "skewed right": Design(noise=right),
    "skewed left": Design(noise=left),
    "hidden": Design(hidden=0.1),
    "rows differ": Design(labelled=0.6),
    "40 rows": Design(rows=(1, 40)),
    "40 rows differ": Design(rows=(1, 40), labelled=0.6),
    "ties": Design(levels=10),
    "noise by row": Design(by_patient=0.1),
    "noise by patient": Design(by_patient=0.95, rows=(1, 6)),
    "one row": Design(rows=(1, 1)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--designs", nargs="+", choices=DESIGNS, default=list(DESIGNS))
    parser.add_argument("--patients", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--prevalences", type=float, nargs="+", default=[0.02, 0.1, 0.4])
    parser.add_argument("--sets", type=int, default=500)
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--macro", action="store_true", help="macro means over 18 labels")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    for name in options.designs:
        if options.macro:
            shares = macro_coverage(rng, DESIGNS[name], options.sets, options.resamples)
            print(f"{name}: macro AUPRC {shares[0]:.3f}, macro AUROC {shares[1]:.3f}", flush=True)
            continue
        for patients in options.patients:
            for prevalence in options.prevalences:
                few_rows = patients / prevalence * np.mean(DESIGNS[name].rows) < MANY_ROWS
                sets = options.sets if few_rows else options.sets // 2
                cells = [
                    label_coverage(
                        rng, DESIGNS[name], patients, prevalence, area, sets, options.resamples
                    )
                    for area in LABEL_AREAS[:: 1 if few_rows else 2]
                    if area < 1 - DESIGNS[name].hidden / 2
                ]
                for metric, column in zip(
                    ("AUPRC", "AUROC"), np.transpose(cells, (1, 0, 2)), strict=True
                ):
                    shares = " ".join(f"{share:.3f}" for share, _ in column)
                    print(
                        f"{name}: {patients} patients, {prevalence:.0%}, {metric} {shares}"
                        f" (mean width {column[:, 1].mean():.2f})",
                        flush=True,
                    )


def label_coverage(
    rng: np.random.Generator,
    design: Design,
    patients: int,
    prevalence: float,
    area: float,
    sets: int,
    n_resamples: int,
) -> list[tuple[float, float]]:
    """Return the share of covering intervals and their mean width, of AUPRC and AUROC.

    About `patients` patients have a row with the label; data sets that have no interval on a board
    are drawn again.
    """
    shift, *truth = true_values(design, prevalence, area)
    n = round(patients / min(prevalence, 1 - prevalence))
    pools = drawn_patients(rng, n, n_resamples)
    values, classes = [], []
    while len(values) < sets:
        rows = np.repeat(np.arange(n), rng.integers(design.rows[0], design.rows[1] + 1, n))
        noise = design.noise(rng.normal(size=n))
        positive, scores = draw(rng, design, rows, rng.random(n) < prevalence, noise, shift)
        found = patients_of(positive[:, None], rows)[:, 0]
        if found.min() >= min(patients, MIN_PATIENTS_OF_AREAS):
            drawn = pools[len(values) % N_DRAWN][:, rows]
            values.append(areas_of(positive[:, None], scores[:, None], drawn)[:, :, 0])
            classes.append(found)
    computed = []
    p, q = np.transpose(classes)
    for j, compute in enumerate((auprc_intervals, auroc_intervals)):
        own, draws = np.array(values)[:, j, 0], np.array(values)[:, j, 1:].T
        ends = compute(own, draws, p, q, CONFIDENCE)
        exact = bound_of_perfect(own, np.minimum(p, q), CONFIDENCE)
        low, high = (np.where(np.isfinite(e), e, end) for e, end in zip(exact, ends, strict=True))
        computed.append(
            (float(np.mean((low <= truth[j]) & (truth[j] <= high))), float(np.mean(high - low)))
        )
    return computed


def macro_coverage(
    rng: np.random.Generator, design: Design, sets: int, n_resamples: int
) -> list[float]:
    """Return coverage of macro AUPRC and AUROC over the labels that a data set has."""
    c, n = len(MACRO_PREVALENCES), MACRO_PATIENTS
    true = np.array(
        [
            true_values(design, prevalence, area)
            for prevalence, area in zip(MACRO_PREVALENCES, np.resize(MACRO_AREAS, c), strict=True)
        ]
    )
    pools = drawn_patients(rng, n, n_resamples)
    hits = []
    for i in range(sets):
        common, shared = rng.normal(size=(2, n))
        rows = np.repeat(np.arange(n), rng.integers(design.rows[0], design.rows[1] + 1, n))
        columns = []
        for j in range(c):
            has = np.sqrt(0.3) * common + np.sqrt(0.7) * rng.normal(size=n)
            noise = design.noise((shared + rng.normal(size=n)) / np.sqrt(2))
            of_label = has < ndtri(MACRO_PREVALENCES[j])
            columns.append(draw(rng, design, rows, of_label, noise, true[j, 0]))
        targets, scores = (np.stack(part, axis=1) for part in zip(*columns, strict=True))
        values = areas_of(targets, scores, pools[i % N_DRAWN][:, rows])
        classes = patients_of(targets, rows)
        hit = []
        for j, compute in enumerate((macro_auprc_interval, macro_auroc_interval)):
            low, high = compute(values[j, 0], values[j, 1:], *classes, CONFIDENCE)
            hit.append(low <= true[np.isfinite(values[j, 0]), 1 + j].mean() <= high)
        hits.append(hit)
    return [float(share) for share in np.mean(hits, axis=0)]


def draw(
    rng: np.random.Generator,
    design: Design,
    rows: NDArray[np.int64],
    has: NDArray[np.bool_],
    noise: Array,
    shift: float,
) -> tuple[NDArray[np.bool_], Array]:
    """Return which rows have the label, and their scores.

    Args:
        rng: of the draws.
        design: of the data.
        rows: patient of each row.
        has: which patients have the label.
        noise: of the patients, of variance 1.
        shift: by which scores of rows with the label are higher.
    """
    positive = has[rows] & (rng.random(len(rows)) < design.labelled)
    seen = positive & (rng.random(len(has)) >= design.hidden)[rows]
    by_patient = np.sqrt(design.by_patient) * noise[rows]
    return positive, design.rounded(design.scores(rng, by_patient) + shift * seen)


@cache
def true_values(design: Design, prevalence: float, area: float) -> tuple[float, float, float]:
    """Return the shift of scores for this ROC area, and the true AUPRC and AUROC."""
    shift, positives, negatives = _population(design, area)
    n, share = len(positives), prevalence * design.labelled
    cut = np.unique(positives)[::-1]
    true = 1 - np.searchsorted(positives, cut, "left") / n
    false = 1 - np.searchsorted(negatives, cut, "left") / n
    precision = share * true / (share * true + (1 - share) * false)
    auprc = float(np.sum(np.diff(true, prepend=0) * precision))
    return shift, auprc, _area(positives, negatives)


@cache
def _population(design: Design, area: float) -> tuple[float, Array, Array]:
    """Return the shift for an ROC area, and sorted scores of positives and negatives."""
    rng = np.random.default_rng(99)
    noise = np.sqrt(design.by_patient) * design.noise(rng.normal(size=(2, POPULATION)))
    raw, other = (design.scores(rng, one) for one in noise)
    seen = rng.random(POPULATION) >= design.hidden
    negatives = np.sort(design.rounded(other))
    low, high = 0.0, 12.0
    for _ in range(20):
        middle = (low + high) / 2
        enough = _area(design.rounded(raw + middle * seen), negatives) >= area
        low, high = (low, middle) if enough else (middle, high)
    return high, np.sort(design.rounded(raw + high * seen)), negatives


def _area(positives: Array, negatives: Array) -> float:
    """Return the ROC area; negatives are sorted."""
    positives = np.sort(positives)
    ranks = (np.searchsorted(negatives, positives, side).mean() for side in ("left", "right"))
    return float(sum(ranks) / 2 / len(negatives))


def drawn_patients(
    rng: np.random.Generator, n: int, n_resamples: int
) -> Sequence[NDArray[np.int32]]:
    """Return sets of resamples: how often each patient is drawn, (B, n) each."""
    share = np.full(n, 1 / n)
    return [rng.multinomial(n, share, size=n_resamples).astype(np.int32) for _ in range(N_DRAWN)]


def areas_of(positive: NDArray[np.bool_], scores: Array, drawn: NDArray[np.int32]) -> Array:
    """Return AUPRC and AUROC on the sample and on resamples, (2, 1 + B, c)."""
    targets, ranked = positive.astype(np.uint8), scores.astype(np.float32)[None]
    own = average_precision_and_auroc(targets, ranked)
    resampled = resampled_ranking(targets, ranked, drawn)
    return np.array([np.vstack([a, b[0]]) for a, b in zip(own, resampled, strict=True)])


def patients_of(positive: NDArray[np.bool_], rows: NDArray[np.int64]) -> Array:
    """Return patients with a positive and with a negative row of each label, (2, c)."""
    keys = [str(row) for row in rows]
    return np.array([patients_with(positive == one, keys) for one in (True, False)])


if __name__ == "__main__":
    main()
