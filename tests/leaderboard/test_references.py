"""Reference rows: their scores against scikit-learn and NumPy, their files, their verification."""

import csv
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from headsweep.cli.tables import print_leaderboard
from headsweep.data.dataset import Dataset
from headsweep.data.prompts import Prompts
from headsweep.errors import VerificationError
from headsweep.evaluation.paired_tests import compare_first, compare_macro
from headsweep.leaderboard.leaderboard import Leaderboard
from headsweep.leaderboard.references.scores import (
    knn_scores,
    logistic_scores,
    prevalence_scores,
    standardization,
    zero_shot_scores,
)
from headsweep.leaderboard.verification.recompute import recompute
from headsweep.leaderboard.verification.verify import verify
from headsweep.metrics.masking import BLANK
from headsweep.metrics.multiplicity import holm
from tests.leaderboard.conftest import make_study

ROWS = ("prevalence", "logistic_regression", "knn_5", "knn_20")


def cosine_weights(distances):
    weights = np.maximum(1 - distances, 0)
    weights[(weights == 0).all(axis=1)] = 1
    return weights


def sklearn_scores(name, train, targets, rows):
    """Score rows with a model of scikit-learn for each label."""
    scores = np.empty((len(rows), targets.shape[1]))
    for j, y in enumerate(targets.T):
        if name == "prevalence":
            scores[:, j] = y.mean()
            continue
        if name == "logistic_regression":
            solver = LogisticRegression(C=1, solver="newton-cholesky", tol=1e-12, max_iter=500)
            model = make_pipeline(StandardScaler(), solver)
        else:
            k = int(name.removeprefix("knn_"))
            model = KNeighborsClassifier(k, metric="cosine", weights=cosine_weights)
        scores[:, j] = model.fit(train, y).predict_proba(rows)[:, 1]
    return scores


@pytest.fixture(scope="module")
def splits(study):
    data = Dataset.from_config(study.spec.config)
    train, valid = data.search_splits()
    return train, {valid.name: valid} | {test.name: test for test in data.test_splits()}


@pytest.mark.parametrize("name", ROWS)
def test_metrics_of_reference_equal_those_of_sklearn(finished, splits, name):
    train, by_name = splits
    metrics = json.loads((finished / f"references/{name}/metrics.json").read_text())
    assert list(metrics) == list(by_name)
    for stem in ("valid", "test_manual_all"):
        rows = by_name[stem].features["visual"].astype(np.float64)
        expected = sklearn_scores(
            name, train.features["visual"].astype(np.float64), train.targets, rows
        )
        table = pq.read_table(finished / f"references/{name}/predictions/{stem}.parquet")
        found = np.stack([table[f"y_score:{label}"].to_numpy() for label in train.labels], axis=1)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)
        targets = by_name[stem].targets
        for metric, function in (("auprc", average_precision_score), ("auroc", roc_auc_score)):
            values = [function(y, s) for y, s in zip(targets.T, expected.T, strict=True)]
            assert metrics[stem][f"{metric}_macro"]["mean"] == pytest.approx(
                np.mean(values), abs=1e-9
            )


def test_references_csv_holds_metrics_and_differences_to_best_finalist(finished):
    with (finished / "references.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["reference"] for row in rows] == [*ROWS]
    assert [row["features"] for row in rows] == ["none", "visual", "visual", "visual"]
    best = json.loads((finished / "finalists/1/metrics.json").read_text())
    for row in rows:
        own = json.loads((finished / f"references/{row['reference']}/metrics.json").read_text())
        for stem in ("test_manual_all", "test_manual_valid"):
            value = own[stem]["auprc_macro"]
            assert float(row[f"{stem}/auprc_macro"]) == value["mean"]
            gap = f"{stem}/auprc_macro_best_minus_reference"
            expected = best[stem]["auprc_macro"]["mean"] - value["mean"]
            assert float(row[gap]) == pytest.approx(expected, abs=1e-12)
            assert float(row[f"{gap}_ci_low"]) < float(row[gap]) < float(row[f"{gap}_ci_high"])
            assert 0 < float(row[f"{gap}_p"]) <= float(row[f"{gap}_p_holm"]) <= 1
    assert float(rows[0]["test_manual_all/auprc_macro_best_minus_reference"]) > 0


def test_compare_first_equals_pairs_of_compare_macro_before_correction():
    rng = np.random.default_rng(0)
    names, values = ["1", "a", "b"], [0.6, 0.5, 0.4]
    draws = [value + rng.normal(0, 0.05, 300) for value in values]
    found = compare_first(names, values, draws, 50.0)
    every = compare_macro(names, values, draws, 50.0)
    own = ("a", "b", "difference", "ci_low", "ci_high", "p")
    assert [[pair[k] for k in own] for pair in found] == [
        [pair[k] for k in own] for pair in every[:2]
    ]
    assert [pair["p_holm"] for pair in found] == pytest.approx(
        holm(np.array([one["p"] for one in found]))
    )


def test_references_are_on_markdown_and_report_and_not_in_ranked_table(finished):
    markdown = (finished / "leaderboard.md").read_text()
    assert "## References" in markdown
    assert "kNN (k = 20)" in markdown
    assert "References on test_manual_all (not searched)" in (finished / "report.html").read_text()
    assert "logistic_regression" not in (finished / "leaderboard.csv").read_text()
    recorded = json.loads((finished / "provenance.json").read_text())["references"]
    assert recorded == {"names": ["prevalence", "logistic_regression", "knn"]}


def test_print_leaderboard_shows_references_and_ensembles_with_signed_difference(finished, capsys):
    print_leaderboard(finished)
    shown = capsys.readouterr().out
    board, _, beside = shown.partition("not ranked")
    assert "prevalence" not in board
    assert max(map(len, shown.replace(str(finished), "").splitlines())) <= 100
    lines = {line[:27].strip(): line[27:].split() for line in beside.splitlines()[1:]}
    best = float(lines["best finalist"][0])
    for name in ("prevalence (chance)", "logistic regression (C = 1)", "kNN (k = 5)"):
        value, difference = lines[name][:2]
        assert float(difference.rstrip("*")) == pytest.approx(float(value) - best, abs=0.0011)
    frame = Leaderboard(finished).references().set_index("reference")
    gap = "test_manual_all/auprc_macro_best_minus_reference"
    sure = frame[f"{gap}_ci_low"]["prevalence"] > 0
    assert lines["prevalence (chance)"][1].endswith("*") == sure
    assert any(name.startswith("mean of 3 seeds") for name in lines)
    assert any(name.startswith("ensemble of") for name in lines)
    assert "references.csv and ensembles.csv in" in shown


def test_leaderboard_references_returns_dataframe(finished):
    frame = Leaderboard(finished).references()
    assert list(frame["reference"]) == [*ROWS]
    assert frame["test_manual_all/auprc_macro"].dtype == np.float64


@pytest.mark.parametrize(
    "name", ["references/knn_5/metrics.json", "references/comparisons.json", "references.csv"]
)
def test_recompute_when_figure_of_reference_was_changed_names_file(board, name):
    text = (board / name).read_text()
    at = text.index("0.") + 2
    (board / name).write_text(f"{text[:at]}{(int(text[at]) + 5) % 10}{text[at + 1 :]}")
    with pytest.raises(VerificationError, match=name.replace(".", r"\.")):
        recompute(board)


def test_recompute_of_board_without_references_reads_none(board):
    path = board / "provenance.json"
    provenance = json.loads(path.read_text())
    del provenance["references"]
    path.write_text(json.dumps(provenance))
    shutil.rmtree(board / "references")
    (board / "references.csv").unlink()
    assert recompute(board) == "metrics of 2 finalists agree with their predictions"
    assert Leaderboard(board).references().empty


def write_prompts(path, labels, width, *, without=(), **more):
    rng = np.random.default_rng(5)
    arrays = {f"{kind}:{label}": rng.normal(size=width) for label in labels for kind in KINDS}
    arrays = {name: value for name, value in arrays.items() if name not in without}
    np.savez(path, **arrays, **more)
    return arrays


KINDS = ("positive", "negative")


def test_zero_shot_row_equals_numpy_and_verifies(tmp_path, data, splits):
    train, by_name = splits
    width = train.features["visual"].shape[1]
    prompts = write_prompts(
        tmp_path / "prompts.npz", train.labels, width, logit_scale=np.array(7.0)
    )
    study = make_study(
        tmp_path / "study",
        data,
        name="zero",
        base="head=linear",
        overrides=[f"data.zero_shot={tmp_path}/prompts.npz", "finalists.references=[zero_shot]"],
    )
    folder = study.finalize(tmp_path / "board")
    table = pq.read_table(folder / "references/zero_shot/predictions/test_manual_all.parquet")
    x = by_name["test_manual_all"].features["visual"].astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    for label in train.labels:
        own = [prompts[f"{kind}:{label}"] for kind in KINDS]
        cosines = [7 * x @ v / np.linalg.norm(v) for v in own]
        softmax = np.exp(cosines[0]) / (np.exp(cosines[0]) + np.exp(cosines[1]))
        np.testing.assert_allclose(table[f"y_score:{label}"].to_numpy(), softmax, atol=1e-12)
    assert [p.name for p in (folder / "references").iterdir() if p.is_dir()] == ["zero_shot"]
    assert "equal to the bit" in verify(folder)
    write_prompts(tmp_path / "prompts.npz", train.labels, width)
    with pytest.raises(VerificationError, match=r"file of prompts .* has changed"):
        verify(folder)


def drawn(seed, n=60, d=7, c=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    return x, (x[:, :c] + rng.normal(size=(n, c)) > 0.4).astype(np.uint8), rng


def test_scores_of_label_with_one_class_in_train_are_its_prevalence():
    x, y, _ = drawn(0)
    y[:, 0], y[:, 1] = 0, 1
    (scores,) = logistic_scores(x, y, [x[:9]])
    assert (scores[:, 0] == 0).all()
    assert (scores[:, 1] == 1).all()
    assert 0 < scores[:, 2].min() < scores[:, 2].max() < 1
    (scores,) = logistic_scores(x, y[:, :2], [x[:9]])
    assert scores.tolist() == [[0, 1]] * 9
    (scores,) = knn_scores(x, y, [x[:9]], [5])[5]
    assert (scores[:, 0] == 0).all()
    assert (scores[:, 1] == 1).all()
    assert prevalence_scores(y, 2)[:, :2].tolist() == [[0, 1]] * 2


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 40), st.integers(1, 30))
def test_knn_scores_equal_sklearn(seed, n, k):
    x, y, rng = drawn(seed, n=n)
    y[0], y[1] = 0, 1
    rows = rng.normal(size=(6, x.shape[1])).astype(np.float32)
    k = min(k, n)
    (found,) = knn_scores(x, y, [rows], [k])[k]
    expected = sklearn_scores(f"knn_{k}", x.astype(np.float64), y, rows.astype(np.float64))
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_knn_scores_of_many_rows_with_near_duplicates_equal_sklearn():
    """Most rows differ by less than single precision resolves, in groups of 200."""
    rng = np.random.default_rng(7)
    x = np.repeat(rng.normal(size=(4, 16)), 200, axis=0) + 1e-6 * rng.normal(size=(800, 16))
    x, rows = x.astype(np.float32), np.concatenate([x[::90], rng.normal(size=(5, 16))])
    rows = rows.astype(np.float32)
    y = rng.integers(0, 2, (800, 2)).astype(np.uint8)
    found = knn_scores(x, y, [rows[:6], rows], [5, 20])
    np.testing.assert_array_equal(found[5][0], found[5][1][:6])
    unit = x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    for k in (5, 20):
        for row, scores in zip(rows.astype(np.float64), found[k][1], strict=True):
            cosine = unit @ row / np.linalg.norm(row)
            nearest = np.lexsort((np.arange(800), -np.round(cosine / 1e-9)))[:k]
            weights = np.maximum(cosine[nearest], 0)
            weights = weights if weights.any() else np.ones(k)
            np.testing.assert_allclose(scores, weights @ y[nearest] / weights.sum(), atol=1e-9)


def test_knn_scores_with_more_neighbours_than_rows_use_all_rows():
    x, y, _ = drawn(1, n=4)
    np.testing.assert_array_equal(
        knn_scores(x, y, [x], [20])[20][0], knn_scores(x, y, [x], [4])[4][0]
    )


def test_knn_scores_of_equal_rows_take_the_earlier_ones():
    x, y, _ = drawn(2, n=10)
    x[3:9] = x[0]
    y[:, 0] = 0
    y[[0, 3, 4], 0] = 1
    (found,) = knn_scores(x, y, [x[:1]], [3])[3]
    assert found[0, 0] == pytest.approx(1)
    (found,) = knn_scores(x, y, [x[:1]], [6])[6]
    assert found[0, 0] == pytest.approx(0.5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.booleans())
def test_zero_shot_scores_rank_as_difference_of_cosines(seed, paired):
    x, _, rng = drawn(seed)
    unit = rng.normal(size=(2, 3, x.shape[1]))
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    negative = unit[1] if paired else np.zeros_like(unit[1])
    found = zero_shot_scores(x, Prompts(unit[0], negative, 1.0, ""))
    rows = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    difference = rows @ unit[0].T - rows @ negative.T
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-difference)), atol=1e-12)


@settings(max_examples=40)
@given(
    n=st.integers(1, 60),
    offset=st.sampled_from([0.0, 1.0, 1e4, -1e8]),
    spread=st.sampled_from([0.0, 1e-30, 1e-9, 1.0, 1e6]),
    seed=st.integers(0, 2**32 - 1),
)
def test_standardization_equals_scaler_of_sklearn_to_the_bit(n, offset, spread, seed):
    x = offset + spread * np.random.default_rng(seed).normal(size=(n, 3))
    x[:, 0] = x[0, 0]
    scaler = StandardScaler().fit(x)
    mean, scale = standardization(x)
    np.testing.assert_array_equal(mean, scaler.mean_)
    np.testing.assert_array_equal(scale, scaler.scale_)


def test_scores_of_blank_labels_equal_those_of_the_rows_that_have_them():
    x, y, rng = drawn(3, n=80)
    blank = rng.random(80) < 0.4
    y[blank, 1] = BLANK
    own, known = y[~blank, 1], ~blank
    (scores,) = logistic_scores(x, y, [x])
    standard = StandardScaler().fit(x.astype(np.float64)).transform(x.astype(np.float64))
    model = LogisticRegression(C=1, solver="newton-cholesky", tol=1e-12).fit(standard[known], own)
    np.testing.assert_allclose(scores[:, 1], model.predict_proba(standard)[:, 1], atol=1e-8)
    (scores,) = knn_scores(x, y, [x[:1]], [80])[80]
    weights = np.maximum(x.astype(np.float64) @ x[0] / np.linalg.norm(x, axis=1), 0)
    expected = (weights[known] * own).sum() / weights[known].sum()
    assert scores[0, 1] == pytest.approx(expected, abs=1e-6)
    assert prevalence_scores(y, 1)[0, 1] == own.mean()
    y[:, 2] = BLANK
    for found in (logistic_scores(x, y, [x])[0], knn_scores(x, y, [x], [5])[5][0]):
        assert (found[:, 2] == 0).all()
