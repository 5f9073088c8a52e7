"""Unpacking archives of the tests' own."""

import tarfile
from pathlib import Path


def unpack(archive: tarfile.TarFile, folder: Path) -> None:
    """Unpack an archive; Python before 3.11.4 has no `filter`, from 3.12 on it is required."""
    archive.extraction_filter = getattr(tarfile, "data_filter", None)
    archive.extractall(folder)
