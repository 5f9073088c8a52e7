"""Rows beside the ranked table: a column for each split, in as many tables as the width needs."""

from __future__ import annotations

from typing import Any

import pytest

from headsweep.cli.beside import Row, beside_tables, ensemble_rows

SPLITS = ("test_manual_all", "rad_chestct", "another_cohort_of_ours", "one_more")
BEST = {f"{split}/auprc_macro": "0.5" for split in SPLITS}


def row(difference: float | None, low: float | None, high: float | None) -> Row:
    return Row(
        "prevalence", dict.fromkeys(SPLITS, 0.2), dict.fromkeys(SPLITS, (difference, low, high))
    )


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_beside_tables_at_any_width_have_each_split_once_and_fit(width: int) -> None:
    tables = beside_tables(BEST, [row(-0.3, -0.4, -0.2)], width)
    shown = [split for header, _ in tables for split in header[1:]]
    assert shown == list(SPLITS)
    for header, lines in tables:
        cells = [max(len(line[i]) for line in (header, *lines)) for i in range(len(header))]
        assert sum(cells) + 2 * (len(cells) - 1) <= max(width, 40)


@pytest.mark.parametrize(
    ("gap", "cell"),
    [
        ((-0.3, -0.4, -0.2), "0.200 -0.300*"),
        ((0.01, 0.002, 0.02), "0.200 +0.010*"),
        ((-0.3, -0.4, 0.1), "0.200 -0.300"),
        ((-0.3, None, None), "0.200 -0.300"),
        ((None, None, None), "0.200"),
    ],
)
def test_beside_tables_mark_differences_whose_interval_excludes_0(
    gap: tuple[Any, Any, Any], cell: str
) -> None:
    _, lines = beside_tables(BEST, [row(*gap)])[0]
    assert lines[1][:2] == ["prevalence", cell]


def test_ensemble_rows_keep_the_sign_of_the_table() -> None:
    gap = "a/auprc_macro_minus_best"
    cells = {"row": "ensemble", "n_heads": "3", "finalists": "1 2", "a/auprc_macro": "0.6"}
    (one,) = ensemble_rows([{**cells, gap: "0.1", f"{gap}_ci_low": "0.05", f"{gap}_ci_high": ""}])
    assert one.title == "ensemble of 3 heads"
    assert one.differences == {"a": [0.1, 0.05, None]}
