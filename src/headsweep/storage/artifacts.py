"""Files attached to studies, which optuna-dashboard shows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import BinaryIO

from optuna.artifacts import FileSystemArtifactStore

from headsweep.atomic_files import replacing
from headsweep.errors import StorageError
from headsweep.storage.batched_storage import BatchedStorage


class ArtifactFolder(FileSystemArtifactStore):
    """Optuna's store in a folder: made when it is first written to, files replaced in one step.

    Args:
        storage: whose artifacts; they lie beside a SQLite file, in `storage/artifacts` otherwise.
    """

    def __init__(self, storage: BatchedStorage) -> None:
        file = storage.database.file
        self.path = (file.parent if file else Path("storage")) / "artifacts"
        super().__init__(self.path)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Replace an artifact; its id was read from the storage, which others may write to.

        Raises:
            StorageError: the id is not a plain name.
            OSError: the file cannot be written.
        """
        if Path(artifact_id).name != artifact_id:
            raise StorageError(f"an artifact's id must be a plain name, found {artifact_id!r}")
        self.path.mkdir(parents=True, exist_ok=True)
        with replacing(self.path / artifact_id) as file:
            shutil.copyfileobj(content_body, file)
