"""Checks of folders and manifests before the main job writes anything."""

from __future__ import annotations

import tempfile
from pathlib import Path

from headsweep.config.schema import Config
from headsweep.errors import ConfigError, ManifestError, OutputError


def check_output(folder: Path, *, what: str = "the output folder") -> None:
    """Refuse a folder that cannot be written; nothing is left behind.

    Args:
        folder: may be missing.
        what: names it in the error.

    Raises:
        OutputError: it, or the folder that it would be made in, cannot be written.
    """
    existing = folder
    try:
        existing = next(f for f in (folder, *folder.absolute().parents) if f.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OutputError(f"{folder}: cannot write {what}: {existing}: {error.strerror}") from None


def check_board_folder(folder: Path) -> None:
    """Refuse a folder in which no leaderboard and no logs can be written.

    Raises:
        OutputError: it cannot be written, or something else is where its files go.
    """
    check_output(folder)
    if (folder / "logs").exists() and not (folder / "logs").is_dir():
        raise OutputError(f"{folder / 'logs'}: a file is where the folder of the logs must be")
    if (folder / ".lock").is_dir():
        raise OutputError(f"{folder / '.lock'}: a folder is where the lock file must be")


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
        raise OutputError(f"{name} must not be empty; '.' is the current folder")
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
            here = "" if path.is_absolute() else f" (relative to the current folder, {Path.cwd()})"
            raise ManifestError(f"manifest not found: {path}{here}")
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
