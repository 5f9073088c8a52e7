"""Tensors in files that `torch.save` wrote, in its zip format or in the one from before torch 1.6.

Only what `weights_only` allows is unpickled, and declared sizes are checked before torch allocates.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from headsweep.data.features import MAX_BYTES, check_array, choose_key, is_archive, is_vector
from headsweep.errors import FeatureError

LEGACY_PICKLES = 5
"""A legacy file is five pickles (magic number, version, system, object, keys), then storages."""

OBJECT = 3
"""Index of the pickle that describes the tensors."""

_NUMBERS = frozenset({"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"})
"""Opcodes that push an integer."""

LARGEST_ITEM = 16
"""Bytes of torch's largest type."""


def read_tensor(path: Path, key: str | None) -> NDArray[Any]:
    """Read the tensor of a file: alone, in a list of one, or in a dict.

    Args:
        path: the file.
        key: name of the tensor in a dict that holds several.

    Returns:
        The tensor's values as float32.

    Raises:
        FeatureError: the file holds no tensor or several, or is not what it declares.
    """
    content = _load_archive(path) if is_archive(path) else _load_legacy(path)
    tensor = _chosen(path, content, key)
    check_array(path, tuple(tensor.shape), str(tensor.dtype), numeric=_is_numeric(tensor))
    values: NDArray[Any] = tensor.detach().to(torch.float32).numpy()
    return values


def _load_archive(path: Path) -> object:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    total = sum(entry.file_size for entry in entries)
    if total > MAX_BYTES:
        raise FeatureError(
            f"{path}: a feature file must declare at most {MAX_BYTES} bytes, found {total}"
        )
    content = _load(path, path)
    stored = sorted(entry.file_size for entry in entries if "/data/" in entry.filename)
    if sorted(_storage_sizes(content)) != [size for size in stored if size]:
        raise FeatureError(f"{path}: the tensors declare other sizes than the file stores")
    return content


def _load_legacy(path: Path) -> object:
    with path.open("rb") as file:
        _check_legacy_sizes(path, file)
        file.seek(0)
        content = _load(path, file)
        if file.read(1):
            raise FeatureError(f"{path}: the feature file is damaged: bytes follow the tensors")
    if sum(_storage_sizes(content)) > path.stat().st_size:
        raise FeatureError(f"{path}: the tensors declare other sizes than the file stores")
    return content


def _check_legacy_sizes(path: Path, file: IO[bytes]) -> None:
    """Refuse a number that no size in a file of this length can be; torch allocates by them.

    Raises:
        FeatureError: a number is larger than the file.
    """
    size = path.stat().st_size
    storages = largest = 0
    for index in range(LEGACY_PICKLES):
        for opcode, argument, _ in pickletools.genops(file):
            if index == OBJECT and opcode.name in _NUMBERS and isinstance(argument, int):
                largest = max(largest, abs(argument))
            storages += opcode.name == "BINPERSID"
    if largest > size or storages * largest * LARGEST_ITEM > LARGEST_ITEM * MAX_BYTES:
        raise FeatureError(
            f"{path}: the tensors declare other sizes than the file stores ({largest} of {size})"
        )


def _load(path: Path, file: Path | IO[bytes]) -> object:
    from pickle import UnpicklingError  # noqa: TID251 (the error alone)

    try:
        content: object = torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251
    except UnpicklingError:
        raise FeatureError(
            f"{path}: the file holds objects that only pickle can load; save the tensor alone"
        ) from None
    return content


def _chosen(path: Path, content: object, key: str | None) -> Tensor:
    if isinstance(content, Sequence) and not isinstance(content, str | bytes):
        if len(content) != 1:
            raise FeatureError(
                f"{path}: the file holds a {type(content).__name__} of {len(content)}; "
                "it must hold one tensor"
            )
        return _chosen(path, content[0], key)
    if isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if _is_feature(value)}
        if not tensors:
            names = ", ".join(repr(str(name)) for name in list(content)[:5])
            raise FeatureError(f"{path}: no vector of numbers among {names or 'no entries'}")
        tensor: Tensor = tensors[choose_key(path, list(tensors), key)]
        return tensor
    if not isinstance(content, Tensor) or content.layout != torch.strided:
        kind = type(content).__name__
        raise FeatureError(f"{path}: the file must hold one dense tensor, found {kind}")
    return content


def _is_feature(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and _is_numeric(value)
        and is_vector(tuple(value.shape))
    )


def _is_numeric(tensor: Tensor) -> bool:
    return not (tensor.is_complex() or tensor.is_quantized or tensor.dtype == torch.bool)


def _storage_sizes(content: object) -> list[int]:
    """Return the bytes of every distinct storage of the tensors in an object; empty ones not."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in _tensors(content)
    }
    return [size for size in storages.values() if size]


def _tensors(content: object) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        if content.layout == torch.strided:
            yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from _tensors(value)
    elif isinstance(content, list | tuple | set):
        for value in content:
            yield from _tensors(value)
