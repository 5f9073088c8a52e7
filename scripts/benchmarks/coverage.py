#!/usr/bin/env python3
"""Measure how often 95 % bootstrap intervals of macro AUPRC and AUROC cover the true value.

Test sets are drawn as `headsweep data synth` draws them: CT-RATE's labels, one or two scans a
patient, up to three reconstructions a scan. One logistic regression scores them all; its value on
very many patients is the true value. Three intervals are computed on the same sets: the
leaderboard's, from resampled patients; the plain percentiles of the same resamples; and, as in many
papers, the plain percentiles of resampled rows.

With `--rare`, a single label that few patients have: coverage of the leaderboard's interval by the
number of patients with it, from 2 on, also below the number from which a board gives intervals.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from headsweep.data.ct_rate.names import LABELS, patient_of
from headsweep.data.synthetic.generate import CONTENT_STD, Cohort, sample_cohort
from headsweep.evaluation.summaries import CONFIDENCE, RESAMPLING_SEED, mean_patients
from headsweep.metrics.bootstrap import (
    interval,
    patient_resamples,
    rarer_class_patients,
    resampled_ranking,
)
from headsweep.metrics.ranking import average_precision_and_auroc, macro

LATENT = len(CONTENT_STD) + 1 + 2 * len(LABELS)
WIDTH = LATENT
INTERVALS = ("leaderboard", "percentiles", "percentiles of rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, nargs="+", default=[100, 200, 500])
    parser.add_argument("--sets", type=int, default=400, help="test sets of each size")
    parser.add_argument("--resamples", type=int, default=600)
    parser.add_argument("--rare", action="store_true", help="one label, few patients with it")
    options = parser.parse_args()
    if options.rare:
        rare(options.sets, options.resamples)
        return
    rng = np.random.default_rng(0)
    maps = [np.linalg.qr(rng.standard_normal((WIDTH, LATENT)))[0] for _ in range(2)]

    def draw(patients: int) -> Cohort:
        return sample_cohort(rng, "test", 1, patients, maps)

    def resampled(
        targets: NDArray[np.uint8], scores: NDArray[np.float32], keys: Sequence[str]
    ) -> NDArray[np.float64]:
        resamples = patient_resamples(keys, options.resamples, RESAMPLING_SEED)
        return both_macro(resampled_ranking(targets, scores, resamples))

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
            draws = resampled(targets, scores, keys)
            ends = [
                interval(estimate, drawn, rest_on, CONFIDENCE)
                for estimate, drawn in zip(estimates, draws, strict=True)
            ]
            by_row = resampled(targets, scores, cohort.volumes)
            percentiles = (np.nanquantile(d, [0.025, 0.975], axis=1) for d in (draws, by_row))
            for name, (low, high) in zip(INTERVALS, (np.array(ends).T, *percentiles), strict=True):
                held[name].append((low <= truth) & (truth <= high))
        shares = ", ".join(
            f"{name} AUPRC {np.mean(hits, axis=0)[0]:.3f} AUROC {np.mean(hits, axis=0)[1]:.3f}"
            for name, hits in held.items()
        )
        print(f"{patients} patients: {shares} ({time.perf_counter() - start:.0f} s)", flush=True)


def rare(sets: int, resamples: int) -> None:
    """Print coverage by AUROC and by number of patients who have the label."""
    rng = np.random.default_rng(0)
    for shift in (0.5, 1.2, 2.0):
        held: dict[str, list[tuple[bool, bool]]] = {}
        for expected in (3, 5, 8, 12, 20):
            targets, scores, _ = one_label(rng, 150_000, expected / 60, shift)
            truth = both_macro(average_precision_and_auroc(targets, scores))[:, 0]
            for seed in range(sets):
                targets, scores, patients = one_label(rng, 60, expected / 60, shift)
                (count,) = rarer_class_patients(targets, patients)
                if count < 2:
                    continue
                drawn = resampled_ranking(
                    targets, scores, patient_resamples(patients, resamples, seed)
                )
                estimates = both_macro(average_precision_and_auroc(targets, scores))[:, 0]
                hits = []
                for value, draws, true in zip(estimates, both_macro(drawn), truth, strict=True):
                    low, high = interval(value, draws, count, CONFIDENCE)
                    hits.append(bool(low <= true <= high))
                group = next(name for least, name in COUNTS if count >= least)
                held.setdefault(group, []).append((hits[0], hits[1]))
        print(f"AUROC {truth[1]:.2f}, {sets} sets of 60 patients for each mean number:")
        for _, name in reversed(COUNTS):
            shares = np.mean(held[name], axis=0)
            print(f"  {name} patients: AUPRC {shares[0]:.3f} AUROC {shares[1]:.3f}", flush=True)


COUNTS = ((20, "20 or more"), (10, "10 to 19"), (5, "5 to 9"), (4, "4"), (3, "3"), (2, "2"))


def one_label(
    rng: np.random.Generator, patients: int, prevalence: float, shift: float
) -> tuple[NDArray[np.uint8], NDArray[np.float32], list[str]]:
    """Return targets (n, 1), scores (1, n, 1) and patients; one to three rows per patient."""
    patient = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    has = (rng.random(patients) < prevalence)[patient]
    noise = np.sqrt(0.6) * rng.normal(size=patients)[patient]
    noise += np.sqrt(0.4) * rng.normal(size=len(patient))
    scores = (shift * has + noise).astype(np.float32)
    return has.astype(np.uint8)[:, None], scores[None, :, None], patient.astype(str).tolist()


def both_macro(values: tuple[NDArray[np.float64], NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return macro AUPRC and AUROC, `(2, number of draws)`."""
    return np.stack([macro(metric).ravel() for metric in values])


if __name__ == "__main__":
    main()
