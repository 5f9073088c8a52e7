"""Every cell of the notebook runs on a finished study, and its figures are drawn."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
import pytest
import yaml

from tests.single.conftest import Run

pytestmark = pytest.mark.slow

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "explore_study.ipynb"
STUDY = {
    "study": {"name": "explored", "n_trials": 2, "seed": 0},
    "base": ["head=linear", "training.max_epochs=3"],
    "space": {"training.learning_rate": {"type": "float", "low": 1e-3, "high": 1e-1, "log": True}},
    "sampler": {"name": "random"},
    "pruner": {"name": "none"},
    "finalists": {"top_k": 1, "seeds": [0, 1]},
}


@pytest.fixture(scope="module")
def board(small_data: tuple[str, ...], run: Run, tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("explored")
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    run(
        "run", folder / "study.yaml", *small_data, "--workers", "1",
        "--storage", f"sqlite:///{folder}/study.db", "--out", folder / "board",
    )  # fmt: skip
    return folder / "board"


def test_notebook_on_a_finished_study_runs_every_cell_and_draws(
    board: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HEADSWEEP_STUDY", str(board))
    mpl.use("agg")
    import matplotlib.pyplot as plt

    cells = json.loads(NOTEBOOK.read_text())["cells"]
    names: dict[str, object] = {}
    for i, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, cell {i}", "exec"), names)
    drawn = [plt.figure(number).axes[0].get_xlabel() for number in plt.get_fignums()]
    plt.close("all")
    assert len(drawn) == 3
    assert drawn[0] == "macro AUPRC"
    said = capsys.readouterr().out
    assert said.startswith("explored: 1 finalists of 2 trials")
    assert "metrics of 1 finalists agree with their predictions" in said
    imports = [
        line.split()[1]
        for c in cells
        for line in c["source"]
        if line.startswith(("import ", "from "))
    ]
    assert [name for name in imports if name.startswith("headsweep")] == ["headsweep"]


def test_notebook_is_stored_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert all(not c["outputs"] for c in cells if c["cell_type"] == "code")
