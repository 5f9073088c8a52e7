"""`recompute` derives every number from the predictions and names one that differs."""

import json
import re

import pytest

from headsweep.errors import VerificationError
from headsweep.leaderboard.verification.recompute import recompute


def test_recompute_of_an_unchanged_board_succeeds(finished):
    assert recompute(finished) == "metrics of 2 finalists agree with their predictions"


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("finalists/1/metrics.json", ("test_manual_all", "f1_macro", "ci_high")),
        ("finalists/2/metrics.json", ("valid", "per_label", "Emphysema", "brier", "mean")),
        ("finalists/2/seed_1/thresholds.json", ("youden", "Emphysema")),
        ("comparisons.json", ("test_manual_valid", "auroc_macro", 0, "p_holm")),
    ],
)
def test_recompute_when_a_number_was_changed_names_it(board, name, keys):
    path = board / name
    data = json.loads(path.read_text())
    node = data
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] += 0.25
    path.write_text(json.dumps(data))
    with pytest.raises(VerificationError) as caught:
        recompute(board)
    assert name in str(caught.value)
    assert ".".join(map(str, keys)) in str(caught.value)
    assert "largest difference 0.25" in str(caught.value)


def test_recompute_when_the_table_was_changed_names_the_cell(board):
    path = board / "leaderboard.csv"
    header, first, *rest = path.read_text().splitlines()
    changed = re.sub(r"0\.\d{3}", "0.999", first, count=1)
    path.write_text("\n".join([header, changed, *rest]) + "\n")
    with pytest.raises(VerificationError, match=r"leaderboard\.csv.*val/auprc_macro is 0\.999"):
        recompute(board)
