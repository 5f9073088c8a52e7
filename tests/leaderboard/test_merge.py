"""`merge` ranks several studies on valid and reports ties on test."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from headsweep.errors import OutputError
from headsweep.evaluation.predictions import read_predictions, write_predictions
from headsweep.leaderboard.merge import merge, read_board, to_csv, to_html, to_markdown
from tests.leaderboard.conftest import make_study


@pytest.fixture(scope="module")
def on_text(tmp_path_factory, data):
    """The leaderboard of a study on the text features of the same scans."""
    folder = tmp_path_factory.mktemp("text")
    study = make_study(folder, data, name="text", base="features=text")
    return study.finalize(folder / "board")


@pytest.fixture(scope="module")
def on_other_labels(tmp_path_factory, data):
    """The leaderboard of a study with fewer labels."""
    folder = tmp_path_factory.mktemp("labels")
    labels = 'training.target_labels=["Lung nodule","Emphysema"]'
    study = make_study(folder, data, name="labels", base=f"'{labels}'", n_trials=2)
    return study.finalize(folder / "board")


def test_merge_of_two_studies_ranks_their_best_finalists_on_valid(finished, on_text):
    (board,) = merge([finished, on_text]).boards
    assert [row["rank"] for row in board.rows] == ["1", "2"]
    assert {row["study"] for row in board.rows} == {"linear", "text"}
    values = [float(row["val/auprc_macro"]) for row in board.rows]
    assert values == sorted(values, reverse=True)


def test_merge_of_a_study_with_itself_is_a_tie(finished):
    (board,) = merge([finished, finished]).boards
    assert [row["test_manual_all/tied_rank"] for row in board.rows] == ["1", "1"]


def test_merge_when_one_study_is_clearly_worse_on_test_gives_it_a_lower_tied_rank(finished, board):
    for path in board.glob("finalists/1/seed_*/predictions/test_manual_all.parquet"):
        predictions = read_predictions(path)
        perfect = predictions.targets.astype(np.float32)
        write_predictions(replace(predictions, scores=perfect, logits=None), path)
    (merged,) = merge([finished, board]).boards
    assert [row["test_manual_all/tied_rank"] for row in merged.rows] == ["2", "1"]
    assert [row["test_manual_valid/tied_rank"] for row in merged.rows] == ["1", "1"]


def test_merge_of_studies_on_different_labels_makes_separate_boards(finished, on_other_labels):
    boards = merge([finished, on_other_labels]).boards
    assert [len(board.rows) for board in boards] == [1, 1]
    assert {row["rank"] for board in boards for row in board.rows} == {"1"}


def test_merge_of_one_study_shows_all_its_finalists(finished):
    (board,) = merge([finished]).boards
    assert board.rows == read_board(finished)


def test_merge_with_ensemble_selects_among_the_heads_of_all_studies(finished, on_text):
    merged = merge([finished, on_text], ensemble=True)
    assert merged.boards == merge([finished, on_text]).boards
    best = merged.boards[0].rows[0]["study"]
    *means, ensemble = merged.ensembles
    assert {row["finalists"] for row in means} == {"linear/1", "text/1"}
    assert {name.split("/")[0] for name in ensemble["finalists"].split()} == {"linear", "text"}
    assert ensemble["n_heads"] > 3
    gap = "test_manual_all/auprc_macro_minus_best"
    for row in merged.ensembles:
        best_value = float(merged.boards[0].rows[0]["test_manual_all/auprc_macro"])
        assert row[gap] == pytest.approx(row["test_manual_all/auprc_macro"] - best_value)
        assert row[f"{gap}_ci_low"] <= row[gap] <= row[f"{gap}_ci_high"]
    assert merged.ensembles[0]["row"] == f"mean_of_seeds_{best}/1" or best == "text"
    rows = list(csv.DictReader(io.StringIO(merged.to_csv())))
    assert [row["rank"] for row in rows] == ["1", "2", "", "", ""]
    assert rows[-1]["study"] == "ensemble"
    assert "## Ensembles" in merged.to_markdown()
    assert "Ensembles (not ranked)" in merged.to_html()


def test_show_with_ensemble_of_boards_on_different_data_is_refused_in_one_line(
    headsweep, finished, on_other_labels, on_text
):
    refused = headsweep("leaderboard", "show", finished, on_other_labels, "--ensemble")
    assert refused.code == 2
    assert "an ensemble needs leaderboards on the same data" in refused.err
    assert refused.err.count("\n") == 1
    apart = headsweep("leaderboard", "show", finished, on_other_labels)
    assert apart.code == 0, apart.err
    assert apart.out.count(": not to be compared with the other tables") == 2
    for name in ("linear ", "labels "):  # before the fix, both were called `trial N`
        assert f"1     {name}" in apart.out
    shown = headsweep("leaderboard", "show", finished, on_text, "--ensemble")
    assert shown.code == 0, shown.err
    assert "mean of 3 seeds, finalist text/1" in shown.out


def test_merge_written_as_csv_markdown_and_html_has_the_same_rows(finished, on_text):
    boards = merge([finished, on_text]).boards
    rows = list(csv.DictReader(io.StringIO(to_csv(boards))))
    assert [row["study"] for row in rows] == [row["study"] for row in boards[0].rows]
    markdown, page = to_markdown(boards), to_html(boards)
    for row in rows:
        value = float(row["test_manual_all/auroc_macro"])
        assert f"| {value:.3f} (" in markdown
        assert f"{value:.3f}" in page


def test_merge_of_a_folder_without_a_board_is_refused(tmp_path):
    with pytest.raises(OutputError, match="leaderboard not found: "):
        merge([tmp_path])


def test_to_html_when_a_name_contains_html_escapes_it(board):
    """Fails with `autoescape=False` in `leaderboard.page`."""
    table = board / "leaderboard.csv"
    table.write_text(table.read_text().replace("linear", "<script>ran=1</script>"))
    page = to_html(merge([board]).boards)
    assert "<script>ran=1" not in page
    assert "&lt;script&gt;ran=1&lt;/script&gt;" in page
