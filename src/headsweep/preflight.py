"""What can be known to be wrong before the main job writes anything."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path

from headsweep.config.schema import Config, Modality
from headsweep.errors import ConfigError, ManifestError, OutputError


def check_output(folder: Path) -> None:
    """Refuse a folder that cannot be written; nothing is left behind.

    Raises:
        OutputError: it, or the folder that it would be made in, cannot be written.
    """
    existing = folder
    try:
        existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OutputError(
            f"{folder}: the output folder must be writable, found {existing}: {error.strerror}"
        ) from None


def refuse_empty_path(text: str | Path, name: str) -> Path:
    """Return a path that the user gave, unless it is empty and so would mean the current folder.

    Args:
        text: what the user gave.
        name: of the option or argument.

    Returns:
        The path.

    Raises:
        OutputError: the text is empty.
    """
    if not str(text).strip():
        raise OutputError(f"{name} is empty; use '.' for the current folder")
    return Path(text)


def check_manifests(config: Config) -> None:
    """Refuse a config whose manifests are not there, or whose test manifests share a stem.

    Raises:
        ManifestError: names the first missing file.
        ConfigError: results are kept by stem, so two test manifests must differ in it.
    """
    data = config.data
    for name in (data.train_manifest, data.val_manifest, *data.test_manifests):
        if name is not None and not (path := Path(config.paths.manifest_dir) / name).is_file():
            raise ManifestError(f"{path}: a manifest must exist, found no file")
    check_stems(config)


def check_stems(config: Config) -> None:
    """Refuse test manifests that share a stem with each other, or with another split.

    Raises:
        ConfigError: results are kept by stem, so no two splits may have the same.
    """
    data = config.data
    searched = (data.train_manifest, data.val_manifest or "valid.csv")
    others = [name for name in searched if name not in data.test_manifests]
    stems = ["val", *(Path(name).stem for name in (*others, *data.test_manifests))]
    for stem in stems:
        if stems.count(stem) > 1:
            raise ConfigError(
                "data.test_manifests: file stems must differ from each other, from those of train "
                f"and valid, and from 'val', found {stem!r} twice"
            )


def check_test_headers(
    config: Config, labels: Sequence[str], modalities: Sequence[Modality]
) -> None:
    """Refuse test manifests that lack a column; only their first line is read.

    Raises:
        ManifestError: names the file and the column.
    """
    columns = config.data.columns
    feature = {"visual": columns.visual_feature, "text": columns.text_feature}
    wanted = (columns.volume, *(feature[modality] for modality in modalities), *labels)
    for name in config.data.test_manifests:
        path = Path(config.paths.manifest_dir) / name
        with path.open(encoding="utf-8-sig", newline="", errors="replace") as file:
            header = next(csv.reader(file), [])
        for column in wanted:
            if column not in header:
                raise ManifestError(
                    f"{path}:1: a manifest must have the column {column!r}, "
                    f"found {', '.join(header)}"
                )
