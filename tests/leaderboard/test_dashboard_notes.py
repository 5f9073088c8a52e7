"""Notes and files that `finalize` attaches to a study are shown in the dashboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna_dashboard import get_note

from headsweep.leaderboard.provenance import read_provenance
from headsweep.leaderboard.report.dashboard_notes import attach_board
from headsweep.storage.artifacts import ArtifactFolder
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.studies.storages import open_storage
from headsweep.studies.study import StoredStudy
from tests.helpers.chromium import browse
from tests.helpers.dashboard import ask, open_page, served
from tests.leaderboard.conftest import Study


@pytest.fixture(scope="module")
def storage(finished: Path, study: Study) -> Iterator[BatchedStorage]:
    """The study's storage after its board was attached twice, as by a repeated `finalize`."""
    for _ in range(2):
        with StoredStudy.open(study.name, study.storage_url) as stored:
            attach_board(stored, finished)
    storage = open_storage(study.storage_url)
    yield storage
    storage.database.close()


def test_attach_board_writes_the_table_and_plots_into_the_study_note(storage, finished):
    note = get_note(optuna.load_study(study_name="linear", storage=storage))
    assert (finished / "leaderboard.md").read_text() in note
    pictures = re.findall(r"!\[(.+)\]\((/artifacts/1/[0-9a-f-]+)\)", note)
    assert [name for name, _ in pictures] == sorted(
        path.name for path in (finished / "plots").glob("*.png")
    )
    with served(storage) as port:
        for name, url in pictures:
            assert ask(port, "GET", url) == (200, (finished / "plots" / name).read_bytes())


def test_attach_board_when_repeated_stores_every_file_once(storage, finished):
    kept = [path.read_bytes() for path in ArtifactFolder(storage).path.glob("[!.]*")]
    files = {*(finished / "plots").glob("*.png"), finished / "leaderboard.csv"}
    assert sorted(kept) == sorted(path.read_bytes() for path in files)


def test_attach_board_writes_rank_and_config_into_each_finalists_note(storage, finished):
    study = optuna.load_study(
        study_name="linear", storage=storage, sampler=optuna.samplers.RandomSampler()
    )
    finalists = read_provenance(finished)["finalists"]
    for rank, one in enumerate(finalists, start=1):
        note = get_note(optuna.Trial(study, study.trials[one["trial"]]._trial_id))
        assert f"rank {rank}" in note
        assert (finished / "finalists" / str(rank) / "config.yaml").read_text() in note
    assert len(study.trials) > len(finalists)


def test_dashboard_of_a_finished_study_shows_notes_and_plots_without_errors(
    storage, finished, tmp_path, chromium
):
    best = read_provenance(finished)["finalists"][0]["trial"]
    with served(storage) as port, browse(tmp_path) as page:
        for path, texts in {
            "": ("linear",),
            "/studies/1": ("linear", "History"),
            "/studies/1/note": ("Leaderboard", "val/auprc_macro"),
            f"/studies/1/trials?numbers={best}": ("Finalist, rank 1", "training.learning_rate"),
        }.items():
            open_page(page, port, path)
            for text in texts:
                page.wait_for(text)
            assert page.complaints == []
        open_page(page, port, "/studies/1/note")
        page.wait_for("Leaderboard")
        pictures = "[...document.images].filter(i => i.src.includes('/artifacts/'))"
        page.wait_until(f"{pictures}.length > 3 && {pictures}.every(i => i.naturalWidth > 300)")
        assert page.complaints == []
