"""Every command in the table of docs/how_to/migrate.md runs, in the order of the table."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.single.conftest import Run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how_to" / "migrate.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\|.*\| `([^`]+)` \|$", PAGE, re.MULTILINE)
SMALLER = {
    "run": ["training.max_epochs=2", "finalists.top_k=1", "finalists.seeds=[0]", "--workers", "1"],
    "scaling": ["training.max_epochs=2"],
}


@pytest.fixture(scope="module")
def project(small_data: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data in the default paths, studies and scripts, as the commands expect."""
    folder = tmp_path_factory.mktemp("project")
    source = Path(small_data[0].partition("=")[2]).parent
    shutil.copytree(source, folder / "data")
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    shutil.copytree(ROOT / "search_spaces", folder / "search_spaces")
    manifests = folder / "data" / "manifests"
    with (manifests / "train.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    labels = [i for i, name in enumerate(header) if rows[0][i] in ("0", "1")]
    for name, columns in (("labels.csv", [0, *labels]), ("train_split.csv", [0])):
        with (folder / "data" / name).open("w", newline="") as file:
            lines = [[f"{row[0]}.nii.gz", *(row[i] for i in columns[1:])] for row in rows]
            names = ["VolumeName", *(header[i] for i in columns[1:])]
            csv.writer(file).writerows([names, *lines])
    for name in ("train_manual.csv", "train_radbert.csv"):
        shutil.copy(manifests / "train.csv", manifests / name)
    study = folder / "search_spaces" / "scaling" / "label_sources.yaml"
    text = study.read_text().replace("[100, 200, 400, 800]", "[30, 60]")
    study.write_text(text.replace("folds: 5", "folds: 2").replace("[0, 1, 2]", "[0]"))
    return folder


def test_table_has_every_kind_of_command() -> None:
    assert {shlex.split(command)[1] for command in COMMANDS} == {
        "train", "evaluate", "run", "leaderboard", "data", "scaling",
        "scripts/prepare_manifests.py", "scripts/analyze_alignment.py",
    }  # fmt: skip


def test_commands_of_the_table_run_in_order(
    project: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order matters, because some commands use files of earlier ones."""
    monkeypatch.chdir(project)
    for command in COMMANDS:
        program, *words = shlex.split(command)
        if program == "headsweep":
            run(*words, *SMALLER.get(words[0], []))
        else:
            done = subprocess.run(
                [sys.executable, *words], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
    written = {
        "outputs/checkpoints/model.safetensors",
        "outputs/seeds/training.seed=2/model.safetensors",
        "outputs/probe/evaluation/metrics.json",
        "outputs/mlp_hidden_dims/leaderboard.csv",
        "outputs/label-sources/scaling.json",
        "data/manifests/train_again.csv",
        "data/manifests/train_budget50_seed42.csv",
        "data/manifests/train_fold4of5_seed52_valid.csv",
    }
    assert not {name for name in written if not (project / name).is_file()}
