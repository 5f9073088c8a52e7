"""Standard streams whose faults never change how a command ends.

A reader may leave early (`| head`), a stream may be closed (`>&-`), a disk may be full, and the
terminal may use an encoding other than UTF-8. The work continues; output that cannot be written is
lost.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from typing import Any

_SPELLED = {
    "–": "-",
    "—": "-",
    "…": "...",
    "·": "-",
    "±": "+/-",
    "×": "x",
    "µ": "u",
    "≤": "<=",
    "≥": ">=",
    "→": "->",
}
"""Characters that have a plain spelling; any other that cannot be encoded becomes `?`."""


class _Descriptor(io.FileIO):
    """A file descriptor to which writing never fails; `fault` is the first error, if any."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._is_lost = False
        self.fault: OSError | None = None

    def write(self, data: Any) -> int:
        """Write, or drop the bytes after the first fault.

        Returns:
            Number of bytes that were written or dropped.
        """
        if not self._is_lost:
            try:
                return super().write(data)
            except OSError as error:
                self._is_lost = True
                self.fault = None if error.errno == errno.EPIPE else error
        return len(data)


class OutputStream(io.TextIOWrapper):
    """Text on a descriptor; a character that cannot be encoded is spelled in ASCII."""

    def __init__(self, descriptor: int, encoding: str) -> None:
        self._raw = _Descriptor(descriptor)
        super().__init__(
            io.BufferedWriter(self._raw),
            encoding=encoding,
            errors="headsweep",
            line_buffering=descriptor == 2 or self._raw.isatty(),
        )

    @property
    def fault(self) -> OSError | None:
        """Why output was lost; None if nothing was, or if its reader left early."""
        self.flush()
        return self._raw.fault


def protect() -> None:
    """Replace the process's own standard output and error; streams of a test are left alone."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file that is opened would get its number
            os.open(os.devnull, os.O_RDWR)
    codecs.register_error("headsweep", _spell)
    for name, original, descriptor in (
        ("stdout", sys.__stdout__, 1),
        ("stderr", sys.__stderr__, 2),
    ):
        if getattr(sys, name) is original:
            encoding = original.encoding if original is not None else "utf-8"
            setattr(sys, name, OutputStream(descriptor, encoding))


def output_fault() -> OSError | None:
    """Return why standard output lost something, or None."""
    return sys.stdout.fault if isinstance(sys.stdout, OutputStream) else None


def _spell(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lost = error.object[error.start : error.end]
    return "".join(_SPELLED.get(character, "?") for character in lost), error.end
