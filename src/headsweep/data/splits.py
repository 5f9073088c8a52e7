"""One split of the data in memory, and the fingerprints of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from headsweep.config.schema import Config, Modality, RetrievalConfig

MODALITIES: tuple[Modality, ...] = ("visual", "text")

ZERO_SHOT_INPUT: Modality = "visual"
"""Features with which prompts are compared."""

BLOCK_ROWS = 1024
"""Rows that are hashed or written at once, which bounds the memory needed."""


@dataclass(frozen=True, eq=False)
class Split:
    """One split of the data; row i of every field is the same volume.

    `targets` has shape (n, c): 0, 1, or `metrics.masking.BLANK` where a label is not known.
    `features[modality]` has shape (n, d) and is finite float32. The fingerprints are SHA-256 of
    content, so equal data have equal fingerprints wherever they are stored.
    """

    name: str
    volumes: tuple[str, ...]
    patients: tuple[str, ...]
    scans: tuple[str, ...]
    labels: tuple[str, ...]
    targets: NDArray[np.uint8]
    features: Mapping[Modality, NDArray[np.float32]]
    reports: tuple[str, ...] | None
    manifest_fingerprint: str
    feature_fingerprints: Mapping[Modality, str]
    n_left_out: int = 0
    """Rows that `data.shared_content=drop` left out."""
    label_source: str = ""
    """Where the labels come from: a manifest, and its label map if it has one."""
    label_map_fingerprint: str | None = None

    def with_modalities(self, modalities: Sequence[Modality]) -> Split:
        """Leave out the features of other modalities.

        Returns:
            The same rows with the features of `modalities` alone.
        """
        return replace(
            self,
            features={modality: self.features[modality] for modality in modalities},
            feature_fingerprints={m: self.feature_fingerprints[m] for m in modalities},
        )


def required_modalities(config: Config) -> tuple[Modality, ...]:
    """Return the modalities that training this config reads; a retrieval head pairs both."""
    if isinstance(config.head, RetrievalConfig) or config.features.input == "both":
        return MODALITIES
    return (config.features.input,)


def search_fingerprints(train: Split, valid: Split) -> dict[str, str]:
    """Return the fingerprints of everything that a search reads, by name of the content."""
    fingerprints: dict[str, str] = {}
    for split in (train, valid):
        fingerprints[f"{split.name} manifest"] = split.manifest_fingerprint
        for modality, fingerprint in split.feature_fingerprints.items():
            fingerprints[f"{split.name} {modality} features"] = fingerprint
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
