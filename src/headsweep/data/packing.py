"""Feature files → one memory-mapped matrix a manifest and modality, made again only on a change.

A pack is a folder with `matrix.npy` and `index.json`. The index is written last, so a folder
without one is no pack; a lock beside it keeps two processes from packing the same thing at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from headsweep.atomic_files import locked, replacing, write_text
from headsweep.config.schema import Modality
from headsweep.data.features import outside, read_feature
from headsweep.data.manifest import Manifest
from headsweep.data.progress import progress_bar
from headsweep.data.splits import BLOCK_ROWS, begin_fingerprint, little_endian
from headsweep.errors import FeatureError, ManifestError, OutputError

FORMAT = 1
"""Version of the pack's format; a pack of another version is made again."""

THREADS = 8


@dataclass(frozen=True, eq=False)
class PackedFeatures:
    """Features of one manifest and modality.

    `matrix` is a read-only memory map of shape (n, d), float32; row i is the manifest's row i.
    `fingerprint` is SHA-256 over volumes and values, independent of file times and places.
    """

    matrix: NDArray[np.float32]
    fingerprint: str


def pack(
    manifest: Manifest,
    modality: Modality,
    data_root: Path,
    cache_dir: Path,
    *,
    progress: bool,
) -> PackedFeatures:
    """The features of a manifest's rows, packed under `cache_dir` unless they already are.

    Args:
        manifest: whose rows to pack.
        modality: which of its feature columns.
        data_root: folder that the feature paths are relative to.
        cache_dir: folder that holds packs; made when absent.
        progress: draw a progress bar on standard error while packing.

    Raises:
        ManifestError: the manifest lacks the modality's column, or a row its path.
        FeatureError: a feature file cannot be used, or changes meanwhile; names it and the
            manifest's row.
        OutputError: `cache_dir` cannot be written.
    """
    paths = _feature_paths(manifest, modality, data_root)
    place = f"{manifest.path.resolve()}\n{data_root.resolve()}\n{modality}"
    key = hashlib.sha256(place.encode()).hexdigest()[:16]
    folder = cache_dir / f"{manifest.name}-{modality}-{key}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock"), ThreadPoolExecutor(THREADS) as pool:
            # Under the lock, anything temporary was left by a process that died.
            for leftover in folder.glob("*.partial"):
                leftover.unlink()
            files = _states(manifest, modality, paths, pool)
            index = _current_index(folder, manifest.volumes, files)
            if index is None:
                with replacing(folder / "matrix.npy") as file:
                    index = _write_matrix(file, manifest, paths, pool, progress=progress)
                    now = _states(manifest, modality, paths, pool)
                    _refuse_changes(manifest, paths, files, now)
                    # A stale index must not outlive the matrix it describes.
                    (folder / "index.json").unlink(missing_ok=True)
                index["files"] = files
                write_text(folder / "index.json", json.dumps(index))
            return PackedFeatures(
                matrix=npy_format.open_memmap(folder / "matrix.npy", mode="r"),
                fingerprint=index["fingerprint"],
            )
    except OSError as error:
        raise OutputError(f"{folder}: packed features must be writable, found {error}") from None


def _feature_paths(manifest: Manifest, modality: Modality, data_root: Path) -> list[Path]:
    if modality not in manifest.feature_paths:
        raise ManifestError(
            f"{manifest.path}: {modality} features need a column of {modality} feature paths, "
            "found none"
        )
    names = manifest.feature_paths[modality]
    if "" in names:
        raise ManifestError(
            f"{manifest.place(names.index(''))}: a row must have a path of {modality} features, "
            "found an empty cell"
        )
    paths = [data_root / name for name in names]
    for index in outside(data_root, paths):
        raise FeatureError(
            f"{paths[index]}: a feature file must lie in paths.data_root, found a link out of it "
            f"({manifest.place(index)})"
        )
    return paths


FileState = list[Any]
"""Relative path, size in bytes and mtime in ns of a feature file, as JSON keeps them."""


def _states(
    manifest: Manifest, modality: Modality, paths: Sequence[Path], pool: ThreadPoolExecutor
) -> list[FileState]:
    names = manifest.feature_paths[modality]

    def states(start: int) -> list[FileState]:
        return [state(index) for index in range(start, min(start + BLOCK_ROWS, len(paths)))]

    def state(index: int) -> FileState:
        try:
            stat = paths[index].stat()
        except OSError as error:
            raise FeatureError(
                f"{paths[index]}: a feature file must exist, found {error.strerror} "
                f"({manifest.place(index)})"
            ) from None
        return [names[index], stat.st_size, stat.st_mtime_ns]

    blocks = pool.map(states, range(0, len(paths), BLOCK_ROWS))
    return [state for block in blocks for state in block]


def _current_index(
    folder: Path, volumes: Sequence[str], files: list[FileState]
) -> dict[str, Any] | None:
    """The folder's index when it describes these inputs and the matrix is whole, else None."""
    try:
        index: dict[str, Any] = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        size = (folder / "matrix.npy").stat().st_size
    except (FileNotFoundError, ValueError):
        return None
    wanted = {"format": FORMAT, "volumes": list(volumes), "files": files, "matrix_bytes": size}
    return index if {key: index.get(key) for key in wanted} == wanted else None


def _refuse_changes(
    manifest: Manifest, paths: Sequence[Path], before: list[FileState], now: list[FileState]
) -> None:
    """Refuses files that changed while they were read: a row may be half of one, half of another.

    Raises:
        FeatureError: names the first file.
    """
    for index, (old, new) in enumerate(zip(before, now, strict=True)):
        if old != new:
            raise FeatureError(
                f"{paths[index]}: a feature file must not change while it is packed, found it "
                f"written meanwhile ({manifest.place(index)})"
            )


def _write_matrix(
    file: IO[bytes],
    manifest: Manifest,
    paths: Sequence[Path],
    pool: ThreadPoolExecutor,
    *,
    progress: bool,
) -> dict[str, Any]:
    """Writes all rows block by block; the index of what was written, without the files' states."""
    width = len(_read_row(manifest, paths, 0))
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(paths), width)}
    npy_format.write_array_header_1_0(file, header)
    digest = begin_fingerprint(manifest.volumes, width)

    def read(index: int) -> NDArray[np.float32]:
        row = _read_row(manifest, paths, index)
        if len(row) != width:
            raise FeatureError(
                f"{paths[index]}: all features of a manifest must be {width} wide, as the first "
                f"is, found {len(row)} ({manifest.place(index)})"
            )
        return row

    with progress_bar(f"packing {manifest.name}", len(paths), visible=progress) as advance:
        for start in range(0, len(paths), BLOCK_ROWS):
            rows = range(start, min(start + BLOCK_ROWS, len(paths)))
            data = little_endian(np.stack(list(pool.map(read, rows))))
            file.write(data)
            digest.update(data)
            advance(len(rows))
    file.flush()  # a full disk is told here, while the old pack is whole
    return {
        "format": FORMAT,
        "fingerprint": digest.hexdigest(),
        "rows": len(paths),
        "width": width,
        "matrix_bytes": file.tell(),
        "volumes": list(manifest.volumes),
    }


def _read_row(manifest: Manifest, paths: Sequence[Path], index: int) -> NDArray[np.float32]:
    try:
        return read_feature(paths[index])
    except FeatureError as error:
        raise FeatureError(f"{error} ({manifest.place(index)})") from None
