"""The head of another package in docs/how_to/own_head.md can be trained, searched and verified."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.helpers.command_line import Ended

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXAMPLE = Path(__file__).parent / "example"
PAGE = (ROOT / "docs" / "how_to" / "own_head.md").read_text(encoding="utf-8")


COMMANDS = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from headsweep.cli import main
ended = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
    ended.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(ended))
"""
"""Runs several command lines of `headsweep`: PyTorch is loaded once."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, real_reports: Path) -> Callable[..., list[Ended]]:
    """Run `headsweep` in one process with the example's wheel installed, on real reports."""
    folder = tmp_path_factory.mktemp("example")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    subprocess.run(build, cwd=EXAMPLE, check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(folder / "site"), str(wheel)], check=True)
    paths = [str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    data = [f"paths.{k}={real_reports.resolve() / v}" for k, v in PLACES.items()]

    def run(*commands: list[str]) -> list[Ended]:
        lines = [[*line, *(data if line[0] in ("run", "train") else ())] for line in commands]
        done = subprocess.run(
            [sys.executable, "-c", COMMANDS, json.dumps(lines)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return [Ended(*ended) for ended in json.loads(done.stdout.splitlines()[-1])]

    return run


PLACES = {"data_root": "features", "manifest_dir": "manifests"}


@pytest.mark.parametrize("file", ["pyproject.toml", "study.yaml", "src/lung_heads/bottleneck.py"])
def test_own_head_page_shows_example_files_unchanged(file):
    assert f"\n{(EXAMPLE / file).read_text(encoding='utf-8')}```" in PAGE


def test_example_head_study_runs_and_leaderboard_verifies(run):
    few = ("--n-trials", "4", "--workers", "1", "--device", "cpu")
    smallest = ("finalists.top_k=1", "finalists.seeds=[0]")
    ended, verified = run(
        ["run", str(EXAMPLE / "study.yaml"), *smallest, *few],
        ["leaderboard", "verify", "outputs/bottleneck"],
    )
    assert ended.code == 0, ended.err
    assert "bottleneck, visual" in ended.out
    assert verified.code == 0, verified.err


def test_example_head_keys_are_set_and_validated(run, tmp_path):
    short = ("training.max_epochs=1", f"paths.checkpoint_dir={tmp_path}")
    train = ("train", "head.kind=bottleneck")
    ended, refused, unknown = run(
        [*train, "head.rank=16", *short],
        [*train, "head.rank=0", *short],
        [*train, "head.rnk=4", *short],
    )
    assert ended.code == 0, ended.err
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["head"] == {"kind": "bottleneck", "rank": 16, "bias": True}
    assert refused.code == 2
    assert "head.rank" in refused.err
    assert "'head.rank'" in unknown.err
