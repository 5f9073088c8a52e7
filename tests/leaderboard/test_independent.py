"""Every number of a board is recomputed from its predictions by scikit-learn, SciPy and loops."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.helpers import leaderboard_oracle as oracle
from tests.helpers.leaderboard_oracle import Array, Scored
from tests.leaderboard.conftest import Study, make_study

SEEDS = (0, 1, 2)
TESTS = ("test_manual_all", "test_manual_train", "test_manual_valid")
SPLITS = ("valid", *TESTS)
EXACT = {"rel": 0, "abs": 1e-9}
MACRO_INTERVALS = {"auprc": oracle.macro_auprc_interval, "auroc": oracle.macro_auroc_interval}
FRESH = 300
# The difference between the 0.025 quantiles of 2,000 draws and of 300 other draws has a standard
# error of 0.17 standard deviations of the draws.
MONTE_CARLO = 4 * 0.17


class Board:
    """The files of a leaderboard with two finalists, read without headsweep."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        self.reports: dict[tuple[int, str], dict[str, Any]] = {}

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        with (self.folder / "leaderboard.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def finalist(self, rank: int) -> Path:
        return self.folder / "finalists" / str(rank)

    def seeds(self, rank: int, split: str) -> list[Scored]:
        place = self.finalist(rank)
        return [oracle.read(place / f"seed_{s}/predictions/{split}.parquet") for s in SEEDS]

    def cuts(self, rank: int) -> list[dict[str, Array]]:
        return [oracle.thresholds(valid) for valid in self.seeds(rank, "valid")]

    def report(self, rank: int, split: str) -> dict[str, Any]:
        """A split's metrics, recomputed once for all tests."""
        if (rank, split) not in self.reports:
            due = oracle.report(self.seeds(rank, split), self.cuts(rank))
            self.reports[rank, split] = due
        return self.reports[rank, split]

    def groups(self, split: str) -> dict[str, list[str]]:
        """Return the sex of every row of a test split, if its manifest has metadata."""
        with (self.data / f"manifests/{split}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        if "PatientSex" not in rows[0]:
            return {}
        return {"sex": [{"M": "male", "F": "female"}[row["PatientSex"]] for row in rows]}


pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def study(tmp_path_factory, data) -> Study:
    """A retrieval study, whose board has everything that other boards have, and also ranks.

    The largest test manifest has a column with the sex of the patients.
    """
    folder = tmp_path_factory.mktemp("independent")
    copy = Path(shutil.copytree(data, folder / "data"))
    path = copy / "manifests/test_manual_all.csv"
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow([*header, "PatientSex"])
        out.writerows([*row, "MF"[int(row[0].split("_")[1]) % 2]] for row in rows)
    return make_study(folder, copy, name="independent", base="head=retrieval", n_trials=3)


@pytest.fixture(scope="module")
def board(study, tmp_path_factory) -> Board:
    folder = study.finalize(tmp_path_factory.mktemp("boards") / "independent")
    return Board(folder, Path(study.spec.config.paths.manifest_dir).parent)


@pytest.fixture(scope="module")
def resamples(board) -> list[NDArray[np.int64]]:
    """Bootstrap resamples of the largest test split, drawn as recorded in the provenance."""
    made = board.json("provenance.json")["bootstrap"]
    assert (made["unit"], made["confidence"]) == ("patient", 0.95)
    patients = board.seeds(1, TESTS[0])[0].patients
    return list(oracle.recorded_resamples(patients, made["n_resamples"], made["seed"]))


@pytest.fixture(scope="module")
def draws(board, resamples) -> list[dict[str, Array]]:
    """Bootstrap values of each finalist on the largest test split.

    By metric, arrays of shape (B, c + 1), macro last.
    """
    return [
        oracle.bootstrap(resamples, board.seeds(rank, TESTS[0]), board.cuts(rank))
        for rank in (1, 2)
    ]


def leaves(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from leaves(value, f"{place}/{key}")
    else:
        yield place, node


def or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def same(found: Any, due: float | str) -> bool:
    if isinstance(due, str):
        return bool(found == due)
    return found is None if np.isnan(due) else bool(found == pytest.approx(due, **EXACT))


@pytest.mark.parametrize("rank", [1, 2])
def test_thresholds_file_equals_the_best_thresholds_on_valid(board, rank):
    for seed, cuts in zip(SEEDS, board.cuts(rank), strict=True):
        kept = json.loads((board.finalist(rank) / f"seed_{seed}/thresholds.json").read_text())
        for kind, values in cuts.items():
            assert list(kept[kind].values()) == pytest.approx(values.tolist(), **EXACT)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("rank", [1, 2])
def test_metrics_file_of_every_split_equals_the_recomputed_numbers(board, rank, split):
    """The file has exactly the recomputed numbers, no fewer and no more."""
    recorded = board.json(f"finalists/{rank}/metrics.json")
    assert list(recorded) == list(SPLITS)
    seeds = board.seeds(rank, split)
    due = dict(board.report(rank, split))
    if split in TESTS and (groups := board.groups(split)):
        due["subgroups"] = oracle.subgroups(seeds, groups)
    by_seed = [
        oracle.recalls(board.finalist(rank) / f"seed_{s}/retrieval/{split}.parquet") for s in SEEDS
    ]
    directions = {
        name: {key: float(np.mean([one[name][key] for one in by_seed])) for key in values}
        for name, values in by_seed[0].items()
    }
    due["retrieval"] = {
        "definition": "instance-recall/1",
        **directions["visual_to_text"],
        "text_to_visual": directions["text_to_visual"],
    }
    found = dict(leaves(recorded[split]))
    expected = dict(leaves(due))
    ends = {place for place in found if place.endswith(("/ci_low", "/ci_high"))}
    assert found.keys() - ends == expected.keys()
    wrong = {p: (found[p], value) for p, value in expected.items() if not same(found[p], value)}
    assert not wrong


def test_table_of_the_board_equals_the_recomputed_numbers(board, study):
    values = {trial.number: trial.value for trial in study.optuna.get_trials()}
    provenance = board.json("provenance.json")
    reached = []
    for row, one in zip(board.rows, provenance["finalists"], strict=True):
        rank = int(row["rank"])
        metrics = {split: board.report(rank, split) for split in SPLITS}
        due = {
            "val/auprc_macro": metrics["valid"]["auprc_macro"]["mean"],
            "val/auprc_macro_std": metrics["valid"]["auprc_macro"]["std"],
        }
        for split in TESTS:
            for name in ("auprc_macro", "auroc_macro", "f1_macro"):
                due[f"{split}/{name}"] = metrics[split][name]["mean"]
                due[f"{split}/{name}_std"] = metrics[split][name]["std"]
        for name, value in due.items():
            assert float(row[name]) == pytest.approx(value, **EXACT), name
        kept = board.json(f"finalists/{rank}/metrics.json")
        ends = [name for name in row if name.endswith(("_ci_low", "_ci_high"))]
        assert len(ends) == len(TESTS) * 3 * 2
        for name in ends:
            split, rest = name.split("/")
            metric, _, end = rest.partition("_ci_")
            assert (float(row[name]) if row[name] else None) == kept[split][metric][f"ci_{end}"]
        # The value from the search, the first of the three stages in the report's optimism plot.
        assert int(row["trial"]) == one["trial"]
        assert one["value"] == values[one["trial"]]
        reached.append(due["val/auprc_macro"])
    assert reached == sorted(reached, reverse=True)


def test_oracle_ranking_by_loops_equals_sklearn(board):
    for scored in board.seeds(1, TESTS[0]):
        by_hand = oracle.ranking_by_hand(scored)
        for name, values in oracle.ranking(scored).items():
            np.testing.assert_allclose(by_hand[name], values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 2])
def test_intervals_of_every_metric_equal_those_of_a_plain_loop(board, draws, rank):
    recorded = board.json(f"finalists/{rank}/metrics.json")[TESTS[0]]
    labels = list(recorded["per_label"])
    patients = oracle.rest_on(board.seeds(rank, TESTS[0])[0])
    classes = oracle.patients_of_classes(board.seeds(rank, TESTS[0])[0])
    checked = undefined = 0
    for name, drawn in draws[rank - 1].items():
        for j, label in enumerate([*labels, None]):
            kept = recorded["per_label"][label][name] if label else recorded[f"{name}_macro"]
            rest_on = recorded["n_patients"] if name == "brier" else patients[j]
            mean, own = or_nan(kept["mean"]), drawn[:, j]
            if label and name in ("auprc", "auroc"):
                ends = oracle.score_interval(name, mean, own, classes[j])
            elif name in MACRO_INTERVALS:
                means = [or_nan(recorded["per_label"][one][name]["mean"]) for one in labels]
                ends = MACRO_INTERVALS[name](np.array(means), drawn[:, :-1], classes)
            else:
                ends = oracle.interval(mean, own, rest_on)
            found = [or_nan(kept[f"ci_{end}"]) for end in ("low", "high")]
            assert found == pytest.approx(ends, nan_ok=True, **EXACT), (name, label)
            undefined += np.isnan(ends).any()
            checked += 1
    without = {"ece", "sensitivity_at_90_specificity"}
    bounded = {n.removesuffix("_macro") for n in recorded if n.endswith("_macro")}
    assert draws[0].keys() == bounded - without
    assert checked == len(draws[0]) * (len(labels) + 1)
    assert undefined < checked / 2


def test_intervals_of_a_subgroup_equal_those_of_a_plain_loop(board):
    kept = board.json("finalists/1/metrics.json")[TESTS[0]]["subgroups"]["sex"]["male"]
    rows = np.asarray(board.groups(TESTS[0])["sex"]) == "male"
    seeds = [scored.take(rows) for scored in board.seeds(1, TESTS[0])]
    resamples = oracle.recorded_resamples(seeds[0].patients, 2000, 0)
    drawn = oracle.bootstrap(resamples, seeds, board.cuts(1))
    for name in ("auprc", "auroc"):
        labels = np.mean([oracle.ranking(scored)[name] for scored in seeds], axis=0)
        classes = oracle.patients_of_classes(seeds[0])
        ends = MACRO_INTERVALS[name](labels, drawn[name][:, :-1], classes)
        found = [or_nan(kept[f"{name}_macro"][f"ci_{end}"]) for end in ("low", "high")]
        assert found == pytest.approx(ends, nan_ok=True, **EXACT)


def test_comparisons_of_finalists_equal_those_of_a_plain_loop(board, draws):
    compared = board.json("comparisons.json")[TESTS[0]]
    reports = [board.report(rank, TESTS[0]) for rank in (1, 2)]
    for name in ("auprc", "auroc"):
        (pair,) = compared[f"{name}_macro"]
        assert (pair["a"], pair["b"]) == ("1", "2")
        means = [report[f"{name}_macro"]["mean"] for report in reports]
        assert pair["difference"] == pytest.approx(means[0] - means[1], **EXACT)
        difference = draws[0][name][:, -1] - draws[1][name][:, -1]
        due = oracle.paired(difference, oracle.rest_on(board.seeds(1, TESTS[0])[0])[-1])
        found = [or_nan(pair[key]) for key in ("ci_low", "ci_high", "p")]
        assert found == pytest.approx(due, nan_ok=True, **EXACT)


def test_intervals_from_other_resamples_agree_within_monte_carlo_error(board, draws):
    """Patients are drawn here in another way, which must not matter."""
    patients = board.seeds(1, TESTS[0])[0].patients
    fresh = list(oracle.fresh_resamples(patients, FRESH, 7))
    other = [oracle.bootstrap(fresh, board.seeds(r, TESTS[0]), board.cuts(r)) for r in (1, 2)]
    for name in ("auprc", "auroc", "f1", "brier"):
        pairs = [(draws[i][name][:, -1], other[i][name][:, -1]) for i in (0, 1)]
        pairs.append((pairs[0][0] - pairs[1][0], pairs[0][1] - pairs[1][1]))
        for recorded, drawn in pairs:
            ends, found = (np.quantile(values, [0.025, 0.975]) for values in (recorded, drawn))
            assert found == pytest.approx(ends, rel=0, abs=MONTE_CARLO * recorded.std())


@pytest.mark.parametrize("split", SPLITS)
def test_delong_tests_and_corrections_equal_the_recomputed_ones(board, split):
    compared = board.json("comparisons.json")[split]
    finalists = [board.seeds(rank, split) for rank in (1, 2)]
    first = finalists[0][0]
    due = []
    for j, label in enumerate(first.labels):
        y = first.targets[:, j]
        if 0 < y.sum() < len(y):
            a, b = (np.stack([scored.scores[:, j] for scored in seeds]) for seeds in finalists)
            due.append((label, *oracle.delong(first.patients, y, a, b)))
    kept = compared["auroc_per_label"]
    assert [pair["label"] for pair in kept] == [label for label, _, _ in due]
    for pair, (_, difference, p) in zip(kept, due, strict=True):
        assert pair["difference"] == pytest.approx(difference, **EXACT)
        assert or_nan(pair["p"]) == pytest.approx(p, nan_ok=True, **EXACT)
    for table in ("auroc_per_label", "auprc_macro", "auroc_macro"):
        p = [or_nan(pair["p"]) for pair in compared[table]]
        for key, adjust in (("p_holm", oracle.holm), ("p_bh", oracle.benjamini_hochberg)):
            found = [or_nan(pair[key]) for pair in compared[table]]
            assert found == pytest.approx(adjust(p), nan_ok=True, **EXACT)
    (pair,) = compared["auprc_macro"]
    better = or_nan(pair["p_holm"]) <= 0.05
    due_ranks = {"1": 1 + (better and pair["difference"] < 0)}
    due_ranks["2"] = 1 + (better and pair["difference"] > 0)
    assert compared["rank_with_ties"] == due_ranks
