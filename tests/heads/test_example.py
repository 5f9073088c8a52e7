"""The head of another package in docs/how_to/own_head.md can be trained, searched and verified."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXAMPLE = Path(__file__).parent / "example"
PAGE = (ROOT / "docs" / "how_to" / "own_head.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, real_reports: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `headsweep` with the example's wheel installed, on real reports."""
    folder = tmp_path_factory.mktemp("example")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    subprocess.run(build, cwd=EXAMPLE, check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(folder / "site"), str(wheel)], check=True)
    paths = [str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    data = [f"paths.{k}={real_reports.resolve() / v}" for k, v in PLACES.items()]

    def run(*arguments: str, on_data: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "headsweep", *arguments, *(data if on_data else ())]
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )

    return run


PLACES = {"data_root": "features", "manifest_dir": "manifests"}


@pytest.mark.parametrize("file", ["pyproject.toml", "study.yaml", "src/lung_heads/bottleneck.py"])
def test_own_head_page_shows_example_files_unchanged(file):
    assert f"\n{(EXAMPLE / file).read_text(encoding='utf-8')}```" in PAGE


def test_example_head_study_runs_and_leaderboard_verifies(run):
    few = ("--n-trials", "4", "--workers", "1", "--device", "cpu")
    ended = run("run", str(EXAMPLE / "study.yaml"), *few)
    assert ended.returncode == 0, ended.stderr
    assert "bottleneck, visual" in ended.stdout
    verified = run("leaderboard", "verify", "outputs/bottleneck", on_data=False)
    assert verified.returncode == 0, verified.stderr


def test_example_head_keys_are_set_and_validated(run, tmp_path):
    short = ("training.max_epochs=1", f"paths.checkpoint_dir={tmp_path}")
    ended = run("train", "head.kind=bottleneck", "head.rank=16", *short)
    assert ended.returncode == 0, ended.stderr
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["head"] == {"kind": "bottleneck", "rank": 16, "bias": True}
    refused = run("train", "head.kind=bottleneck", "head.rank=0", *short)
    assert refused.returncode == 2
    assert "head.rank" in refused.stderr
    assert "'head.rank'" in run("train", "head.kind=bottleneck", "head.rnk=4", *short).stderr
