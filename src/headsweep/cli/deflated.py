"""Texts compressed apart, and joined to one zlib stream without compressing them again."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_ADLER_BASE = 65521
_HEADER = b"\x78\x01"
_LAST_BLOCK = b"\x03\x00"


@dataclass(frozen=True)
class Piece:
    """A compressed part of a text; `checksum` is the Adler-32 of the `length` original bytes."""

    blocks: bytes
    length: int
    checksum: int


def compress(text: bytes) -> Piece:
    """Compress a part of a text.

    Returns:
        The part, as deflate blocks that refer to no other part.
    """
    compressor = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    blocks = compressor.compress(text) + compressor.flush(zlib.Z_FULL_FLUSH)
    return Piece(blocks, len(text), zlib.adler32(text))


def decompress(pieces: Iterable[Piece]) -> Iterator[bytes]:
    """Yield the text of each piece."""
    for piece in pieces:
        yield zlib.decompressobj(-zlib.MAX_WBITS).decompress(piece.blocks)


def stream(pieces: Iterable[Piece]) -> list[bytes]:
    """Join pieces to one zlib stream (RFC 1950), which HTTP names `deflate`.

    Returns:
        The parts of the stream.
    """
    parts, checksum = [_HEADER], 1
    for piece in pieces:
        parts.append(piece.blocks)
        checksum = _joined(checksum, piece)
    return [*parts, _LAST_BLOCK + struct.pack(">I", checksum)]


def _joined(checksum: int, piece: Piece) -> int:
    """Return the Adler-32 of a text and the piece after it."""
    low, high = checksum & 0xFFFF, checksum >> 16
    high += (piece.checksum >> 16) + piece.length * (low - 1)
    low += (piece.checksum & 0xFFFF) - 1
    return (high % _ADLER_BASE) << 16 | low % _ADLER_BASE
