"""Boards written by earlier versions can still be shown, verified and merged.

`boards_of_before/` holds a linear and a retrieval board by commit 4d5f665, made with
`headsweep data synth ct_rate --patients-train 60 --patients-valid 40 --patients-test 40 --width 85
--seed 0` and one small `headsweep run` each; their predictions are float32 without logits. The
retrieval board lacks its report and plots.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from headsweep.data.synthetic.generate import synthesize
from headsweep.errors import VerificationError
from headsweep.leaderboard.merge import merge, to_csv
from headsweep.leaderboard.verification.recompute import recompute
from headsweep.leaderboard.verification.verify import verify
from headsweep.search.study_file import load_study_file
from headsweep.studies.study import StoredStudy
from tests.helpers.archives import unpack
from tests.leaderboard.conftest import Study, add_trials

BOARDS = Path(__file__).parent / "boards_of_before"
KINDS = ("linear", "retrieval")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the unpacked boards of the earlier version."""
    folder = tmp_path_factory.mktemp("before")
    for kind in KINDS:
        with tarfile.open(BOARDS / f"{kind}.tar.xz") as archive:
            unpack(archive, folder)
    return folder


@pytest.fixture(scope="module")
def data_of_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set on which the boards of the earlier version were made."""
    folder = tmp_path_factory.mktemp("data_of_before") / "ct_rate"
    sizes = {"patients_train": 60, "patients_valid": 40, "patients_test": 40}
    synthesize(folder, **sizes, width=85, seed=0, progress=False)
    return folder


@pytest.fixture(scope="module")
def board_of_now(tmp_path_factory: pytest.TempPathFactory, data_of_before: Path) -> Path:
    """A board made by the present version on the same data."""
    folder = tmp_path_factory.mktemp("now")
    (folder / "study.yaml").write_text(
        "study: {name: now, n_trials: 2, seed: 1}\n"
        'base: [\'training.target_labels=["Lung nodule","Emphysema"]\', head=linear, '
        "'data.test_manifests=[test_manual_all.csv]', training.max_epochs=3]\n"
        "space: {training.learning_rate: {type: float, low: 1.0e-3, high: 3.0e-2}}\n"
        "finalists: {top_k: 1, seeds: [0]}\n"
    )
    spec = load_study_file(folder / "study.yaml", places(data_of_before))
    url = f"sqlite:///{folder}/study.db"
    StoredStudy.create(spec, url).close()
    add_trials(Study(spec, url), 2, seed=0)
    return Study(spec, url).finalize(folder / "board")


def places(data: Path) -> list[str]:
    return [f"paths.data_root={data}/features", f"paths.manifest_dir={data}/manifests"]


@pytest.mark.parametrize("kind", KINDS)
def test_show_with_a_board_of_an_earlier_version_prints_its_rows(
    before: Path, kind: str, headsweep
) -> None:
    ended = headsweep("leaderboard", "show", before / kind, "--csv")
    assert ended.code == 0, ended.err
    assert ended.out == (before / kind / "leaderboard.csv").read_text()
    for form in ("--markdown", "--html"):
        assert headsweep("leaderboard", "show", before / kind, form).code == 0


@pytest.mark.parametrize("kind", KINDS)
def test_verify_with_a_board_of_an_earlier_version_succeeds(
    before, kind, data_of_before, headsweep
) -> None:
    ended = headsweep("leaderboard", "verify", before / kind, *places(data_of_before))
    assert ended.code == 0, ended.err
    recorded = json.loads((before / kind / "provenance.json").read_text())
    assert "figures_version" not in recorded


@pytest.mark.parametrize("kind", KINDS)
def test_recompute_with_a_board_of_an_earlier_version_succeeds(before: Path, kind: str) -> None:
    assert recompute(before / kind) == "metrics of 2 finalists agree with their predictions"


def test_verify_when_a_board_of_an_earlier_version_was_changed_names_the_file(
    before, data_of_before, tmp_path
):
    folder = Path(shutil.copytree(before / "linear", tmp_path / "board"))
    path = folder / "comparisons.json"
    compared = json.loads(path.read_text())
    compared["test_manual_all"]["auroc_per_label"][0]["p"] += 0.125
    path.write_text(json.dumps(compared))
    with pytest.raises(VerificationError, match=r"comparisons\.json.*0\.125"):
        recompute(folder)
    named = dict(text.split("=") for text in places(data_of_before))
    with pytest.raises(VerificationError, match=r"comparisons\.json"):
        verify(folder, named)


def test_merge_with_boards_of_two_versions_ranks_them_together(before, board_of_now) -> None:
    (board,) = merge([before / "linear", before / "retrieval", board_of_now]).boards
    assert {row["study"] for row in board.rows} == {"linear", "retrieval", "now"}
    values = [float(row["val/auprc_macro"]) for row in board.rows]
    assert values == sorted(values, reverse=True)
    rows = list(csv.DictReader(io.StringIO(to_csv([board]))))
    assert {row["test_manual_all/tied_rank"] for row in rows} <= {"1", "2", "3"}


def test_finalize_writes_float32_logits_and_float64_probabilities(board_of_now: Path) -> None:
    table = pq.read_table(board_of_now / "finalists/1/seed_0/predictions/test_manual_all.parquet")
    assert table.column_names == [
        *("volumename", "patient", "y_true:Lung nodule", "y_score:Lung nodule"),
        *("y_true:Emphysema", "y_score:Emphysema", "y_logit:Lung nodule", "y_logit:Emphysema"),
    ]
    scores, logits = (table[f"y_{kind}:Emphysema"].to_numpy() for kind in ("score", "logit"))
    assert (scores.dtype, logits.dtype) == (np.float64, np.float32)
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits.astype(np.float64))), atol=1e-15)
    assert verify(board_of_now).startswith("1 finalists with 1 seeds trained again")


def test_recompute_with_a_board_of_a_newer_version_is_refused(board_of_now: Path, tmp_path) -> None:
    folder = Path(shutil.copytree(board_of_now, tmp_path / "board"))
    path = folder / "provenance.json"
    provenance = json.loads(path.read_text())
    path.write_text(json.dumps({**provenance, "figures_version": 99}))
    with pytest.raises(VerificationError, match="found 99; a newer headsweep wrote this board"):
        recompute(folder)
