"""A study with each objective, from its search to the board."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import make_multilabel_classification

import headsweep as hs
from headsweep.cli.tables import print_boards
from headsweep.config.files import read_config
from headsweep.leaderboard.board_order import order_of
from headsweep.leaderboard.merge import read_board
from headsweep.leaderboard.results import objective_figure

RECORDED = ("auprc_macro", "auroc_macro", "auprc_skill", "balanced_accuracy", "ece", "brier")
METRICS = ("auprc_macro", "auroc_macro", "auprc_skill", "balanced_accuracy", "recall_at_10")


def definition(metric: str, **objective: Any) -> dict[str, Any]:
    head = "retrieval" if metric == "recall_at_10" else "linear"
    return {
        "study": {"name": metric, "n_trials": 6, "seed": 1},
        "base": [f"head={head}", "training.max_epochs=4", "training.batch_size=64"],
        "space": {
            "training.learning_rate": {"type": "float", "low": 1e-3, "high": 1e-1, "log": True}
        },
        "pruner": {"name": "successive_halving", "min_resource": 2, "reduction_factor": 2},
        "objective": {"metric": metric, **objective},
        "finalists": {"top_k": 2, "seeds": [0, 1]},
    }


@pytest.fixture(scope="module")
def arrays() -> hs.Dataset:
    x, y = make_multilabel_classification(n_samples=300, n_features=12, n_classes=3, random_state=0)
    text = x[:, ::-1] + np.random.default_rng(0).normal(size=x.shape)
    return hs.Dataset.from_arrays({"visual": x, "text": text}, y, labels=["a", "b", "c"])


@pytest.mark.parametrize("metric", METRICS)
def test_study_maximizes_its_metric_and_records_all(
    arrays: hs.Dataset, tmp_path: Path, metric: str
) -> None:
    with hs.Study.create(definition(metric), data=arrays, out=tmp_path) as study:
        study.run(progress=False)
        trials = study.optuna.get_trials()
        assert study.optuna.metric_names == [f"val/{metric}"]
        assert "value" in study.trials_dataframe()
        best = study.export(tmp_path / "best.yaml")
        best_value = study.best_value
    names = {*RECORDED, "recall_at_10"} if metric == "recall_at_10" else {*RECORDED}
    for trial in trials:
        attrs = {name.removeprefix("val/"): v for name, v in trial.user_attrs.items()}
        assert names <= {*attrs}
        assert attrs[metric] == pytest.approx(max(trial.intermediate_values.values()))
    complete = [trial.value or 0.0 for trial in trials if trial.state.name == "COMPLETE"]
    assert best_value == max(complete)
    assert f"recorded val/{metric} {best_value!r}" in best.read_text()
    assert read_config(best).training.metric == metric


@pytest.fixture(scope="module")
def board(arrays: hs.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[hs.Leaderboard]:
    document = definition("balanced_accuracy", constraint={"ece": 0.9})
    with hs.Study.create(document, data=arrays, out=tmp_path_factory.mktemp("out")) as study:
        study.run(progress=False)
        yield study.finalize()


def test_board_is_ranked_by_the_metric_and_says_so(board: hs.Leaderboard) -> None:
    folder = Path(board)
    means = []
    for rank in (1, 2):
        metrics = board.metrics(rank)
        valid = next(iter(metrics))
        # Its thresholds were chosen on valid, by sensitivity + specificity.
        ratios = [metrics[valid][f"{name}_youden_macro"] for name in ("sensitivity", "specificity")]
        means.append(sum(ratio["mean"] for ratio in ratios) / 2)
        assert objective_figure(metrics[valid], "balanced_accuracy") == means[-1]
    assert means == sorted(means, reverse=True)
    note = (folder / "leaderboard.md").read_text()
    assert "Ranked by balanced accuracy (`balanced_accuracy`) on valid." in note
    assert "Finalists met ece <= 0.9 in the search." in note
    search = json.loads((folder / "provenance.json").read_text())["search"]
    assert (search["metric"], search["constraint"]) == ("balanced_accuracy", {"ece": 0.9})
    assert "valid balanced accuracy" in (folder / "plots/history.svg").read_text()
    header = (folder / "leaderboard.csv").read_text().splitlines()[0]
    assert "balanced" not in header


@pytest.fixture(scope="module")
def others(arrays: hs.Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[hs.Leaderboard]:
    """Boards of the metrics balanced accuracy, with fewer epochs, and AUPRC."""
    boards = []
    for metric, epochs in (("balanced_accuracy", 1), ("auprc_macro", 4)):
        document = definition(metric)
        document["study"] |= {"name": f"other-{metric}", "n_trials": 2}
        document["base"][1] = f"training.max_epochs={epochs}"
        document["pruner"] = {"name": "none"}
        out = tmp_path_factory.mktemp("other")
        with hs.Study.create(document, data=arrays, out=out) as study:
            study.run(progress=False)
            boards.append(study.finalize())
    return boards


def test_merge_of_boards_of_one_metric_is_ordered_by_it(
    board: hs.Leaderboard, others: list[hs.Leaderboard], capsys: pytest.CaptureFixture[str]
) -> None:
    merged = hs.Leaderboard.merge([others[0], board])
    (one,) = merged.boards
    shown = [float(row["val/balanced_accuracy"]) for row in one.rows]
    expected = []
    for folder in (others[0], board):
        metrics = folder.metrics(1)
        expected.append(objective_figure(metrics[next(iter(metrics))], "balanced_accuracy"))
    assert shown == sorted(expected, reverse=True)
    note = "Ordered by balanced accuracy on valid."
    assert one.note == note
    assert merged.to_markdown().startswith(f"{note}\n\n| rank")
    assert note in merged.to_html()
    assert list(merged.to_dataframe()["val/balanced_accuracy"]) == shown
    print_boards(merged.boards)
    table = capsys.readouterr().out
    assert table.startswith(f"{note}\n")
    assert all(f"{value:.3f}" in table for value in shown)
    by_auprc = [0.1, 0.9] if expected[0] > expected[1] else [0.9, 0.1]
    rows = [read_board(Path(folder))[0] for folder in (others[0], board)]
    entries = [
        ({**row, "val/auprc_macro": str(auprc)}, Path(folder))
        for row, auprc, folder in zip(rows, by_auprc, (others[0], board), strict=True)
    ]
    assert list(order_of(entries).values) == expected


def test_merge_of_boards_of_two_metrics_is_ordered_by_auprc_and_says_so(
    board: hs.Leaderboard, others: list[hs.Leaderboard]
) -> None:
    (one,) = hs.Leaderboard.merge([board, others[1]]).boards
    values = [float(row["val/auprc_macro"]) for row in one.rows]
    assert values == sorted(values, reverse=True)
    assert one.note == (
        "Ordered by macro AUPRC on valid, as the studies maximize different metrics: "
        "macro AUPRC, balanced accuracy."
    )


def test_merge_of_boards_of_auprc_has_no_note_and_no_new_column(
    others: list[hs.Leaderboard],
) -> None:
    (one,) = hs.Leaderboard.merge([others[1], others[1]]).boards
    assert one.note == ""
    assert "val/balanced_accuracy" not in one.rows[0]


def test_board_of_another_metric_verifies(board: hs.Leaderboard, arrays: hs.Dataset) -> None:
    assert "equal to the bit" in board.verify(data=arrays)


def test_folded_trials_record_their_pooled_metrics_and_constraint(
    arrays: hs.Dataset, tmp_path: Path
) -> None:
    document = definition("auroc_macro", folds=3, constraint={"ece": 0.9, "auroc_macro": 0.1})
    with hs.Study.create(document, data=arrays, out=tmp_path) as study:
        study.run(progress=False)
        trials = study.optuna.get_trials()
    for trial in trials:
        attrs = {name.removeprefix("val/"): v for name, v in trial.user_attrs.items()}
        assert attrs["auroc_macro"] == pytest.approx(max(trial.intermediate_values.values()))
        assert trial.constraints == pytest.approx(
            {"ece": attrs["ece"] - 0.9, "auroc_macro": 0.1 - attrs["auroc_macro"]}
        )
