"""Boards with undefined metrics can be written, shown and verified."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headsweep.leaderboard.formatting import UNDEFINED, interval, markdown_table, number, spread
from headsweep.leaderboard.merge import merge, to_csv, to_html, to_markdown
from headsweep.leaderboard.report import plots
from headsweep.leaderboard.table import to_markdown as table_markdown
from headsweep.search.study_file import load_study_file
from headsweep.studies.study import StoredStudy
from tests.leaderboard.conftest import Study, add_trials

LABEL = "Lung nodule"
STUDY_FILE = """
study: {name: odd, n_trials: 2, seed: 1}
base:
- 'training.target_labels=["Lung nodule"]'
- 'data.test_manifests=[healthy.csv,one_row.csv,one_patient.csv]'
- head=linear
- training.max_epochs=2
space: {training.learning_rate: {type: float, low: 1.0e-4, high: 3.0e-2}}
finalists: {top_k: 2, seeds: [0]}
"""


def write_manifests(folder: Path) -> None:
    """Write three manifests: no positives, a single row, and a single patient with both classes."""
    with (folder / "test_manual_all.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    column = header.index(LABEL)
    healthy = [[*row[:column], "0", *row[column + 1 :]] for row in rows]
    by_patient: dict[str, list[list[str]]] = {}
    for row in rows:
        by_patient.setdefault(row[0].rsplit("_", 2)[0], []).append(row)
    several = max(by_patient.values(), key=len)
    mixed = [[*r[:column], str(i % 2), *r[column + 1 :]] for i, r in enumerate(several)]
    for name, chosen in (("healthy", healthy), ("one_row", rows[:1]), ("one_patient", mixed)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([header, *chosen])


@pytest.fixture(scope="module")
def odd(tmp_path_factory, data, headsweep) -> tuple[Path, str]:
    """A board of one label and one seed made by the command line, and the printed output."""
    folder = tmp_path_factory.mktemp("odd")
    copy = Path(shutil.copytree(data, folder / "data"))
    write_manifests(copy / "manifests")
    (folder / "study.yaml").write_text(STUDY_FILE)
    roots = [f"paths.data_root={copy}/features", f"paths.manifest_dir={copy}/manifests"]
    spec = load_study_file(folder / "study.yaml", roots)
    url = f"sqlite:///{folder}/study.db"
    StoredStudy.create(spec, url).close()
    add_trials(Study(spec, url), 2, seed=0)
    board = folder / "board"
    ended = headsweep("finalize", "odd", "--storage", url, "--out", board)
    assert ended.code == 0, ended.err
    return board, ended.out


def test_finalize_on_a_cohort_without_findings_prints_and_writes_the_board(odd) -> None:
    board, printed = odd
    assert "healthy" in printed
    assert UNDEFINED in printed
    metrics = json.loads((board / "finalists/1/metrics.json").read_text())
    for split in ("healthy", "one_row"):
        for metric in ("auprc_macro", "auroc_macro"):
            assert set(metrics[split][metric].values()) == {None}
        assert metrics[split]["n_labels_used"] == 0
        assert metrics[split]["worst_label"] is None
    report = (board / "report.html").read_text()
    assert "No AUPRC is defined." in report
    assert "None" not in report
    assert UNDEFINED in (board / "leaderboard.md").read_text()


def test_finalize_on_one_patient_gives_values_without_intervals_and_p_values(odd) -> None:
    board, _ = odd
    measured = json.loads((board / "finalists/1/metrics.json").read_text())["one_patient"]
    assert measured["n_patients"] == 1
    assert measured["auprc_macro"]["mean"] > 0
    summaries = [measured["auprc_macro"], *measured["per_label"][LABEL].values()]
    for summary in summaries:
        if isinstance(summary, dict):
            assert (summary["ci_low"], summary["ci_high"]) == (None, None)
    compared = json.loads((board / "comparisons.json").read_text())["one_patient"]
    for table in ("auprc_macro", "auroc_macro", "auroc_per_label"):
        (pair,) = compared[table]
        assert pair["difference"] is not None
        assert pair["p"] is None
    assert compared["rank_with_ties"] == {"1": 1, "2": 1}


def test_commands_on_a_board_with_undefined_metrics_succeed(odd, headsweep) -> None:
    board, _ = odd
    for args in (["show"], ["show", "--markdown"], ["show", "--html"], ["show", "--csv"]):
        ended = headsweep("leaderboard", *args, board)
        assert ended.code == 0, ended.err
        assert "nan" not in ended.out.lower().replace("manifest", "")
    assert headsweep("leaderboard", "verify", board, "--recompute").code == 0
    assert headsweep("leaderboard", "verify", board).code == 0
    merged = merge([board, board]).boards
    assert [row["healthy/tied_rank"] for row in merged[0].rows] == ["1", "1"]
    for form in (to_csv, to_markdown, to_html):
        assert form(merged)


undefined = st.sampled_from([None, math.nan])
value = st.none() | st.floats()


@given(value, value, st.booleans())
def test_formatters_of_any_number_give_text_without_nan(low, high, signed) -> None:
    for text in (number(low, signed=signed), interval(low, high, signed=signed), spread(low)):
        assert "nan" not in text
        assert "inf" not in text
        assert "None" not in text


@given(st.lists(value, min_size=1, max_size=4), undefined)
def test_markdown_of_any_row_has_as_many_cells_as_its_header(values, gap) -> None:
    row = {f"column|{i}": cell for i, cell in enumerate([*values, gap])}
    for text in (
        table_markdown([row]),
        markdown_table(list(row), [list(map(number, row.values()))]),
    ):
        lines = text.splitlines()
        assert len(lines) == 3
        assert {line.replace("\\|", "").count("|") for line in lines} == {len(row) + 1}


@pytest.mark.parametrize("values", [[math.nan], [math.nan, math.nan], [0.5, math.nan]])
def test_figures_of_undefined_values_are_drawn(values, tmp_path) -> None:
    import numpy as np

    names = [str(i) for i in range(len(values))]
    numbers = list(range(len(values)))
    stages = np.array([[v, v, v] for v in values])
    drawings = {
        "intervals": lambda axes: plots.intervals(
            axes, names, values, values, values, xlabel="macro AUPRC"
        ),
        "optimism": lambda axes: plots.optimism(axes, names, ("a", "b", "c"), stages),
        "history": lambda axes: plots.optimization_history(axes, (numbers, values), ([], [])),
        "nothing": lambda axes: plots.optimization_history(axes, ([], []), ([], [])),
        "curves": lambda axes: plots.learning_curves(axes, [(numbers, values)], []),
        "slice": lambda axes: plots.value_slice(axes, numbers, values, log=False),
    }
    for name, draw in drawings.items():
        plots.plot(name, name, draw).save(tmp_path)
        assert (tmp_path / f"{name}.svg").stat().st_size > 1000


def test_history_legend_names_only_the_states_that_occur() -> None:
    from matplotlib.figure import Figure

    for complete, pruned, expected in (
        (([0], [0.5]), ([], []), ["complete", "best so far"]),
        (([], []), ([0], [0.5]), ["pruned (last report)"]),
    ):
        axes = Figure().add_subplot()
        plots.optimization_history(axes, complete, pruned)
        legend = axes.get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == expected
