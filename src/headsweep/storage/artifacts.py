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
    """Optuna's artifact store in a folder that is created at the first write; writes are atomic.

    Args:
        storage: the storage whose artifacts these are. The folder is `artifacts` beside a SQLite
            file, and `storage/artifacts` for other databases.
    """

    def __init__(self, storage: BatchedStorage) -> None:
        file = storage.database.file
        self.path = (file.parent if file else Path("storage")) / "artifacts"
        super().__init__(self.path)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Replace an artifact.

        The id is checked, since it was read from the storage, where other programs can write.

        Raises:
            StorageError: the id is not a plain name.
            OSError: the file cannot be written.
        """
        if Path(artifact_id).name != artifact_id:
            raise StorageError(f"artifact id {artifact_id!r} is not a plain file name")
        self.path.mkdir(parents=True, exist_ok=True)
        with replacing(self.path / artifact_id) as file:
            shutil.copyfileobj(content_body, file)
