"""Feature files → one memory-mapped matrix a manifest and input, made again only on a change.

A pack is a folder with `matrix.npy` and `index.json`. The index is written last, so a folder
without one is no pack; a lock beside it keeps two processes from packing the same thing at once. A
pack that is up to date is only read, so the folder may be read-only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from headsweep.atomic_files import locked, reason, replacing, write_json
from headsweep.config.schema import Config
from headsweep.data.features import LEADS_OUTSIDE, outside, read_feature
from headsweep.data.manifest import Manifest
from headsweep.data.splits import BLOCK_ROWS, begin_fingerprint, little_endian
from headsweep.errors import FeatureError, ManifestError, OutputError
from headsweep.json_text import parse_json
from headsweep.progress import progress_bar

FORMAT = 1
"""Version of the pack's format; a pack of another version is made again."""

THREADS = 8


@dataclass(frozen=True, eq=False)
class PackedFeatures:
    """Features of one manifest and input.

    `matrix` is a read-only memory map of shape (n, d), float32; row i is the manifest's row i.
    `fingerprint` is SHA-256 over volumes and values, not over times and paths of files.
    """

    matrix: NDArray[np.float32]
    fingerprint: str


@dataclass(frozen=True, eq=False)
class _Files:
    """The feature files of a manifest's rows, and the name of the array to read in each."""

    manifest: Manifest
    names: tuple[str, ...]
    paths: Sequence[Path]
    key: str | None

    def read(self, index: int) -> NDArray[np.float32]:
        try:
            return read_feature(self.paths[index], self.key)
        except FeatureError as error:
            raise FeatureError(f"{error} ({self.manifest.location(index)})") from None


def pack_for(
    config: Config, manifest: Manifest, name: str, cache_dir: Path, *, progress: bool
) -> PackedFeatures:
    """Pack the features of a manifest's rows for the input `name`, as a config says: see `pack`.

    Returns:
        The matrix, one row for each row of the manifest, and its fingerprint.

    Raises:
        ManifestError: as `pack`.
        FeatureError: as `pack`.
        OutputError: as `pack`.
    """
    if name not in manifest.feature_paths:
        raise ManifestError(_no_column(config, manifest, name))
    return pack(
        manifest,
        name,
        Path(config.paths.data_root),
        cache_dir,
        progress=progress,
        key=config.data.feature_key,
        follow_links=config.data.follow_links,
    )


def pack(
    manifest: Manifest,
    name: str,
    data_root: Path,
    cache_dir: Path,
    *,
    progress: bool,
    key: str | None = None,
    follow_links: bool = False,
) -> PackedFeatures:
    """Read the features of a manifest's rows, and pack them under `cache_dir` unless they are.

    Args:
        manifest: whose rows to pack.
        name: of the input, which names one of its feature columns.
        data_root: folder that the feature paths are relative to.
        cache_dir: folder that holds packs; made when absent.
        progress: draw a progress bar on standard error while packing.
        key: name of the array to read in files that hold several.
        follow_links: read files that links below `data_root` lead to outside of it.

    Returns:
        The matrix, one row for each row of the manifest, and its fingerprint.

    Raises:
        ManifestError: the manifest lacks the input's column, or a row its path.
        FeatureError: a feature file cannot be used, or changes meanwhile; names it and the
            manifest's row.
        OutputError: `cache_dir` cannot be written, and holds no pack that is up to date.
    """
    paths = _feature_paths(manifest, name, data_root, follow_links=follow_links)
    rows = _Files(manifest, manifest.feature_paths[name], paths, key)
    source = f"{manifest.path.resolve()}\n{data_root.resolve()}\n{name}"
    if key is not None:
        source += f"\n{key}"
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    folder = cache_dir / f"{manifest.name}-{name}-{digest}"
    try:
        if _is_read_only(folder):
            return _existing_pack(folder, rows)
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock"), ThreadPoolExecutor(THREADS) as pool:
            # Under the lock, anything temporary was left by a process that crashed.
            for leftover in folder.glob("*.partial"):
                leftover.unlink()
            files = _states(rows, pool)
            index = _current_index(folder, manifest.volumes, files)
            if index is None:
                with replacing(folder / "matrix.npy") as file:
                    index = _write_matrix(file, rows, pool, progress=progress)
                    _refuse_changes(rows, files, _states(rows, pool))
                    # A stale index must not outlive the matrix it describes.
                    (folder / "index.json").unlink(missing_ok=True)
                index["files"] = files
                write_json(folder / "index.json", index, indent=None)
            return _open_pack(folder, index)
    except OSError as error:
        raise OutputError(
            f"{error.filename or folder}: cannot write packed features: {reason(error)}"
        ) from None


def _is_read_only(folder: Path) -> bool:
    """Return whether a folder exists and this user can read but not write it."""
    return folder.is_dir() and not os.access(folder, os.W_OK)


def _existing_pack(folder: Path, rows: _Files) -> PackedFeatures:
    """Open a pack of another user, or on a read-only file system.

    Returns:
        Its matrix and fingerprint.

    Raises:
        OutputError: it is not up to date, and cannot be made again here.
    """
    with locked(folder / "lock", shared=True), ThreadPoolExecutor(THREADS) as pool:
        index = _current_index(folder, rows.manifest.volumes, _states(rows, pool))
        if index is None:
            raise OutputError(
                f"{folder}: these packed features are not up to date, and this user cannot write "
                "to the folder; set HEADSWEEP_CACHE to a folder of your own"
            )
        return _open_pack(folder, index)


def _open_pack(folder: Path, index: dict[str, Any]) -> PackedFeatures:
    return PackedFeatures(
        matrix=npy_format.open_memmap(folder / "matrix.npy", mode="r"),
        fingerprint=index["fingerprint"],
    )


def _feature_paths(
    manifest: Manifest, name: str, data_root: Path, *, follow_links: bool
) -> list[Path]:
    if name not in manifest.feature_paths:
        raise ManifestError(f"{manifest.path}: no column of {name} feature paths")
    names = manifest.feature_paths[name]
    if "" in names:
        raise ManifestError(
            f"{manifest.location(names.index(''))}: the path of the {name} features is empty"
        )
    paths = [data_root / name for name in names]
    for index in () if follow_links else outside(data_root, paths):
        raise FeatureError(f"{paths[index]}: {LEADS_OUTSIDE} ({manifest.location(index)})")
    return paths


def _no_column(config: Config, manifest: Manifest, name: str) -> str:
    """Return the sentence that names the column of an input that a manifest lacks."""
    columns = config.data.manifest_columns
    column = columns.feature_columns().get(name)
    if column is None:
        return (
            f"{manifest.path}: unknown input {name!r}: data.inputs must name its column and "
            "modality"
        )
    return (
        f"{manifest.path}:1: no column of {name} feature paths: {column!r} "
        f"({columns.key_of(name)} names it)"
    )


FileState = list[Any]
"""Relative path, size in bytes and mtime in ns of a feature file, as JSON keeps them."""


def _states(rows: _Files, pool: ThreadPoolExecutor) -> list[FileState]:
    paths = rows.paths

    def states(start: int) -> list[FileState]:
        return [state(index) for index in range(start, min(start + BLOCK_ROWS, len(paths)))]

    def state(index: int) -> FileState:
        try:
            stat = paths[index].stat()
        except FileNotFoundError:
            location = rows.manifest.location(index)
            raise FeatureError(f"feature file not found: {paths[index]} ({location})") from None
        except OSError as error:
            raise FeatureError(
                f"{paths[index]}: cannot read the feature file: {error.strerror} "
                f"({rows.manifest.location(index)})"
            ) from None
        return [rows.names[index], stat.st_size, stat.st_mtime_ns]

    blocks = pool.map(states, range(0, len(paths), BLOCK_ROWS))
    return [state for block in blocks for state in block]


def _current_index(
    folder: Path, volumes: Sequence[str], files: list[FileState]
) -> dict[str, Any] | None:
    """Return the folder's index if it describes these inputs and the matrix is complete."""
    try:
        index: dict[str, Any] = parse_json((folder / "index.json").read_text(encoding="utf-8"))
        size = (folder / "matrix.npy").stat().st_size
    except (FileNotFoundError, ValueError):
        return None
    wanted = {"format": FORMAT, "volumes": list(volumes), "files": files, "matrix_bytes": size}
    return index if {key: index.get(key) for key in wanted} == wanted else None


def _refuse_changes(rows: _Files, before: list[FileState], now: list[FileState]) -> None:
    """Refuse files that changed while they were read, whose rows may be half old and half new.

    Raises:
        FeatureError: names the first file.
    """
    for index, (old, new) in enumerate(zip(before, now, strict=True)):
        if old != new:
            raise FeatureError(
                f"{rows.paths[index]}: the feature file was written while it was packed "
                f"({rows.manifest.location(index)})"
            )


def _write_matrix(
    file: IO[bytes], rows: _Files, pool: ThreadPoolExecutor, *, progress: bool
) -> dict[str, Any]:
    """Write all rows block by block.

    Returns:
        The index of what was written, without the files' states.
    """
    manifest, paths = rows.manifest, rows.paths
    width = len(rows.read(0))
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(paths), width)}
    npy_format.write_array_header_1_0(file, header)
    digest = begin_fingerprint(manifest.volumes, width)

    def read(index: int) -> NDArray[np.float32]:
        row = rows.read(index)
        if len(row) != width:
            raise FeatureError(
                f"{paths[index]}: all features of a manifest must be {width} wide, as the first "
                f"is, found {len(row)} ({manifest.location(index)})"
            )
        return row

    with progress_bar(f"packing {manifest.name}", len(paths), visible=progress) as bar:
        for start in range(0, len(paths), BLOCK_ROWS):
            block = range(start, min(start + BLOCK_ROWS, len(paths)))
            data = little_endian(np.stack(list(pool.map(read, block))))
            file.write(data)
            digest.update(data)
            bar.advance(len(block))
    file.flush()  # a full disk is noticed here, while the old pack is still complete
    return {
        "format": FORMAT,
        "fingerprint": digest.hexdigest(),
        "rows": len(paths),
        "width": width,
        "matrix_bytes": file.tell(),
        "volumes": list(manifest.volumes),
    }
