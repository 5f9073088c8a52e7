"""Feature files: one vector a file, read without trusting what the file declares.

A file may be untrusted, so no pickle is run, and a declared size is checked before anything of that
size is read or allocated.
"""

from __future__ import annotations

import math
import os
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from headsweep.errors import FeatureError

MAX_BYTES = 64 * 2**20
"""Most bytes that one feature file, or the array in it, may take."""
MAX_MATRIX_BYTES = 2**30
"""The same for a matrix of many rows in one file."""

PACKED_BY = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""How numpy compresses; `zipfile` unpacks other methods without a bound: 3 kB of bzip2 can hold
gigabytes."""

PREFERRED_KEYS = ("arr", "embeddings")
"""Keys under which CT-CLIP and other encoders store the vector, most preferred first."""

LEADS_OUTSIDE = (
    "a link leads out of paths.data_root; data.follow_links=true allows that, if you trust the "
    "links"
)


def outside(root: Path, paths: Sequence[Path]) -> Iterator[int]:
    """Find the paths that links lead out of `root`, which may be a link itself.

    Yields:
        Their indices.
    """
    inside = os.path.join(os.path.realpath(root), "")  # noqa: PTH118 (it must end in a slash)
    folders = {folder: os.path.realpath(folder) for folder in {path.parent for path in paths}}
    for index, path in enumerate(paths):
        real = os.path.realpath(path) if path.is_symlink() else f"{folders[path.parent]}/"
        if not f"{real}/".startswith(inside):
            yield index


def read_feature(path: Path, key: str | None = None) -> NDArray[np.float32]:
    """Read the vector in a `.npz`, `.npy`, `.pt`, `.pth` or `.safetensors` file.

    Args:
        path: the file.
        key: name of the array in files that hold several; None takes `arr`, `embeddings`, or the
            only one.

    Returns:
        Shape (d,), finite. Any float or integer type of either byte order is converted.

    Raises:
        FeatureError: the file is missing, empty, damaged, too large, or does not hold one finite
            vector: an array in which one axis at most is longer than 1.
    """
    reader = READERS.get(path.suffix)
    if reader is None:
        raise FeatureError(
            f"{path}: a feature file must end in {', '.join(READERS)}, found {path.suffix!r}"
        )
    try:
        size = path.stat().st_size
        if size == 0:
            raise FeatureError(f"{path}: the feature file is empty (0 bytes)")
        _check_size(path, size)
        values = reader(path, key)
    except FileNotFoundError:
        raise FeatureError(f"feature file not found: {path}") from None
    except FeatureError:
        raise
    except Exception as error:  # parsers of damaged files raise whatever they stumble over
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise FeatureError(f"{path}: the feature file is damaged: {reason}") from None
    with np.errstate(over="ignore"):
        vector = values.reshape(-1).astype(np.float32)
    if not np.isfinite(vector).all():
        bad = int(np.flatnonzero(~np.isfinite(vector))[0])
        raise FeatureError(f"{path}: features must be finite, found {vector[bad]} at index {bad}")
    with np.errstate(over="ignore"):
        squared_length = np.square(vector).sum()
    if not np.isfinite(squared_length):  # also what the wrong byte order makes of any features
        raise FeatureError(
            f"{path}: features must have a finite squared length in float32, "
            f"found values up to {np.abs(vector).max()}"
        )
    return vector


def read_matrix(path: Path, key: str) -> NDArray[Any]:
    """Read the array of numbers under a key of a `.npz` file.

    Returns:
        The array in its own shape and type.

    Raises:
        FeatureError: the file is missing, damaged or too large, or holds no such array.
    """
    try:
        with _open_archive(path) as archive, _open_member(path, archive, f"{key}.npy") as member:
            shape, in_columns, dtype = _read_header(path, member)
            _check_type(path, str(dtype), numeric=dtype.kind in "fiub")
            _check_size(path, math.prod(shape) * dtype.itemsize, MAX_MATRIX_BYTES)
            values = _read_values(path, member, math.prod(shape), dtype)
            return values.reshape(shape, order="F" if in_columns else "C")
    except FeatureError:
        raise
    except KeyError:
        raise FeatureError(f"{path}: no array {key!r} in the file") from None
    except Exception as error:  # as above
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise FeatureError(f"{path}: the npz file is damaged: {reason}") from None


def array_names(path: Path) -> tuple[str, ...]:
    """Return the names of the arrays in a `.npz` file.

    Raises:
        FeatureError: the file is missing or damaged.
    """
    try:
        with _open_archive(path) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())
    except FileNotFoundError:
        raise FeatureError(f"file not found: {path}") from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise FeatureError(f"{path}: the npz file is damaged: {error}") from None


def _read_npy(path: Path, key: str | None) -> NDArray[Any]:
    with path.open("rb") as file:
        return _read_array(path, file)


def _read_npz(path: Path, key: str | None) -> NDArray[Any]:
    with _open_archive(path) as archive:
        names = {name.removesuffix(".npy"): name for name in archive.namelist()}
        with _open_member(path, archive, names[choose_key(path, list(names), key)]) as member:
            return _read_array(path, member)


def _open_archive(path: Path) -> zipfile.ZipFile:
    """Open a zip archive that begins with its first member: readers disagree about others.

    Returns:
        The archive.

    Raises:
        FeatureError: the file begins otherwise.
    """
    if not is_archive(path):
        raise FeatureError(f"{path}: the feature file is damaged: not a zip archive")
    return zipfile.ZipFile(path)


def is_archive(path: Path) -> bool:
    """Return whether a file begins as a zip archive does."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\3\4"


def _open_member(path: Path, archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    if archive.getinfo(name).compress_type not in PACKED_BY:
        raise FeatureError(f"{path}: arrays must be stored or deflated, found another compression")
    return archive.open(name)


def _read_array(path: Path, file: IO[bytes]) -> NDArray[Any]:
    """Read the vector of an npy stream: its header, then exactly the bytes that it declares.

    Returns:
        The values.
    """
    shape, _, dtype = _read_header(path, file)
    check_array(path, shape, str(dtype), numeric=dtype.kind in "fiu", itemsize=dtype.itemsize)
    return _read_values(path, file, math.prod(shape), dtype)


_PARSING = threading.Lock()
"""NumPy parses a header with `ast`, whose depth counter CPython 3.11 shares between threads: of two
at once, one may fail with "recursion depth mismatch"."""


def _read_header(path: Path, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return the shape, whether columns come first, and the type.

    Raises:
        FeatureError: the version of the npy format is unknown.
    """
    version = npy_format.read_magic(file)
    read_header: Mapping[tuple[int, int], Callable[..., Any]] = {
        (1, 0): npy_format.read_array_header_1_0,
        (2, 0): npy_format.read_array_header_2_0,
    }
    if version not in read_header:
        raise FeatureError(f"{path}: the npy format must be 1.0 or 2.0, found {version}")
    with _PARSING:
        header: tuple[tuple[int, ...], bool, np.dtype[Any]] = read_header[version](file)
    return header


def _read_values(path: Path, file: IO[bytes], n: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    size = n * dtype.itemsize
    # One byte more than declared: a longer stream shows, and a zip member's checksum is verified.
    data = file.read(size + 1)
    if len(data) != size:
        found = "more" if len(data) > size else f"{len(data)}"
        raise FeatureError(f"{path}: the array must have the declared {size} bytes, found {found}")
    return np.frombuffer(data, dtype=dtype)


def _read_safetensors(path: Path, chosen: str | None) -> NDArray[Any]:
    from safetensors import SafetensorError, safe_open

    numpy_types = {"F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8"}
    torch_types = {"BF16", "F8_E4M3", "F8_E5M2"}
    try:
        with safe_open(path, framework="numpy") as file:
            key = choose_key(path, list(file.keys()), chosen)
            declared = file.get_slice(key)
            dtype, shape = declared.get_dtype(), declared.get_shape()
            check_array(path, shape, dtype, numeric=dtype in numpy_types | torch_types)
            if dtype in numpy_types:
                values: NDArray[Any] = file.get_tensor(key)
                return values
        with safe_open(path, framework="pt") as file:
            floats: NDArray[Any] = file.get_tensor(key).float().numpy()
            return floats
    except SafetensorError as error:
        raise FeatureError(f"{path}: the feature file is damaged: {error}") from None


def choose_key(path: Path, keys: Sequence[str], chosen: str | None) -> str:
    """Choose one of the arrays in a file.

    Args:
        path: the file, for the error.
        keys: names of its arrays.
        chosen: the name that `data.feature_key` gives, if any.

    Returns:
        `chosen` if the file has it, else `arr`, `embeddings` or the only name.

    Raises:
        FeatureError: the file holds no array, or several among which none of these is.
    """
    listed = ", ".join(repr(key) for key in keys[:5]) + (", …" if len(keys) > 5 else "")
    if chosen is not None and len(keys) > 1 and chosen not in keys:
        raise FeatureError(f"{path}: no array {chosen!r} (data.feature_key) among {listed}")
    for key in (chosen, *PREFERRED_KEYS):
        if key in keys and key is not None:
            return key
    if len(keys) != 1:
        raise FeatureError(
            f"{path}: the file holds {len(keys)} arrays{': ' if keys else ''}{listed}; "
            "data.feature_key names the one to read"
            if keys
            else f"{path}: the file holds no array"
        )
    return keys[0]


def _check_size(path: Path, size: int, limit: int = MAX_BYTES) -> None:
    if size > limit:
        raise FeatureError(
            f"{path}: a feature file must declare at most {limit} bytes, found {size}"
        )


def _check_type(path: Path, dtype: str, *, numeric: bool) -> None:
    if not numeric:
        raise FeatureError(f"{path}: features must be floats or integers, found {dtype}")


def is_vector(shape: Sequence[int]) -> bool:
    """Return whether an array has a value, and one axis at most that is longer than 1."""
    return len(shape) > 0 and min(shape) > 0 and sum(length > 1 for length in shape) <= 1


def check_array(
    path: Path, shape: Sequence[int], dtype: str, *, numeric: bool, itemsize: int = 4
) -> None:
    """Refuse a declared array that is no vector of numbers, or too large.

    Raises:
        FeatureError: names the file and what it declares.
    """
    _check_type(path, dtype, numeric=numeric)
    if not is_vector(shape):
        raise FeatureError(
            f"{path}: a feature must be one vector, of shape (d,) or (1, d), found {tuple(shape)}"
        )
    _check_size(path, math.prod(shape) * max(itemsize, 4))


def _read_torch(path: Path, key: str | None) -> NDArray[Any]:
    from headsweep.data.torch_files import read_tensor

    return read_tensor(path, key)


READERS: Mapping[str, Callable[[Path, str | None], NDArray[Any]]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".safetensors": _read_safetensors,
}
