"""Brier score equals scikit-learn's; the calibration error equals a loop over the bins."""

import numpy as np
from sklearn.metrics import brier_score_loss

from headsweep.metrics.calibration import brier, expected_calibration_error, reliability


def problem() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    probabilities = rng.random((500, 4)).astype(np.float32)
    return (rng.random((500, 4)) < probabilities**2).astype(np.uint8), probabilities


def test_brier_equals_sklearn():
    targets, probabilities = problem()
    exact = probabilities.astype(np.float64)  # scikit-learn would compute in float32
    expected = [brier_score_loss(targets[:, j], exact[:, j]) for j in range(4)]
    np.testing.assert_allclose(brier(targets, probabilities), expected, rtol=0, atol=1e-9)


def test_expected_calibration_error_equals_loop_over_bins():
    targets, probabilities = problem()
    for j in range(4):
        error = 0.0
        for low in range(10):
            inside = (probabilities[:, j] >= low / 10) & (probabilities[:, j] < (low + 1) / 10)
            gap = targets[inside, j].mean() - probabilities[inside, j].mean(dtype=float)
            error += inside.mean() * abs(gap)
        found = expected_calibration_error(targets, probabilities, bins=10)[j]
        np.testing.assert_allclose(found, error, atol=1e-9)


def test_expected_calibration_error_of_calibrated_probabilities_is_zero():
    targets = np.repeat([[1], [0]], 50, axis=0).astype(np.uint8)
    assert expected_calibration_error(targets, targets.astype(np.float32))[0] == 0
    half = np.full((100, 1), 0.5, dtype=np.float32)
    assert expected_calibration_error(targets, half)[0] == 0


def test_reliability_has_nan_in_empty_bins_and_one_in_the_last():
    curve = reliability(
        np.array([0, 1], dtype=np.uint8), np.array([0.0, 1.0], dtype=np.float32), bins=4
    )
    np.testing.assert_array_equal(curve.rows, [1, 0, 0, 1])
    np.testing.assert_array_equal(curve.frequency, [0, np.nan, np.nan, 1])
