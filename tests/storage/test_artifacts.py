"""Artifacts: files attached to a study stay in their folder, which is made on the first write."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from headsweep.errors import StorageError
from headsweep.storage.artifacts import ArtifactFolder
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.studies.storages import open_storage
from tests.helpers.dashboard import ask, served


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[BatchedStorage]:
    """A storage with one study and no artifacts."""
    storage = open_storage(f"sqlite:///{tmp_path}/study.db", create=True)
    optuna.create_study(study_name="seen", storage=storage)
    yield storage
    storage.database.close()


def test_write_artifact_with_a_path_as_id_is_refused(storage: BatchedStorage) -> None:
    """The id comes from a database to which others may write, so it is untrusted."""
    artifacts = ArtifactFolder(storage)
    artifacts.write("plot.png", io.BytesIO(b"old"))
    artifacts.write("plot.png", io.BytesIO(b"new"))
    assert (artifacts.path / "plot.png").read_bytes() == b"new"
    for name in ("../plot.png", "/tmp/plot.png", "a/b", "."):
        with pytest.raises(StorageError, match="is not a plain file name"):
            artifacts.write(name, io.BytesIO(b"else"))
    assert [path.name for path in artifacts.path.iterdir()] == ["plot.png"]


def test_upload_through_the_dashboard_to_a_new_study_stores_the_file(
    storage: BatchedStorage,
) -> None:
    sent = {"file": f"data:text/plain;base64,{base64.b64encode(b'seen').decode()}"}
    body = json.dumps(sent | {"filename": "note.txt"})
    with served(storage, writable=True) as port:
        own = {"Origin": f"http://127.0.0.1:{port}", "Content-Type": "application/json"}
        status, answer = ask(port, "POST", "/api/artifacts/1", body=body, **own)
        assert status == 201
        key = json.loads(answer)["artifact_id"]
        assert ask(port, "GET", f"/artifacts/1/{key}") == (200, b"seen")


def test_dashboard_that_only_reads_creates_no_artifact_folder(storage: BatchedStorage) -> None:
    with served(storage) as port:
        assert ask(port, "GET", "/api/studies/1")[0] == 200
    assert not ArtifactFolder(storage).path.exists()
