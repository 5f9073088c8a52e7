"""One split of the data in memory, and the fingerprints of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from headsweep.config.head_section import RetrievalConfig
from headsweep.config.inputs import input_names, paired_inputs
from headsweep.config.schema import Config

BLOCK_ROWS = 1024
"""Rows that are hashed or written at once, which bounds the memory needed."""


@dataclass(frozen=True, eq=False)
class Split:
    """One split of the data; row i of every field is the same volume.

    `targets` has shape (n, c): 0, 1, or `metrics.masking.BLANK` where a label is not known.
    `features[name]` of an input has shape (n, d) and is finite float32. The fingerprints are
    SHA-256 of content, so equal data have equal fingerprints wherever they are stored.
    """

    name: str
    volumes: tuple[str, ...]
    patients: tuple[str, ...]
    scans: tuple[str, ...]
    labels: tuple[str, ...]
    targets: NDArray[np.uint8]
    features: Mapping[str, NDArray[np.float32]]
    reports: tuple[str, ...] | None
    manifest_fingerprint: str
    feature_fingerprints: Mapping[str, str]
    n_left_out: int = 0
    """Rows that `data.shared_content=drop` left out."""
    label_source: str = ""
    """Where the labels come from: a manifest, and its label map if it has one."""
    label_map_fingerprint: str | None = None

    def with_inputs(self, names: Sequence[str]) -> Split:
        """Leave out the features of other inputs.

        Returns:
            The same rows with the features of the inputs `names` alone.
        """
        return replace(
            self,
            features={name: self.features[name] for name in names},
            feature_fingerprints={name: self.feature_fingerprints[name] for name in names},
        )


def required_inputs(config: Config) -> tuple[str, ...]:
    """Return the names of the inputs that training this config reads.

    A retrieval head pairs visual and text inputs (see `paired_inputs`).
    """
    features = config.features
    if not isinstance(config.head, RetrievalConfig):
        return input_names(features.input)
    sides = paired_inputs(features.input, features.partner, config.data.modalities)
    return tuple(name for names in sides.values() for name in names)


def in_order(names: Iterable[str], config: Config) -> tuple[str, ...]:
    """Return distinct inputs in the order of the config: built-in ones first."""
    chosen = set(names)
    return tuple(name for name in config.data.modalities if name in chosen)


def search_fingerprints(train: Split, valid: Split) -> dict[str, str]:
    """Return the fingerprints of everything that a search reads, by name of the content."""
    fingerprints: dict[str, str] = {}
    for split in (train, valid):
        fingerprints[f"{split.name} manifest"] = split.manifest_fingerprint
        for name, fingerprint in split.feature_fingerprints.items():
            fingerprints[f"{split.name} {name} features"] = fingerprint
    return fingerprints


def row_digests(matrix: NDArray[np.float32]) -> list[bytes]:
    """Return a short digest of every row of features with shape (n, d).

    Equal rows have equal digests.
    """
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in matrix]


def rows_fingerprint(
    volumes: Sequence[str],
    labels: Sequence[str],
    targets: NDArray[np.uint8],
    groups: Sequence[Sequence[str]] = (),
) -> str:
    """Return SHA-256 over volumes, labels and targets.

    Args:
        volumes: name of every row.
        labels: names of the columns of `targets`.
        targets: shape (n, c), 0, 1 or `BLANK`.
        groups: patients and scans of every row, where they do not follow from the volume names.
    """
    digest = hashlib.sha256("\n".join((*volumes, "", *labels)).encode())
    digest.update(np.ascontiguousarray(targets).tobytes())
    for names in groups:
        digest.update("\n".join(("", *names)).encode())
    return digest.hexdigest()


def content_fingerprint(volumes: Sequence[str], matrix: NDArray[np.float32]) -> str:
    """Return SHA-256 over volumes and values of features with shape (n, d)."""
    digest = begin_fingerprint(volumes, matrix.shape[1])
    for block in _blocks(matrix):
        digest.update(little_endian(block))
    return digest.hexdigest()


def begin_fingerprint(volumes: Sequence[str], width: int) -> hashlib._Hash:
    """Return the hash of volumes and width, to which the rows' bytes are then added in order."""
    return hashlib.sha256("\n".join((*volumes, str(width), "")).encode())


def little_endian(block: NDArray[np.float32]) -> bytes:
    """Return the values of a block as little-endian float32, row by row."""
    return np.ascontiguousarray(block, dtype="<f4").tobytes()


def _blocks(matrix: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(matrix), BLOCK_ROWS):
        yield matrix[start : start + BLOCK_ROWS]
