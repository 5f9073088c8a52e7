#!/usr/bin/env python3
"""Measure how often 95 % bootstrap intervals of macro AUPRC and AUROC cover the true value.

Test sets are drawn as `headsweep data synth` draws them: CT-RATE's labels, one or two scans a
patient, up to three reconstructions a scan. One logistic regression scores them all; its value on
very many patients is the true value. Intervals are computed on the same sets: the leaderboard's,
from resampled patients; bias-corrected percentiles; the plain percentiles of the same resamples;
and, as in many papers, those of resampled rows.

With `--rare`, single labels that few patients have: coverage of the leaderboard's intervals by the
number of patients with the label, from 2 on, also below the number from which a board gives
intervals; and of the macro means over 18 labels, some of them rare (`--macro` alone measures these
only). One to three rows a patient. `coverage_designs.py` has other distributions and row counts.

Takes about three minutes; with `--rare` and 1,000 sets much longer.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from headsweep.data.ct_rate.names import LABELS, patient_of
from headsweep.data.synthetic.generate import CONTENT_STD, Cohort, sample_cohort
from headsweep.evaluation.areas import MIN_PATIENTS_OF_AREAS, class_patients
from headsweep.evaluation.summaries import CONFIDENCE, RESAMPLING_SEED, mean_patients
from headsweep.metrics.bootstrap import (
    bound_of_perfect,
    interval,
    patient_resamples,
    rarer_class_patients,
    resampled_ranking,
)
from headsweep.metrics.macro_intervals import macro_auroc_interval
from headsweep.metrics.ranking import average_precision_and_auroc, macro
from headsweep.metrics.score_intervals import (
    auprc_intervals,
    auroc_intervals,
    macro_auprc_interval,
)

LATENT = len(CONTENT_STD) + 1 + 2 * len(LABELS)
WIDTH = LATENT
MACRO_INTERVALS = (macro_auprc_interval, macro_auroc_interval)
INTERVALS = ("leaderboard", "bias-corrected percentiles", "percentiles", "percentiles of rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, nargs="+", default=[100, 200, 500])
    parser.add_argument("--sets", type=int, default=400, help="test sets of each size")
    parser.add_argument("--resamples", type=int, default=600)
    parser.add_argument("--rare", action="store_true", help="one label, few patients with it")
    parser.add_argument("--macro", action="store_true", help="only the macro means of --rare")
    options = parser.parse_args()
    if options.rare or options.macro:
        rng = np.random.default_rng(0)
        if options.rare:
            rare(rng, options.sets, options.resamples)
        rare_macros(rng, options.sets, options.resamples)
        return
    rng = np.random.default_rng(0)
    maps = [np.linalg.qr(rng.standard_normal((WIDTH, LATENT)))[0] for _ in range(2)]

    def draw(patients: int) -> Cohort:
        return sample_cohort(rng, "test", 1, patients, maps)

    def resampled(
        targets: NDArray[np.uint8], scores: NDArray[np.float32], keys: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        resamples = patient_resamples(keys, options.resamples, RESAMPLING_SEED)
        return resampled_ranking(targets, scores, resamples)

    train = draw(3000)
    head = OneVsRestClassifier(LogisticRegression(C=10.0, max_iter=1000))
    head.fit(train.image, train.targets)

    def score(cohort: Cohort) -> NDArray[np.float32]:
        return np.asarray(head.predict_proba(cohort.image), dtype=np.float32)[None]

    population = draw(60_000)
    truth = both_macro(average_precision_and_auroc(population.targets, score(population)))[:, 0]
    print(f"truth: AUPRC {truth[0]:.4f}, AUROC {truth[1]:.4f}")
    for patients in options.patients:
        start = time.perf_counter()
        held: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in INTERVALS}
        for _ in range(options.sets):
            cohort = draw(patients)
            targets, scores = cohort.targets, score(cohort)
            keys = [patient_of(volume) for volume in cohort.volumes]
            estimates = both_macro(average_precision_and_auroc(targets, scores))[:, 0]
            rest_on = mean_patients(rarer_class_patients(targets, keys))
            by_label = resampled(targets, scores, keys)
            draws = both_macro(by_label)
            ends = [
                interval(estimate, drawn, rest_on, CONFIDENCE)
                for estimate, drawn in zip(estimates, draws, strict=True)
            ]
            own = average_precision_and_auroc(targets, scores)
            classes = class_patients(targets, keys)
            board = [
                compute(values[0], drawn[0], *classes, CONFIDENCE)
                for compute, values, drawn in zip(MACRO_INTERVALS, own, by_label, strict=True)
            ]
            by_row = both_macro(resampled(targets, scores, cohort.volumes))
            percentiles = (np.nanquantile(d, [0.025, 0.975], axis=1) for d in (draws, by_row))
            for name, (low, high) in zip(
                INTERVALS, (np.array(board).T, np.array(ends).T, *percentiles), strict=True
            ):
                held[name].append((low <= truth) & (truth <= high))
        shares = ", ".join(
            f"{name} AUPRC {np.mean(hits, axis=0)[0]:.3f} AUROC {np.mean(hits, axis=0)[1]:.3f}"
            for name, hits in held.items()
        )
        print(f"{patients} patients: {shares} ({time.perf_counter() - start:.0f} s)", flush=True)


def rare(rng: np.random.Generator, sets: int, resamples: int) -> None:
    """Print coverage of single labels by patients of the rarer class."""
    for fixed in (False, True):
        print(f"{'fixed' if fixed else 'random'} number of patients with the label; {sets} sets")
        for patients in (2, 3, 5, 10, 20):
            for prevalence in PREVALENCES:
                if patients / prevalence > MOST_PATIENTS:
                    continue
                cells = [
                    label_coverage(rng, sets, resamples, patients, prevalence, area, fixed=fixed)
                    for area in LABEL_AREAS
                ]
                for name, column in zip(("AUPRC", "AUROC"), zip(*cells, strict=True), strict=True):
                    shares = " ".join(f"{share:.3f}" for share, _ in column)
                    width = np.mean([width for _, width in column])
                    print(
                        f"  {patients:2d} patients, {prevalence:.0%}, {name}: {shares}"
                        f" (mean width {width:.2f})",
                        flush=True,
                    )


def rare_macros(rng: np.random.Generator, sets: int, resamples: int) -> None:
    """Print coverage of the macro means by patients of the rarer class."""
    for name, areas in MACRO_AREAS.items():
        for patients in (12, 25, 50, 100):
            shares, mean = macro_coverage(rng, sets, resamples, patients, areas)
            print(
                f"macro, {name}, {patients} patients, {mean:.1f} of the rarer class a label: "
                f"AUPRC {shares[0]:.3f} AUROC {shares[1]:.3f}",
                flush=True,
            )


PREVALENCES = (0.02, 0.1, 0.4, 0.8)
MOST_PATIENTS = 500
"""Larger test sets are left out: they take long and behave as those of 10 % do."""
LABEL_AREAS = (0.65, 0.80, 0.92, 0.97)
MACRO_AREAS = {
    "areas 0.65 to 0.97": (0.65, 0.80, 0.92, 0.75, 0.97, 0.85),
    "areas 0.92 to 0.97": (0.95, 0.97, 0.92),
}
N_LABELS = 18
ROW_SD, PATIENT_SD = np.sqrt(0.4), np.sqrt(0.6)
SHARED_SD, OWN_SD = np.sqrt(0.3), np.sqrt(0.3)
N_DRAWN = 10
"""Sets of resamples that the data sets take in turn; patients are exchangeable."""


def label_coverage(
    rng: np.random.Generator,
    sets: int,
    n_resamples: int,
    patients: int,
    prevalence: float,
    area: float,
    *,
    fixed: bool,
) -> list[tuple[float, float]]:
    """Return the share of covering intervals and their mean width, of AUPRC and AUROC.

    Data sets with fewer of the rarer class than `patients` or `MIN_PATIENTS_OF_AREAS`, whichever
    is less, have no interval and are drawn again.
    """
    shift = np.sqrt(2) * ndtri(area)
    n = round(patients / min(prevalence, 1 - prevalence))
    pools = drawn_patients(rng, n, n_resamples)
    found, has_label = [], []
    while len(found) < sets:
        has = np.arange(n) < (round(n * prevalence) if fixed else rng.binomial(n, prevalence))
        if min(has.sum(), (~has).sum()) < min(patients, MIN_PATIENTS_OF_AREAS):
            continue
        rows = np.repeat(np.arange(n), rng.integers(1, 4, n))
        scores = shift * has[rows] + PATIENT_SD * rng.normal(size=n)[rows]
        scores += ROW_SD * rng.normal(size=len(rows))
        found.append(areas_of(has[rows], scores, rows, pools[len(found) % N_DRAWN]))
        has_label.append(has.sum())
    values = np.array(found)  # (sets, 2, 1 + B)
    positives = np.array(has_label, dtype=np.float64)
    truth = (true_precision(prevalence, shift), area)
    least = np.minimum(positives, n - positives)
    computed = []
    for j, compute in enumerate((auprc_intervals, auroc_intervals)):
        own = values[:, j, 0]
        ends = compute(own, values[:, j, 1:].T, positives, n - positives, CONFIDENCE)
        exact = bound_of_perfect(own, least, CONFIDENCE)
        low, high = (np.where(np.isfinite(e), e, end) for e, end in zip(exact, ends, strict=True))
        hits = (low <= truth[j]) & (truth[j] <= high)
        computed.append((float(hits.mean()), float((high - low).mean())))
    return computed


def macro_coverage(
    rng: np.random.Generator, sets: int, n_resamples: int, n: int, areas: Sequence[float]
) -> tuple[NDArray[np.float64], float]:
    """Return coverage of macro AUPRC and AUROC over 18 labels that 2 to 40 % of patients have.

    The true value is the mean over the labels that the data set has.
    """
    prevalence, of_label = np.geomspace(0.02, 0.4, N_LABELS), np.resize(areas, N_LABELS)
    shift = np.sqrt(2) * ndtri(of_label)
    precision = [true_precision(*pair) for pair in zip(prevalence, shift, strict=True)]
    truth = np.array([precision, of_label])
    pools = drawn_patients(rng, n, n_resamples)
    hits, rest_on = [], []
    for i in range(sets):
        shared = rng.normal(size=(2, n))
        has = np.sqrt(0.3) * shared[0] + np.sqrt(0.7) * rng.normal(size=(N_LABELS, n))
        has = has < ndtri(prevalence)[:, None]
        rows = np.repeat(np.arange(n), rng.integers(1, 4, n))
        values = np.full((2, N_LABELS, 1 + n_resamples), np.nan)
        for j in np.flatnonzero(has.any(axis=1) & ~has.all(axis=1)):
            scores = shift[j] * has[j, rows] + SHARED_SD * shared[1, rows]
            scores += OWN_SD * rng.normal(size=n)[rows] + ROW_SD * rng.normal(size=len(rows))
            values[:, j] = areas_of(has[j, rows], scores, rows, pools[i % N_DRAWN])
        used = np.isfinite(values[0, :, 0])
        values, positives = values[:, used], has[used].sum(axis=1).astype(np.float64)
        mean = np.minimum(positives, n - positives).mean()
        ends = [
            compute(one[:, 0], one[:, 1:].T, positives, n - positives, CONFIDENCE)
            for compute, one in zip(MACRO_INTERVALS, values, strict=True)
        ]
        true = truth[:, used].mean(axis=1)
        hits.append([low <= t <= high for (low, high), t in zip(ends, true, strict=True)])
        rest_on.append(mean)
    return np.mean(hits, axis=0), float(np.mean(rest_on))


def drawn_patients(rng: np.random.Generator, n: int, resamples: int) -> list[NDArray[np.float32]]:
    """Return how often each patient is drawn, (n, 1 + B); the first column is the sample."""
    sample = np.ones((n, 1))
    drawn = [rng.multinomial(n, np.full(n, 1 / n), size=resamples).T for _ in range(N_DRAWN)]
    return [np.concatenate([sample, one], axis=1).astype(np.float32) for one in drawn]


def areas_of(
    positive: NDArray[np.bool_],
    scores: NDArray[np.float64],
    patients: NDArray[np.int64],
    drawn: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Return AUPRC and AUROC of scores without ties, (2, 1 + B); NaN where undefined."""
    order = np.argsort(-scores)
    positive, patients = positive[order], patients[order]
    last = np.flatnonzero(positive)[-1] + 1
    called = np.cumsum(drawn[patients[:last]], axis=0)[positive[:last]]
    gained = drawn[patients[positive]]
    true = np.cumsum(gained, axis=0)
    negatives = drawn[patients[~positive]].sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = (gained * (true / np.maximum(called, 1))).sum(axis=0) / true[-1]
        area = 1 - (gained * (called - true)).sum(axis=0) / (true[-1] * negatives)
    return np.stack([np.where(negatives > 0, precision, np.nan), area]).astype(np.float64)


def true_precision(prevalence: float, shift: float) -> float:
    """Return the average precision of normal scores, those of positives higher by `shift`."""
    at = np.linspace(0, 1, 20_001)[1:-1]
    negative = ndtr(-shift - ndtri(1 - at))
    return float(np.mean(prevalence * at / (prevalence * at + (1 - prevalence) * negative)))


def both_macro(values: tuple[NDArray[np.float64], NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return macro AUPRC and AUROC, `(2, number of draws)`."""
    return np.stack([macro(metric).ravel() for metric in values])


if __name__ == "__main__":
    main()
