"""Feature files: one vector a file, read without trusting what the file says of itself.

A file may come from anywhere, so no pickle is run, and a size that a header declares is judged
before anything of that size is read or allocated.
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
"""How numpy packs; `zipfile` unpacks the others without a bound: 3 kB of bzip2 hold gigabytes."""

PREFERRED_KEYS = ("arr", "embeddings")
"""Keys under which CT-CLIP and other encoders store the vector, most preferred first."""


def outside(root: Path, paths: Sequence[Path]) -> Iterator[int]:
    """Indices of the paths that links lead out of `root`, which may be a link itself."""
    inside = os.path.join(os.path.realpath(root), "")  # noqa: PTH118 (it must end in a slash)
    folders = {folder: os.path.realpath(folder) for folder in {path.parent for path in paths}}
    for index, path in enumerate(paths):
        real = os.path.realpath(path) if path.is_symlink() else f"{folders[path.parent]}/"
        if not f"{real}/".startswith(inside):
            yield index


def read_feature(path: Path) -> NDArray[np.float32]:
    """The vector in a `.npz`, `.npy`, `.pt` or `.safetensors` file.

    Returns:
        Shape (d,), finite. Any float or integer type of either byte order is converted.

    Raises:
        FeatureError: the file is missing, empty, damaged, too large, or holds anything else than
            one finite vector of shape (d,) or (1, d).
    """
    reader = READERS.get(path.suffix)
    if reader is None:
        raise FeatureError(
            f"{path}: a feature file must end in {', '.join(READERS)}, found {path.suffix!r}"
        )
    try:
        size = path.stat().st_size
        if size == 0:
            raise FeatureError(f"{path}: a feature file must hold a vector, found 0 bytes")
        _judge_size(path, size)
        values = reader(path)
    except FileNotFoundError:
        raise FeatureError(f"{path}: a feature file must exist, found no file") from None
    except FeatureError:
        raise
    except Exception as error:  # parsers of damaged files raise whatever they stumble over
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise FeatureError(f"{path}: a feature file must be whole, found {reason}") from None
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
    """The array of numbers under a key of a `.npz` file, in its own shape and type.

    Raises:
        FeatureError: the file is missing, damaged or too large, or holds no such array.
    """
    try:
        with _open_archive(path) as archive, _open_member(path, archive, f"{key}.npy") as member:
            shape, in_columns, dtype = _read_header(path, member)
            _judge_type(path, str(dtype), numeric=dtype.kind in "fiub")
            _judge_size(path, math.prod(shape) * dtype.itemsize, MAX_MATRIX_BYTES)
            values = _read_values(path, member, math.prod(shape), dtype)
            return values.reshape(shape, order="F" if in_columns else "C")
    except FeatureError:
        raise
    except KeyError:
        raise FeatureError(f"{path}: must hold the array {key!r}, found none") from None
    except Exception as error:  # as above
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise FeatureError(f"{path}: must be a whole npz file, found {reason}") from None


def _read_npy(path: Path) -> NDArray[Any]:
    with path.open("rb") as file:
        return _read_array(path, file)


def _read_npz(path: Path) -> NDArray[Any]:
    with _open_archive(path) as archive:
        names = {name.removesuffix(".npy"): name for name in archive.namelist()}
        with _open_member(path, archive, names[_choose_key(path, list(names))]) as member:
            return _read_array(path, member)


def _open_archive(path: Path) -> zipfile.ZipFile:
    """A zip archive, which begins with its first member: readers disagree about others."""
    with path.open("rb") as file:
        found = file.read(4)
    if found != b"PK\3\4":
        raise FeatureError(f"{path}: a feature file must be whole, found no zip archive")
    return zipfile.ZipFile(path)


def _open_member(path: Path, archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    if archive.getinfo(name).compress_type not in PACKED_BY:
        raise FeatureError(f"{path}: arrays must be stored or deflated, found another compression")
    return archive.open(name)


def _read_array(path: Path, file: IO[bytes]) -> NDArray[Any]:
    """The vector of an npy stream: header first, then exactly as many bytes as it declares."""
    shape, _, dtype = _read_header(path, file)
    _judge_array(path, shape, str(dtype), numeric=dtype.kind in "fiu", itemsize=dtype.itemsize)
    return _read_values(path, file, math.prod(shape), dtype)


_PARSING = threading.Lock()
"""NumPy reads a header by `ast`, which counts its depth for all threads of CPython 3.11 together:
of two at once, one may fail with "recursion depth mismatch"."""


def _read_header(path: Path, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type."""
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


def _read_safetensors(path: Path) -> NDArray[Any]:
    from safetensors import SafetensorError, safe_open

    numpy_types = {"F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8"}
    torch_types = {"BF16", "F8_E4M3", "F8_E5M2"}
    try:
        with safe_open(path, framework="numpy") as file:
            key = _choose_key(path, list(file.keys()))
            declared = file.get_slice(key)
            dtype, shape = declared.get_dtype(), declared.get_shape()
            _judge_array(path, shape, dtype, numeric=dtype in numpy_types | torch_types)
            if dtype in numpy_types:
                values: NDArray[Any] = file.get_tensor(key)
                return values
        with safe_open(path, framework="pt") as file:
            floats: NDArray[Any] = file.get_tensor(key).float().numpy()
            return floats
    except SafetensorError as error:
        raise FeatureError(f"{path}: a feature file must be whole, found {error}") from None


def _read_pt(path: Path) -> NDArray[Any]:
    from pickle import UnpicklingError  # noqa: TID251 (the error alone)

    import torch

    with _open_archive(path) as archive:  # torch.save has written zip archives since 1.6
        entries = archive.infolist()
    _judge_size(path, sum(entry.file_size for entry in entries))
    stored = [entry.file_size for entry in entries if "/data/" in entry.filename]
    if len(stored) > 1:
        raise FeatureError(f"{path}: a .pt file must hold one tensor, found {len(stored)} storages")
    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except UnpicklingError:
        raise FeatureError(
            f"{path}: a .pt file must hold one tensor, found objects that only pickle can load"
        ) from None
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
        kind = type(tensor).__name__
        raise FeatureError(f"{path}: a .pt file must hold one dense tensor, found {kind}")
    numeric = not (tensor.is_complex() or tensor.is_quantized or tensor.dtype == torch.bool)
    _judge_array(path, tuple(tensor.shape), str(tensor.dtype), numeric=numeric)
    if tensor.untyped_storage().nbytes() > sum(stored):
        raise FeatureError(f"{path}: the tensor must lie in the file, found a larger declared size")
    values: NDArray[Any] = tensor.detach().to(torch.float32).numpy()
    return values


def _choose_key(path: Path, keys: Sequence[str]) -> str:
    for key in PREFERRED_KEYS:
        if key in keys:
            return key
    if len(keys) != 1:
        raise FeatureError(
            f"{path}: the array must be under the key {' or '.join(PREFERRED_KEYS)}, or be the "
            f"only one, found {len(keys)} keys{''.join(f' {key!r}' for key in keys[:5])}"
        )
    return keys[0]


def _judge_size(path: Path, size: int, limit: int = MAX_BYTES) -> None:
    if size > limit:
        raise FeatureError(
            f"{path}: a feature file must declare at most {limit} bytes, found {size}"
        )


def _judge_type(path: Path, dtype: str, *, numeric: bool) -> None:
    if not numeric:
        raise FeatureError(f"{path}: features must be floats or integers, found {dtype}")


def _judge_array(
    path: Path, shape: Sequence[int], dtype: str, *, numeric: bool, itemsize: int = 4
) -> None:
    _judge_type(path, dtype, numeric=numeric)
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[0] != 1) or shape[-1] < 1:
        raise FeatureError(f"{path}: a feature must have shape (d,) or (1, d), found {shape}")
    _judge_size(path, math.prod(shape) * max(itemsize, 4))


READERS: Mapping[str, Callable[[Path], NDArray[Any]]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".pt": _read_pt,
    ".safetensors": _read_safetensors,
}
