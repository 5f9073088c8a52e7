"""Feature health on synthetic matrices whose rank, cosine and outliers are known."""

import numpy as np
import pytest

from headsweep.data.health import LEAST_ROWS, SAMPLED_ROWS, feature_health
from headsweep.data.validation import check
from tests.helpers.data_sets import config_of, write_feature, write_split

N, WIDTH = 600, 64


def normal(n=N, width=WIDTH, seed=0):
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)


def health(matrix, patients=None):
    return feature_health(matrix, range(len(matrix)) if patients is None else patients)


def of_rank(k, width=WIDTH):
    """Rows with exactly k equal variances: columns of an orthonormal matrix, centred."""
    rng = np.random.default_rng(0)
    left = rng.standard_normal((N, k))
    left, _ = np.linalg.qr(left - left.mean(axis=0))
    right, _ = np.linalg.qr(rng.standard_normal((width, k)))
    return (left @ right.T).astype(np.float32)


@pytest.mark.parametrize("k", [1, 4, 20])
def test_effective_rank_of_k_equal_components_is_k(k):
    found = health(of_rank(k))
    assert found.effective_rank == pytest.approx(k, rel=1e-3)
    assert found.possible_rank == WIDTH


def test_effective_rank_equals_entropy_of_sklearn_variance_ratios():
    from sklearn.decomposition import PCA

    matrix = normal() * np.linspace(0.1, 3, WIDTH)
    shares = PCA().fit(matrix).explained_variance_ratio_
    assert health(matrix).effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


@pytest.mark.parametrize("offset", [0.0, 0.5, 3.0])
def test_mean_cosine_equals_sklearn(offset):
    from sklearn.metrics.pairwise import cosine_similarity

    matrix = normal() + np.float32(offset)
    pairs = cosine_similarity(matrix)[~np.eye(N, dtype=bool)]
    assert health(matrix).mean_cosine == pytest.approx(pairs.mean(), abs=1e-6)


@pytest.mark.parametrize("copies", [0, 60])
def test_near_duplicates_when_rows_are_copied_counts_them(copies):
    matrix = normal()
    matrix[:copies] = matrix[N - copies :] + 1e-3 * normal(copies, seed=1)
    assert health(matrix).near_duplicates == pytest.approx(2 * copies / N)


def test_near_duplicates_of_one_patient_are_not_counted():
    matrix = normal()
    matrix[0::2] = matrix[1::2]
    assert health(matrix, np.arange(N) // 2).near_duplicates == 0
    assert health(matrix).near_duplicates == 1


def test_near_duplicates_of_a_large_matrix_are_estimated():
    n = 3 * SAMPLED_ROWS
    matrix = normal(n, 8)
    matrix[: n // 5] = matrix[n - n // 5 :]
    assert health(matrix).near_duplicates == pytest.approx(0.4, abs=0.03)


def test_outliers_when_two_rows_are_changed_are_those_rows():
    matrix = normal() + 5
    matrix[7] *= 4
    matrix[11] = 0
    found = health(matrix)
    assert found.norm_outliers == (7, 11)
    assert found.distance_outliers == (7, 11)


def test_outliers_when_all_norms_are_one_are_detected_by_distance():
    matrix = normal() + 5
    matrix[3] = -matrix[3]
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    found = health(matrix)
    assert found.norm_outliers == ()
    assert found.distance_outliers == (3,)


def test_constant_columns_when_two_are_set_are_those_columns():
    matrix = normal()
    matrix[:, [2, 9]] = (0.0, 3.5)
    assert health(matrix).constant_columns == (2, 9)


def test_feature_health_of_normal_features_reports_no_problem():
    found = health(normal(5000, 32))
    assert found.norm_outliers == found.distance_outliers == found.constant_columns == ()
    assert found.near_duplicates == 0
    assert found.mean_cosine == pytest.approx(0, abs=0.01)


def write_features(root, matrix):
    volumes = [f"train_{i}_a_1" for i in range(len(matrix))]
    write_split(root, "train", {v: (i % 2, 1 - i % 2) for i, v in enumerate(volumes)})
    for volume, row in zip(volumes, matrix, strict=True):
        write_feature(root, f"image/{volume}.npz", row)
    return check(config_of(root, {"data.val_manifest": None, "data.test_manifests": []}))


def test_check_of_healthy_features_returns_no_faults(tmp_path):
    assert write_features(tmp_path, normal(100)) == []


def test_check_of_unhealthy_features_warns_with_numbers_and_rows(tmp_path):
    matrix = of_rank(3, 128)[:200] + np.float32(1)
    matrix[10] *= 50
    matrix[:, 5] = 2
    matrix[20] = matrix[30]
    matrix[40] = matrix[50]
    faults = write_features(tmp_path, matrix)
    assert {fault.severity for fault in faults} == {"warning"}
    text = "\n".join(map(str, faults))
    assert "an effective rank of " in text
    assert "of 128: a few directions hold nearly all variance" in text
    assert "a mean cosine of 1.00" in text
    assert " % of rows have visual features nearly equal to those of another patient" in text
    assert "1 of 200 rows have visual features whose norm is an outlier" in text
    assert "train.csv:12" in text
    assert "are constant in 1 of 128 columns: 5" in text


def test_check_of_few_rows_returns_no_warnings(tmp_path):
    assert write_features(tmp_path, of_rank(1)[: LEAST_ROWS - 1] * 0 + normal(49)[:, :1]) == []
