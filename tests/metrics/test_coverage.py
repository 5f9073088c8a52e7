"""Bootstrap intervals over patients contain the true value at their nominal rate.

`scripts/benchmarks/coverage.py` measures this with all labels and more sizes
(`docs/benchmarks/intervals.md`).
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from headsweep.data.ct_rate.names import LABELS, patient_of
from headsweep.data.synthetic.generate import CONTENT_STD, Cohort, sample_cohort
from headsweep.evaluation.areas import class_patients
from headsweep.evaluation.summaries import CONFIDENCE, mean_patients
from headsweep.metrics.bootstrap import (
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

pytestmark = pytest.mark.slow

TRUE_AUROC = float(ndtr(2.0 / np.sqrt(2)))
DATA_SETS, PATIENTS, RESAMPLES = 400, 150, 200
SETS_BY_ROW = 150
CHOSEN = np.arange(0, len(LABELS), 3)
"""Every third label; prevalences from 8 to 45 %."""
MACRO_INTERVALS = (macro_auprc_interval, macro_auroc_interval)


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


def holds(ends: list[tuple[float, float]], truth: np.ndarray) -> np.ndarray:
    """Return which intervals contain the true value, (2,)."""
    low, high = np.array(ends).T
    return (low <= truth) & (truth <= high)


@pytest.fixture(scope="module")
def coverage() -> dict[str, np.ndarray]:
    """Share of data sets whose interval contains the true macro AUPRC and AUROC."""
    population = Population(0)
    targets, scores, _ = population.draw(40_000)
    truth = both_macro(average_precision_and_auroc(targets, scores))
    covered: dict[str, list[np.ndarray]] = {"patients": [], "rows": []}
    for seed in range(DATA_SETS):
        targets, scores, patients = population.draw(PATIENTS)
        own = average_precision_and_auroc(targets, scores)
        drawn = resampled_ranking(targets, scores, patient_resamples(patients, RESAMPLES, seed))
        classes = class_patients(targets, patients)
        ends = [
            compute(values[0], draws[0], *classes, CONFIDENCE)
            for compute, values, draws in zip(MACRO_INTERVALS, own, drawn, strict=True)
        ]
        covered["patients"].append(holds(ends, truth))
        if seed < SETS_BY_ROW:
            rows = [str(i) for i in range(len(patients))]
            draws = resampled_ranking(targets, scores, patient_resamples(rows, RESAMPLES, seed))
            rest_on = mean_patients(rarer_class_patients(targets, rows))
            ends = [
                interval(estimate, one, rest_on, CONFIDENCE)
                for estimate, one in zip(both_macro(own), both_macro(draws), strict=True)
            ]
            covered["rows"].append(holds(ends, truth))
    return {unit: np.mean(hits, axis=0) for unit, hits in covered.items()}


def test_interval_from_resampled_patients_has_nominal_coverage(coverage):
    assert (coverage["patients"] >= 0.93).all(), coverage
    assert (coverage["patients"] <= 0.97).all(), coverage


def test_interval_from_resampled_rows_has_too_low_coverage(coverage):
    assert (coverage["rows"] < 0.90).all(), coverage


@pytest.mark.parametrize(("patients", "least", "most"), [(5, 0.93, 0.985), (12, 0.93, 0.985)])
def test_area_intervals_of_a_rare_label_have_nominal_coverage(patients, least, most):
    """The number of patients with the label is random; one row a patient."""
    rng = np.random.default_rng(0)
    truth = (true_precision(patients / 100), TRUE_AUROC)
    found, positives = [], []
    keys = [str(i) for i in range(100)]
    while len(found) < 300:
        has = rng.random(100) < patients / 100
        if has.sum() < 3:
            continue
        scores = (2.0 * has + rng.normal(size=100)).astype(np.float32)[None, :, None]
        targets = has.astype(np.uint8)[:, None]
        estimates = average_precision_and_auroc(targets, scores)
        draws = resampled_ranking(targets, scores, patient_resamples(keys, 200, len(found)))
        found.append([np.append(e, d) for e, d in zip(estimates, draws, strict=True)])
        positives.append(float(has.sum()))
    values, p = np.array(found), np.array(positives)
    for j, compute in enumerate((auprc_intervals, auroc_intervals)):
        low, high = compute(values[:, j, 0], values[:, j, 1:].T, p, 100 - p, CONFIDENCE)
        assert least <= np.mean((low <= truth[j]) & (truth[j] <= high)) <= most


def test_macro_auroc_interval_covers_where_labels_rest_on_few_patients():
    """Nine labels that 1.5 % of 100 patients have, and nine that 30 % have."""
    rng = np.random.default_rng(1)
    prevalences = np.repeat([0.015, 0.3], 9)
    shift = np.sqrt(2) * ndtri(np.resize([0.65, 0.80, 0.92, 0.75, 0.97, 0.85], 18))
    keys = [str(i) for i in range(100)]
    hits = {"score": [], "percentiles": []}
    for seed in range(300):
        has = rng.random((100, 18)) < prevalences
        noise = rng.normal(size=(100, 1)) + rng.normal(size=(100, 18))
        scores = (shift * has + noise / np.sqrt(2)).astype(np.float32)[None]
        targets = has.astype(np.uint8)
        own = average_precision_and_auroc(targets, scores)[1]
        draws = resampled_ranking(targets, scores, patient_resamples(keys, 100, seed))[1]
        truth = ndtr(shift[np.isfinite(own[0])] / np.sqrt(2)).mean()
        classes = class_patients(targets, keys)
        rest_on = mean_patients(np.minimum(*classes))
        ends = {
            "score": macro_auroc_interval(own[0], draws[0], *classes, CONFIDENCE),
            "percentiles": interval(macro(own)[0], macro(draws)[0], rest_on, CONFIDENCE),
        }
        for name, (low, high) in ends.items():
            hits[name].append(low <= truth <= high)
    shares = {name: np.mean(found) for name, found in hits.items()}
    assert 0.92 <= shares["score"] <= 0.985, shares
    assert shares["percentiles"] < 0.90, shares


def true_precision(prevalence: float) -> float:
    """Return the average precision of infinitely many such rows."""
    share = np.linspace(0, 1, 20_001)[1:-1]
    false = ndtr(-2.0 - ndtri(1 - share))
    return float(np.mean(prevalence * share / (prevalence * share + (1 - prevalence) * false)))
