"""Nine studies (three heads, three inputs) on the real reports: merged board and report."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from headsweep.leaderboard.merge import merge
from tests.leaderboard.conftest import NO_REFERENCES, make_study
from tests.leaderboard.test_browser import DESK, PHONE, WIDTHS, brightness, page

__all__ = ["page"]

HEADS, INPUTS = ("linear", "mlp", "retrieval"), ("visual", "text", "both")
TWO_SEEDS = (*NO_REFERENCES, "finalists.seeds=[0,1]")
STUDIES = [f"{head}-{features}" for head, features in product(HEADS, INPUTS)]

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def boards(real_reports: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The leaderboard folder of each study. Every study has one trial."""
    folder = tmp_path_factory.mktemp("nine")
    found = {}
    for name in STUDIES:
        head, features = name.split("-")
        base = f"head={head}, features={features}"
        study = make_study(
            *(folder / name, real_reports.resolve()),
            name=name,
            base=base,
            n_trials=2,
            overrides=TWO_SEEDS,
        )
        found[name] = study.finalize(folder / name / "board")
    return found


@pytest.fixture(scope="module")
def merged_page(boards: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "board.html"
    path.write_text(merge(list(boards.values())).to_html(), encoding="utf-8")
    return path


def test_merge_of_nine_studies_ranks_them_on_one_board(boards):
    (board,) = merge(list(boards.values())).boards
    assert sorted(row["study"] for row in board.rows) == sorted(STUDIES)
    assert [row["rank"] for row in board.rows] == [str(rank) for rank in range(1, 10)]
    values = [float(row["val/auprc_macro"]) for row in board.rows]
    assert values == sorted(values, reverse=True)
    assert {row["test_manual_all/tied_rank"] for row in board.rows} <= set(map(str, range(1, 10)))


def test_ensemble_of_nine_studies_averages_heads_with_logits_and_names_the_others(boards):
    merged = merge(list(boards.values()), ensemble=True)
    assert merged.boards == merge(list(boards.values())).boards
    *means, ensemble = merged.ensembles
    assert len(means) == 9
    used = {name.split("/")[0] for name in ensemble["finalists"].split()}
    assert len(used) > 1
    assert used <= {name for name in STUDIES if "retrieval" not in name}
    assert set(merged.left_out) == {f"{name}/1" for name in STUDIES if "retrieval" in name}
    assert all(name in merged.to_markdown() for name in merged.left_out)
    column = "test_manual_all/auprc_macro"
    best = float(merged.boards[0].rows[0][column])
    assert ensemble[f"{column}_minus_best"] == pytest.approx(ensemble[column] - best)
    assert ensemble[f"{column}_minus_best_ci_low"] < ensemble[f"{column}_minus_best_ci_high"]
    assert ensemble[f"{column}_optimism"] == pytest.approx(
        ensemble["val/auprc_macro"] - ensemble[column]
    )


@pytest.mark.parametrize("screen", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["board", "report"])
def test_page_of_nine_studies_fits_the_screen_without_console_errors(
    page, boards, merged_page, kind, theme, screen
):
    html = merged_page if kind == "board" else boards["retrieval-both"] / "report.html"
    page.complaints.clear()
    page.show(html, **screen, theme=theme)
    assert page.complaints == []
    content, window = page.value(WIDTHS)
    assert content == window <= screen["width"]
    assert (brightness(page) > 0.5) == (theme == "light")
    if kind == "board":
        text = page.value("document.body.innerText")
        assert not [name for name in STUDIES if name not in text]
