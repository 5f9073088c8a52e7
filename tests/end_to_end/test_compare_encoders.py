"""The how-to page on encoders, followed word by word in an empty folder."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import headsweep as hs
from headsweep import api as headsweep_api

PAGE = (Path(__file__).parents[2] / "docs/how_to/compare_encoders.md").read_text(encoding="utf-8")
WIDTHS = {"ct_clip": 96, "colipri": 40}

pytestmark = [pytest.mark.slow]


def blocks() -> list[tuple[str, str]]:
    """The page's blocks with their languages."""
    return re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory, headsweep) -> tuple[Path, str]:
    """The folder in which the page was followed, and what it printed."""
    folder = tmp_path_factory.mktemp("encoders")
    printed, names = io.StringIO(), dict[str, object]()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HEADSWEEP_CACHE", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        # A second worker only starts to find that its small study is finished.
        patch.setattr(headsweep_api, "default_workers", lambda device: 1)
        for language, text in blocks():
            if language == "yaml":
                named = "compare" if "name: compare" in text else "one_encoder"
                Path(f"{named}.yaml").write_text(text)
            elif language == "python":
                with contextlib.redirect_stdout(printed):
                    exec(compile(text, "page", "exec"), names)
            elif language == "sh":
                for command in text.replace("\\\n", " ").splitlines():
                    program, *arguments = shlex.split(command)
                    assert program == "headsweep"
                    ended = headsweep(*arguments)
                    assert ended.code == 0, ended.err
                    printed.write(ended.out)
    return folder, printed.getvalue()


def test_page_followed_in_an_empty_folder_gives_boards_that_name_the_encoders(followed) -> None:
    folder, printed = followed
    header = (folder / "manifests/valid.csv").read_text().splitlines()[0]
    assert any(header.startswith(text.strip()) for language, text in blocks() if not language)
    with (folder / "outputs/compare/leaderboard.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        named = [f"{name} ({WIDTHS[name]})" for name in row["features"].split("+")]
        assert row["inputs"] == " + ".join(named)
    provenance = json.loads((folder / "outputs/compare/provenance.json").read_text())
    for name, found in provenance["inputs"].items():
        expected = {"column": f"{name}_path", "modality": "visual", "width": WIDTHS[name]}
        assert found == expected
    assert "equal to the bit" in printed
    assert "(2, 18)" in printed
    merged = hs.Leaderboard.merge([folder / "outputs/ct_clip", folder / "outputs/colipri"])
    assert {row["features"] for row in merged.boards[0].rows} == {"ct_clip", "colipri"}


def test_page_head_gives_the_scores_of_the_leaderboard(followed) -> None:
    folder, _ = followed
    board = hs.Leaderboard(folder / "outputs/compare")
    head = board.predictor(rank=1, seed=0)
    with (folder / "manifests/test.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    features = {
        name: np.concatenate(
            [np.load(folder / "data/features" / row[f"{name}_path"])["arr"] for row in rows]
        )
        for name in head.inputs
    }
    recorded = board.predictions(rank=1, seed=0, split="test")
    scores = recorded[[f"y_score:{label}" for label in head.labels]].to_numpy()
    np.testing.assert_allclose(head.predict_proba(features), scores, atol=1e-6)
