import hashlib

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from headsweep.data.ct_rate.names import LABELS, PREVALENCES
from headsweep.data.dataset import Dataset
from headsweep.data.synthetic.copula import latent_correlation, tetrachoric, to_labels
from headsweep.data.synthetic.generate import PHI, synthesize
from headsweep.data.validation import check
from headsweep.errors import ConfigError, OutputError
from tests.helpers.data_sets import config_of

SMALL = {"patients_train": 12, "patients_valid": 6, "patients_test": 5, "progress": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set of about 2,000 train and 1,400 valid rows."""
    out = tmp_path_factory.mktemp("synthetic") / "data"
    rows = synthesize(
        out, patients_train=900, patients_valid=600, patients_test=20, seed=0, progress=False
    )
    return out, rows


@pytest.fixture(scope="module")
def splits(data, tmp_path_factory):
    config = config_of(data[0])
    cache = tmp_path_factory.mktemp("cache")
    data = Dataset.from_config(config, cache_dir=cache)
    return data.search_splits(inputs=("visual", "text"))


def macro_auroc(scores, targets):
    return np.mean([roc_auc_score(targets[:, j], scores[:, j]) for j in range(targets.shape[1])])


def probe(train, valid, modality):
    x, z = train.features[modality], valid.features[modality]
    scores = [
        make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
        .fit(x, target)
        .decision_function(z)
        for target in train.targets.T
    ]
    return macro_auroc(np.stack(scores, axis=1), valid.targets)


def mlp(train, valid, modality):
    head = MLPClassifier(
        (256,), alpha=1.0, batch_size=64, learning_rate_init=1e-3, max_iter=25, random_state=0
    )
    model = make_pipeline(StandardScaler(), head)
    with pytest.warns(match="Maximum iterations"):
        model.fit(train.features[modality], train.targets)
    return macro_auroc(model.predict_proba(valid.features[modality]), valid.targets)


def test_synthesize_gives_probe_the_ct_rate_auroc_and_mlp_more(splits):
    on_images = probe(*splits, "visual")
    assert 0.75 <= on_images <= 0.83
    assert probe(*splits, "text") > on_images + 0.03
    assert mlp(*splits, "visual") > on_images + 0.02


def test_synthesize_puts_label_signal_in_low_variance_components(splits):
    """The half of the components with most variance predicts labels worse than the other half."""
    train, valid = splits
    x, z = train.features["visual"], valid.features["visual"]
    axes = np.linalg.svd(x - x.mean(0), full_matrices=False)[2].T

    def auroc_on(components):
        a, b = (side @ axes[:, components] for side in (x, z))
        scores = [
            LogisticRegression(C=1e3, max_iter=500).fit(a, t).decision_function(b)
            for t in train.targets.T[:6]
        ]
        return macro_auroc(np.stack(scores, axis=1), valid.targets[:, :6])

    assert auroc_on(slice(45, 90)) > auroc_on(slice(0, 45)) + 0.1


def test_synthesize_writes_data_set_that_passes_check(tmp_path):
    synthesize(tmp_path / "d", **SMALL, seed=3)
    assert [fault for fault in check(config_of(tmp_path / "d")) if fault.severity == "error"] == []


def test_synthesize_writes_manifests_and_files_shaped_like_ct_rate(data, splits):
    out, rows = data
    train, _ = splits
    assert rows["train"] == len(train.volumes)
    assert rows["test_manual_all"] == rows["test_manual_train"] + rows["test_manual_valid"]
    assert train.labels == LABELS
    assert len(train.volumes) / len(set(train.scans)) == pytest.approx(47149 / 24128, rel=0.05)
    assert len(set(train.scans)) / len(set(train.patients)) == pytest.approx(1.206, rel=0.05)
    assert train.reports is not None
    assert len(set(train.reports)) == len(set(train.scans))
    with np.load(out / f"features/image/{train.volumes[0]}.npz") as file:
        assert file.files == ["arr"]
        assert (file["arr"].shape, file["arr"].dtype) == ((1, 512), np.float32)
    for split in splits:
        for matrix in split.features.values():
            np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-5)


def test_synthesize_gives_reconstructions_same_text_and_other_images(splits):
    train, _ = splits
    scans = np.array(train.scans)
    same = np.flatnonzero(scans[1:] == scans[:-1])
    assert len(same) > 100
    for i in same[:50]:
        np.testing.assert_array_equal(train.targets[i], train.targets[i + 1])
        np.testing.assert_array_equal(train.features["text"][i], train.features["text"][i + 1])
        assert (train.features["visual"][i] != train.features["visual"][i + 1]).any()


def test_synthesize_writes_test_manifests_of_new_patients_and_their_union(data, splits, tmp_path):
    loaded = Dataset.from_config(config_of(data[0]), cache_dir=tmp_path)
    tests = loaded.test_splits(inputs=("visual",))
    whole, one, other = tests
    assert whole.volumes == one.volumes + other.volumes
    known = {patient for split in splits for patient in split.patients}
    assert not known & set(whole.patients)


def test_synthesize_with_equal_seeds_writes_equal_bytes(tmp_path):
    def digest(name, seed):
        synthesize(tmp_path / name, **SMALL, seed=seed)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()

    assert digest("a", 1) == digest("b", 1) != digest("c", 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"patients_train": 0}, "patients_train must be at least 1, found 0"),
        ({"patients_test": 1}, "patients_test must be at least 2, found 1"),
        ({"width": 16}, "width must be at least 85, found 16"),
    ],
)
def test_synthesize_with_too_small_sizes_raises_and_writes_nothing(tmp_path, values, message):
    with pytest.raises(ConfigError, match=message):
        synthesize(tmp_path / "d", **{**SMALL, **values}, seed=0)
    assert not list(tmp_path.iterdir())


def test_synthesize_into_used_folder_raises_and_keeps_it(tmp_path):
    (tmp_path / "train.csv").write_text("mine")
    with pytest.raises(OutputError, match="must be a new or empty folder"):
        synthesize(tmp_path, **SMALL, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["train.csv"]


def test_synthesize_after_killed_run_removes_its_partial_files(tmp_path):
    (tmp_path / ".d.partial" / "features").mkdir(parents=True)
    (tmp_path / ".d.partial" / "features" / "stale.npz").write_text("stale")
    synthesize(tmp_path / "d", **SMALL, seed=0)
    assert not list(tmp_path.rglob("stale.npz"))
    assert not (tmp_path / ".d.partial").exists()


@pytest.mark.parametrize(("p", "q", "r"), [(0.3, 0.3, 0.5), (0.1, 0.4, 0.2), (0.25, 0.28, 0.9)])
def test_tetrachoric_of_bivariate_normal_returns_its_correlation(p, q, r):
    bounds = [stats.norm.ppf(p), stats.norm.ppf(q)]
    both = stats.multivariate_normal(cov=[[1, r], [r, 1]]).cdf(bounds)
    phi = (both - p * q) / np.sqrt(p * (1 - p) * q * (1 - q))
    assert tetrachoric(p, q, phi) == pytest.approx(r, abs=1e-3)


def test_to_labels_gives_ct_rate_prevalences_and_co_occurrence():
    prevalences = list(PREVALENCES.values())
    phi = {(LABELS.index(a), LABELS.index(b)): value for (a, b), value in PHI.items()}
    correlation = latent_correlation(prevalences, phi, 0.2)
    latent = np.random.default_rng(0).multivariate_normal(np.zeros(18), correlation, 60_000)
    labels = to_labels(latent, prevalences)
    np.testing.assert_allclose(labels.mean(axis=0), prevalences, atol=0.01)
    found = np.corrcoef(labels.T)
    for pair, value in phi.items():
        assert found[pair] == pytest.approx(value, abs=0.02)
    assert (labels.sum(axis=1) == 0).mean() == pytest.approx(0.11, abs=0.01)
    assert labels.sum(axis=1).mean() == pytest.approx(3.59, abs=0.2)
