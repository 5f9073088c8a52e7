"""DeLong's test equals a direct computation, and keeps its level with several rows per patient."""

import math

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student_t
from sklearn.metrics import roc_auc_score

from headsweep.metrics.delong import components, delong_p_value


def problem(n: int = 80, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.4
    scores = np.round(positive + rng.normal(size=(2, n)), 1).astype(np.float32)
    return positive, scores


def by_definition(positive: np.ndarray, scores: np.ndarray, *, student: bool) -> float:
    """Return the p-value from the kernel of all pairs (DeLong et al. 1988, eq. 4-7).

    Student's distribution has the degrees of freedom of Welch and Satterthwaite.
    """
    x, y = scores[:, positive], scores[:, ~positive]
    kernel = (x[:, :, None] > y[:, None, :]) + 0.5 * (x[:, :, None] == y[:, None, :])
    by_positive, by_negative = kernel.mean(axis=2), kernel.mean(axis=1)
    covariance = np.cov(by_positive) / x.shape[1] + np.cov(by_negative) / y.shape[1]
    area = kernel.mean(axis=(1, 2))
    contrast = np.array([1, -1])
    z = contrast @ area / math.sqrt(contrast @ covariance @ contrast)
    if not student:
        return float(2 * norm.sf(abs(z)))
    parts = [np.var(contrast @ k, ddof=1) / k.shape[1] for k in (by_positive, by_negative)]
    sizes = [k.shape[1] - 1 for k in (by_positive, by_negative)]
    freedom = sum(parts) ** 2 / sum(v**2 / n for v, n in zip(parts, sizes, strict=True))
    return float(2 * student_t.sf(abs(z), freedom))


def degrees_of_freedom(rows: np.ndarray) -> float:
    """Return those of the variance between patients, from its matrix (Bell & McCaffrey 2002)."""
    residual = np.eye(len(rows)) - np.outer(np.ones(len(rows)), rows / rows.sum())
    form = residual.T @ np.diag(rows**2) @ residual
    return float(np.trace(form) ** 2 / np.trace(form @ form))


@pytest.mark.parametrize("seed", range(5))
def test_delong_with_one_row_per_patient_equals_definition(seed):
    positive, scores = problem(seed=seed)
    one, other = (components(positive, score[None]) for score in scores)
    for few in (True, False):
        p = delong_p_value(positive, [str(i) for i in range(80)], one, other, few_patients=few)
        assert p == pytest.approx(by_definition(positive, scores, student=few), abs=1e-12)


def test_components_of_several_seeds_equal_the_mean_of_those_of_each():
    positive, scores = problem()
    alone = np.mean([components(positive, score[None]).of_row for score in scores], axis=0)
    np.testing.assert_array_equal(components(positive, scores).of_row, alone)


def test_components_area_equals_mean_auroc_over_seeds():
    positive, scores = problem()
    expected = np.mean([roc_auc_score(positive, score) for score in scores])
    assert components(positive, scores).area == pytest.approx(expected)


def test_delong_with_every_row_repeated_has_same_p_value():
    positive, scores = problem(60)
    patients = [str(i) for i in range(60)]
    once = [components(positive, score[None]) for score in scores]
    twice = [components(np.tile(positive, 2), np.tile(score, 2)[None]) for score in scores]
    p = delong_p_value(positive, patients, *once)
    assert delong_p_value(np.tile(positive, 2), patients * 2, *twice) == pytest.approx(p)


def test_delong_of_model_with_itself_has_no_p_value():
    positive, scores = problem()
    same = components(positive, scores[:1])
    assert math.isnan(delong_p_value(positive, [str(i) for i in range(80)], same, same))


def test_delong_of_equal_models_rejects_one_in_twenty():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(600):
        patient = np.repeat(np.arange(70), 3)
        positive = (rng.random(70) < 0.4)[patient]
        shared = rng.normal(size=(2, 70))[:, patient]
        scores = (positive + shared + 0.5 * rng.normal(size=(2, 210))).astype(np.float32)
        one, other = (components(positive, score[None]) for score in scores)
        found.append(delong_p_value(positive, patient.astype(str).tolist(), one, other) <= 0.05)
    assert 0.03 <= np.mean(found) <= 0.075


def test_delong_with_both_classes_in_a_patient_includes_covariance():
    """The expected value is the variance of clustered data (Obuchowski 1997, Biometrics 53(2))."""
    positive, scores = problem(60, seed=3)
    patient = np.arange(60) // 3
    one, other = (components(positive, score[None]) for score in scores)
    theta = one.area - other.area
    share = one.of_row - other.of_row
    sums, rows = np.zeros((2, 20)), np.zeros((2, 20))
    for key, row in enumerate(share):
        of_class = 0 if positive[key] else 1
        sums[of_class, patient[key]] += row
        rows[of_class, patient[key]] += 1
    held, size = (rows > 0).sum(axis=1), rows.sum(axis=1)
    centred = sums - rows * theta
    own = [held[c] / ((held[c] - 1) * size[c]) * (centred[c] ** 2).sum() for c in (0, 1)]
    both = 20 / 19 * (centred[0] * centred[1]).sum()
    variance = own[0] / size[0] + own[1] / size[1] + 2 * both / (size[0] * size[1])
    z = abs(theta) / math.sqrt(variance)
    parts = own / size
    degrees = [degrees_of_freedom(count[count > 0]) for count in rows]
    freedom = sum(parts) ** 2 / sum(parts**2 / degrees)
    keys = [str(key) for key in patient]
    assert delong_p_value(positive, keys, one, other) == pytest.approx(
        2 * student_t.sf(z, freedom), abs=1e-12
    )
    assert delong_p_value(positive, keys, one, other, few_patients=False) == pytest.approx(
        2 * norm.sf(z), abs=1e-12
    )


@pytest.mark.parametrize("patients", [15, 30, 150])
def test_delong_of_equal_models_on_few_patients_rejects_one_in_twenty(patients):
    """With 15 patients of up to 30 rows, the normal distribution would reject 7 to 9 %."""
    rng = np.random.default_rng(1)
    rejected, by_normal = [], []
    for _ in range(1000):
        patient = np.repeat(np.arange(patients), np.minimum(1 + rng.geometric(0.3, patients), 30))
        positive = (rng.random(patients) < 0.4)[patient]
        shared = rng.normal(size=(2, patients))[:, patient]
        scores = (positive + shared + 0.5 * rng.normal(size=shared.shape)).astype(np.float32)
        if positive.all() or not positive.any():
            continue
        parts = [components(positive, score[None]) for score in scores]
        keys = patient.astype(str).tolist()
        p = delong_p_value(positive, keys, *parts)
        if not math.isnan(p):
            rejected.append(p <= 0.05)
            p = delong_p_value(positive, keys, *parts, few_patients=False)
            by_normal.append(p <= 0.05)
    assert 0.02 <= np.mean(rejected) <= 0.064
    assert np.mean(by_normal) >= np.mean(rejected)
    if patients == 15:
        assert np.mean(by_normal) > 0.064


def test_delong_with_four_patients_of_a_class_has_no_p_value():
    positive, scores = problem(60)
    patients = [f"same {i % 4}" if own else str(i) for i, own in enumerate(positive)]
    one, other = (components(positive, score[None]) for score in scores)
    assert math.isnan(delong_p_value(positive, patients, one, other))
