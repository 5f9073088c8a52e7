"""Rows that average heads: against plain loops, as a predictor, verified, switched off."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from headsweep.data.dataset import Dataset
from headsweep.errors import OutputError, VerificationError
from headsweep.evaluation.predictions import Predictions, read_predictions, write_predictions
from headsweep.evaluation.summaries import choose_thresholds
from headsweep.heads.predictor import load_predictor
from headsweep.leaderboard.ensembles.rows import Heads, build_ensembles
from headsweep.leaderboard.leaderboard import Leaderboard
from headsweep.leaderboard.results import measure_seeds
from headsweep.leaderboard.verification.recompute import recompute
from headsweep.metrics.ensemble_selection import Selection
from headsweep.search.study_file import load_study_file
from headsweep.studies.study import StoredStudy
from tests.helpers import leaderboard_oracle as oracle
from tests.helpers.ensemble_oracle import macro_ap, plain_selection
from tests.leaderboard.conftest import Study

SEEDS, RANKS = (0, 1, 2), (1, 2)
TESTS = ("test_manual_all", "test_manual_train", "test_manual_valid")
HEADS = [(str(rank), seed) for rank in RANKS for seed in SEEDS]


def stored(folder: Path, rank: str, seed: int, split: str) -> Predictions:
    return read_predictions(folder / f"finalists/{rank}/seed_{seed}/predictions/{split}.parquet")


def logits(folder: Path, split: str) -> np.ndarray:
    """Logits of all heads, (m, n, c)."""
    return np.stack([stored(folder, *head, split).logits for head in HEADS])


@pytest.fixture(scope="module")
def weights(finished: Path) -> np.ndarray:
    """Weights of all heads by the plain loop."""
    targets = stored(finished, "1", 0, "valid").targets
    return plain_selection(targets, logits(finished, "valid"), **asdict(Selection()))


def table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "ensembles.csv").open(newline="") as file:
        return {row["row"]: row for row in csv.DictReader(file)}


def test_ensemble_of_a_board_is_that_of_a_plain_loop_over_its_predictions(finished, weights):
    members = json.loads((finished / "ensembles/ensemble/members.json").read_text())
    found = {(one["finalist"], one["seed"]): one["weight"] for one in members}
    expected = {head: w for head, w in zip(HEADS, weights, strict=True) if w}
    assert found == pytest.approx(expected)
    assert sum(found.values()) == pytest.approx(1)


def test_rows_of_ensembles_have_the_metrics_of_mean_logits(finished, weights):
    rows = table(finished)
    assert list(rows) == ["mean_of_seeds_1", "mean_of_seeds_2", "ensemble"]
    by_row = dict(zip(rows, ([1 / 3] * 3 + [0] * 3, [0] * 3 + [1 / 3] * 3, weights), strict=True))
    for name, row in rows.items():
        values = {}
        for split in ("valid", *TESTS):
            targets = stored(finished, "1", 0, split).targets
            mean = np.tensordot(by_row[name], logits(finished, split).astype(float), 1)
            values[split] = macro_ap(targets, mean)
            both = [j for j, y in enumerate(targets.T) if 0 < y.sum() < len(y)]
            area = np.mean([roc_auc_score(targets[:, j], mean[:, j]) for j in both])
            column = "val" if split == "valid" else split
            assert float(row[f"{column}/auprc_macro"]) == pytest.approx(values[split], abs=1e-6)
            assert float(row[f"{column}/auroc_macro"]) == pytest.approx(area, abs=1e-6)
            stored_row = read_predictions(
                finished / f"ensembles/{name}/predictions/{split}.parquet"
            )
            np.testing.assert_allclose(stored_row.logits, mean, rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(
                stored_row.scores, expit(stored_row.logits.astype(np.float64))
            )
        for split in TESTS:
            optimism = values["valid"] - values[split]
            assert float(row[f"{split}/auprc_macro_optimism"]) == pytest.approx(optimism, abs=1e-6)


def test_differences_to_the_best_finalist_equal_a_plain_paired_bootstrap(finished):
    split, rows = "test_manual_all", table(finished)
    finalist = [
        oracle.read(finished / f"finalists/1/seed_{seed}/predictions/{split}.parquet")
        for seed in SEEDS
    ]
    first = finalist[0]
    resamples = list(oracle.recorded_resamples(first.patients, 2000, 0))[:2000]

    def values(scored, taken):
        return oracle.macro({"auprc": oracle.ranking_by_hand(scored.take(taken))["auprc"]})["auprc"]

    drawn = np.array([np.mean([values(one, taken) for one in finalist]) for taken in resamples])
    patients = oracle.rest_on(first)[-1]
    p_values = []
    for name, row in rows.items():
        own = oracle.read(finished / f"ensembles/{name}/predictions/{split}.parquet")
        draws = np.array([values(own, taken) for taken in resamples]) - drawn
        low, high, p = oracle.paired(draws, patients)
        column = f"{split}/auprc_macro_minus_best"
        assert float(row[f"{column}_ci_low"]) == pytest.approx(low, abs=1e-9)
        assert float(row[f"{column}_ci_high"]) == pytest.approx(high, abs=1e-9)
        assert float(row[f"{column}_p"]) == pytest.approx(p, abs=1e-9)
        p_values.append(p)
        gap = float(row[f"{split}/auprc_macro"]) - float(
            Leaderboard(finished).to_dataframe()[f"{split}/auprc_macro"][0]
        )
        assert float(row[column]) == pytest.approx(gap)
    for row, p in zip(rows.values(), oracle.holm(p_values), strict=True):
        assert float(row[f"{split}/auprc_macro_minus_best_p_holm"]) == pytest.approx(p)


def test_ensemble_as_a_predictor_gives_the_predictions_of_the_board_to_the_bit(
    finished: Path, study: Study, headsweep, tmp_path: Path
):
    board, folder = Leaderboard(finished), finished / "ensembles/ensemble"
    splits = Dataset.from_config(study.spec.config).test_splits(study.spec.config)
    for predictor, name in (
        (board.ensemble(), "ensemble"),
        (load_predictor(folder), "ensemble"),
        (board.mean_of_seeds(2), "mean_of_seeds_2"),
    ):
        for split in splits:
            place = finished / f"ensembles/{name}/predictions/{split.name}.parquet"
            recorded = read_predictions(place)
            np.testing.assert_array_equal(
                predictor.decision_function(split.features), recorded.logits
            )
            np.testing.assert_array_equal(predictor.predict_proba(split.features), recorded.scores)
    done = headsweep("evaluate", folder, "--out", tmp_path / "again")
    assert done.code == 0, done.err
    again = json.loads((tmp_path / "again/metrics.json").read_text())
    recorded = json.loads((folder / "metrics.json").read_text())
    assert again == {name: recorded[name] for name in TESTS}


def test_report_and_markdown_show_the_ensembles_and_leave_the_ranked_table(finished: Path):
    text = (finished / "leaderboard.md").read_text()
    assert text.index("| rank | study |") < text.index("## Ensembles")
    assert "mean of 3 seeds, finalist 2 | test_manual_valid" in text
    page = (finished / "report.html").read_text()
    assert "Ensembles on test_manual_all (not ranked)" in page
    frame = Leaderboard(finished).ensembles()
    assert frame["row"].tolist() == ["mean_of_seeds_1", "mean_of_seeds_2", "ensemble"]
    assert len(Leaderboard(finished).to_dataframe()) == 2


def test_verify_with_ensembles_passes_and_names_a_changed_weight(board: Path):
    assert "agree with their predictions" in recompute(board)
    path = board / "ensembles/ensemble/members.json"
    members = json.loads(path.read_text())
    members[0]["weight"], members[1]["weight"] = members[1]["weight"], 0.5
    path.write_text(json.dumps(members))
    for check in (recompute, lambda folder: Leaderboard(folder).verify()):
        with pytest.raises(VerificationError, match=r"members.json: .*weight"):
            check(board)


def test_recompute_names_a_changed_score_or_model_of_the_ensemble(board: Path):
    place = board / "ensembles/ensemble"
    path = place / "predictions/test_manual_all.parquet"
    found = read_predictions(path)
    changed = found.scores.copy()
    changed[3, 1] = 0.5
    write_predictions(replace(found, scores=changed), path)
    with pytest.raises(VerificationError, match=r"test_manual_all.parquet: .* is 0\.5"):
        recompute(board)
    write_predictions(found, path)
    recompute(board)
    (place / "model.safetensors").write_bytes(
        (board / "finalists/1/seed_0/model.safetensors").read_bytes()
    )
    with pytest.raises(VerificationError, match=r"model\.safetensors"):
        recompute(board)


def test_finalists_ensemble_false_writes_none_and_the_default_changes_no_fingerprint(
    study: Study, tmp_path: Path
):
    path = tmp_path / "study.yaml"
    body = "study: {name: a, n_trials: 2}\nspace: {training.learning_rate: {type: float, low: "
    body += "0.1, high: 1.0}}\nfinalists: {top_k: 2%s}\n"
    specs = {}
    for name, text in (("old", ""), ("on", ", ensemble: true"), ("off", ", ensemble: false")):
        path.write_text(body % text)
        specs[name] = load_study_file(path, [])
    assert specs["old"].fingerprint() == specs["on"].fingerprint() != specs["off"].fingerprint()
    off = replace_finalists(study, tmp_path)
    folder = off.finalize(tmp_path / "board")
    assert not (folder / "ensembles.csv").exists()
    assert "Ensembles" not in (folder / "leaderboard.md").read_text()
    with pytest.raises(OutputError, match="the leaderboard has no ensemble"):
        Leaderboard(folder).ensemble()
    computed = Leaderboard(folder).ensembles()
    assert computed["row"].tolist() == ["mean_of_seeds_1", "ensemble"]
    assert "equal to the bit" in Leaderboard(folder).verify()


def replace_finalists(study: Study, folder: Path) -> Study:
    """The same study with one finalist of two seeds and no ensemble, in a storage of its own."""
    from tests.leaderboard.conftest import add_trials

    finalists = study.spec.finalists.model_copy(
        update={"ensemble": False, "top_k": 1, "seeds": (0, 1)}
    )
    spec = study.spec.model_copy(update={"finalists": finalists, "name": "off"})
    url = f"sqlite:///{folder}/study.db"
    StoredStudy.create(spec, url).close()
    off = Study(spec, url)
    add_trials(off, 1, seed=0)
    return off


def random_heads(name: str, n_seeds: int, *, with_logits: bool, seed: int) -> Heads:
    """Heads with random scores on two splits."""
    rng = np.random.default_rng(seed)
    predictions = []
    for _ in range(n_seeds):
        by_split = {}
        for split, n in (("valid", 60), ("test", 40)):
            targets = (np.random.default_rng(n).random((n, 3)) < 0.4).astype(np.uint8)
            raw = (rng.normal(size=(n, 3)) + targets).astype(np.float32)
            names = tuple(f"p{i}" for i in range(n))
            scores = expit(raw.astype(np.float64))
            by_split[split] = Predictions(
                *(split, names, names, ("a", "b", "c"), targets, scores),
                raw if with_logits else None,
            )
        predictions.append(by_split)
    return Heads(name, tuple(range(n_seeds)), predictions)


def built(finalists: list[Heads]):
    best = finalists[0].predictions
    thresholds = [choose_thresholds(by_split["valid"]) for by_split in best]
    measured = measure_seeds(best, thresholds, [{}] * len(best), {})
    return build_ensembles(finalists, measured, Selection())


def test_ensemble_of_retrieval_heads_averages_probabilities():
    finalists = [random_heads(name, 2, with_logits=False, seed=int(name)) for name in "12"]
    ensembles = built(finalists)
    row = ensembles.rows[-1]
    assert (row.name, ensembles.left_out) == ("ensemble", ())
    scores = {(h.finalist, s): p for h in finalists for s, p in enumerate(h.predictions)}
    expected = sum(
        one.weight * scores[one.finalist, one.seed]["test"].scores for one in row.members
    )
    assert row.predictions["test"].logits is None
    np.testing.assert_allclose(row.predictions["test"].scores, expected, rtol=1e-12)
    value = macro_ap(row.predictions["test"].targets, expected)
    assert row.metrics["test"]["auprc_macro"]["mean"] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("n_seeds", [1, 2])
def test_build_ensembles_ends_with_a_full_progress_bar(n_seeds, monkeypatch):
    drawn: list[str] = []
    monkeypatch.setattr("headsweep.progress._drawing", lambda: (drawn.append, lambda: None))
    ensembles = built([random_heads("1", n_seeds, with_logits=True, seed=1)])
    n_rows = len(ensembles.rows)
    assert drawn[-1] == f"measuring ensembles [####################] {n_rows}/{n_rows}"


def test_ensemble_of_mixed_heads_leaves_out_those_without_logits():
    finalists = [
        random_heads("1", 2, with_logits=False, seed=1),
        random_heads("2", 1, with_logits=True, seed=2),
    ]
    ensembles = built(finalists)
    assert ensembles.left_out == ("1",)
    assert [row.name for row in ensembles.rows] == ["mean_of_seeds_1", "ensemble"]
    assert [one.finalist for one in ensembles.rows[-1].members] == ["2"]


def test_ensemble_where_valid_has_no_label_with_both_classes_has_only_means():
    heads = random_heads("1", 2, with_logits=True, seed=1)
    ones = [
        {
            n: replace(p, targets=np.ones_like(p.targets)) if n == "valid" else p
            for n, p in s.items()
        }
        for s in heads.predictions
    ]
    assert [row.name for row in built([replace(heads, predictions=ones)]).rows] == [
        "mean_of_seeds_1"
    ]
