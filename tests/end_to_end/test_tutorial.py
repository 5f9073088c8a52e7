"""The commands of docs/getting_started.md, run by a shell in an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "getting_started.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_getting_started_run_in_an_empty_folder_gives_the_shown_table(tmp_path: Path) -> None:
    commands = "\n".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    assert commands.count("headsweep ") >= 8
    project = tmp_path
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HEADSWEEP")}
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=project,
        env=kept | {"PATH": programs},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]

    board = project / "outputs" / "tutorial"
    provenance = json.loads((board / "provenance.json").read_text())
    assert provenance["n_trials_searched"] == 24
    shown = re.search(r"^```\n(rank .*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert shown is not None
    # The numbers depend on the machine; header, splits and number of lines do not.
    header, *lines = shown[1].splitlines()
    assert header in [line.rstrip() for line in ended.stdout.splitlines()]
    splits = set(re.findall(r"test_manual_\w+", shown[1]))
    assert len(lines) == 8
    assert splits == set(re.findall(r"test_manual_\w+", ended.stdout)) != set()
    exported = re.search(
        r"^trial \d+, (val/auprc_macro \S+): best.yaml$", ended.stdout, re.MULTILINE
    )
    assert exported is not None
    assert f"{exported[1]} in epoch" in ended.stdout
