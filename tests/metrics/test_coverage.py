"""Bootstrap intervals over patients contain the true value at their nominal rate.

`scripts/benchmarks/coverage.py` measures this with all labels and more sizes (docs/benchmarks.md).
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr

from headsweep.data.ct_rate.names import LABELS, patient_of
from headsweep.data.synthetic.generate import CONTENT_STD, Cohort, sample_cohort
from headsweep.evaluation.summaries import (
    CONFIDENCE,
    MIN_PATIENTS,
    Summary,
    mean_patients,
    summarize_labels,
)
from headsweep.metrics.bootstrap import (
    interval,
    patient_resamples,
    rarer_class_patients,
    resampled_ranking,
)
from headsweep.metrics.ranking import average_precision_and_auroc, macro

pytestmark = pytest.mark.slow

TRUE_AUROC = float(ndtr(2.0 / np.sqrt(2)))
DATA_SETS, PATIENTS, RESAMPLES = 400, 150, 600
CHOSEN = np.arange(0, len(LABELS), 3)
"""Every third label; prevalences from 8 to 45 %."""


class Population:
    """Patients as `headsweep data synth` draws them, scored by one linear head."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        width = len(CONTENT_STD) + 1 + 2 * len(LABELS)
        self.maps = [np.linalg.qr(self.rng.normal(size=(width, width)))[0] for _ in range(2)]
        train = self._cohort(2000)
        self.head = np.linalg.lstsq(train.image, train.targets[:, CHOSEN] - 0.3, rcond=None)[0]

    def draw(self, patients: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Return targets (n, c), scores (1, n, c) and the patient of each row."""
        cohort = self._cohort(patients)
        scores = (cohort.image @ self.head).astype(np.float32)[None]
        keys = [patient_of(volume) for volume in cohort.volumes]
        return cohort.targets[:, CHOSEN], scores, keys

    def _cohort(self, patients: int) -> Cohort:
        return sample_cohort(self.rng, "test", 1, patients, self.maps)


def both_macro(values: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return macro AUPRC and AUROC of one slot, (2,) or (2, B)."""
    return np.stack([macro(metric[0]) for metric in values])


@pytest.fixture(scope="module")
def coverage() -> dict[str, np.ndarray]:
    """Share of data sets whose interval contains the true macro AUPRC and AUROC."""
    population = Population(0)
    targets, scores, _ = population.draw(60_000)
    truth = both_macro(average_precision_and_auroc(targets, scores))
    covered: dict[str, list[np.ndarray]] = {"patients": [], "rows": []}
    for seed in range(DATA_SETS):
        targets, scores, patients = population.draw(PATIENTS)
        estimates = both_macro(average_precision_and_auroc(targets, scores))
        for unit, keys in (("patients", patients), ("rows", list(map(str, range(len(patients)))))):
            resamples = patient_resamples(keys, RESAMPLES, seed)
            draws = both_macro(resampled_ranking(targets, scores, resamples))
            rest_on = mean_patients(rarer_class_patients(targets, keys))
            ends = [
                interval(estimate, drawn, rest_on, CONFIDENCE)
                for estimate, drawn in zip(estimates, draws, strict=True)
            ]
            low, high = np.array(ends).T
            covered[unit].append((low <= truth) & (truth <= high))
    return {unit: np.mean(hits, axis=0) for unit, hits in covered.items()}


def test_interval_from_resampled_patients_has_nominal_coverage(coverage):
    assert (coverage["patients"] >= 0.93).all(), coverage
    assert (coverage["patients"] <= 0.97).all(), coverage


def test_interval_from_resampled_rows_has_too_low_coverage(coverage):
    assert (coverage["rows"] < 0.90).all(), coverage


@pytest.mark.parametrize(("patients", "least", "most"), [(2, 0.5, 0.8), (12, 0.93, 0.99)])
def test_auroc_interval_of_rare_label_has_coverage_from_min_patients_on(patients, least, most):
    """With 2 patients of the rarer class coverage is too low, so leaderboards omit the interval."""
    rng = np.random.default_rng(0)
    hits = []
    for seed in range(300):
        has = np.arange(200) < patients
        scores = (2.0 * has + rng.normal(size=200)).astype(np.float32)
        targets, keys = has.astype(np.uint8)[:, None], [str(i) for i in range(200)]
        estimate = average_precision_and_auroc(targets, scores[None, :, None])[1].item()
        draws = resampled_ranking(
            targets, scores[None, :, None], patient_resamples(keys, 400, seed)
        )[1][0, :, 0]
        if patients < MIN_PATIENTS:
            low, high = interval(estimate, draws, patients, CONFIDENCE)
        else:
            summary = label_summary(estimate, draws, patients)
            low, high = summary["ci_low"], summary["ci_high"]
        hits.append(low <= TRUE_AUROC <= high)
    assert least <= np.mean(hits) <= most
    shown = label_summary(estimate, draws, patients)
    assert (shown["ci_low"] is None) == (patients < MIN_PATIENTS)


def label_summary(estimate: float, draws: np.ndarray, patients: int) -> Summary:
    """Return the summary of one label as on a leaderboard."""
    (summary,) = summarize_labels(
        np.array([[estimate]]), draws[:, None], np.array([float(patients)]), area=True
    )
    return summary
