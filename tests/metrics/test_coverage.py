"""Bootstrap intervals cover the truth as often as they say, when patients are resampled."""

import numpy as np
import pytest

from headsweep.metrics.bootstrap import patient_resamples, resampled_ranking
from headsweep.metrics.ranking import average_precision_and_auroc, macro

PATIENTS, LABELS, DATA_SETS, RESAMPLES = 500, 4, 400, 250


def draw(rng: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, scores (1, n, c) and patients: one to three rows each that go mostly together."""
    patient = np.repeat(np.arange(patients), rng.integers(1, 4, size=patients))
    targets = (rng.normal(size=(patients, LABELS)) > [0.9, 0.6, 0.3, 0.0])[patient]
    shared = np.sqrt(0.7) * rng.normal(size=(patients, LABELS))[patient]
    noise = np.sqrt(0.3) * rng.normal(size=targets.shape)
    scores = (targets + shared + noise).astype(np.float32)
    return targets.astype(np.uint8), scores[None], patient


def both_macro(values: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return np.stack([macro(metric[0]) for metric in values])


@pytest.fixture(scope="module")
def coverage() -> dict[str, np.ndarray]:
    """Share of data sets whose 95 % interval holds the truth, macro AUPRC and AUROC."""
    rng = np.random.default_rng(0)
    targets, scores, _ = draw(rng, 200_000)
    truth = both_macro(average_precision_and_auroc(targets, scores))
    covered: dict[str, list[np.ndarray]] = {"patients": [], "rows": []}
    for seed in range(DATA_SETS):
        targets, scores, patient = draw(rng, PATIENTS)
        for unit, keys in (("patients", patient), ("rows", np.arange(len(patient)))):
            resamples = patient_resamples(keys.astype(str).tolist(), RESAMPLES, seed)
            draws = both_macro(resampled_ranking(targets, scores, resamples))
            low, high = np.quantile(draws, [0.025, 0.975], axis=1)
            covered[unit].append((low <= truth) & (truth <= high))
    return {unit: np.mean(hits, axis=0) for unit, hits in covered.items()}


def test_resampling_patients_covers_as_often_as_it_says(coverage):
    assert (coverage["patients"] >= 0.93).all()
    assert (coverage["patients"] <= 0.97).all()


def test_resampling_rows_falls_short_on_the_same_data(coverage):
    assert (coverage["rows"] < 0.90).all()
