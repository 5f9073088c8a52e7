"""Atomic replacement of files and folders: a reader sees the old or the new one, never a part.

Content is written to `.<name>.partial` beside the target and renamed to it at the end. The writer
holds a lock on that file, which the kernel frees when the process ends: two writers of one file
wait for each other, and the next writer takes over what a crashed one left.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any

_SYNCED_LATER: ContextVar[Path | None] = ContextVar("synced_later", default=None)
"""The folder whose files `synced_together` puts on disk; threads do not inherit it."""


@contextmanager
def replacing(path: Path, *, mode: int | None = None) -> Iterator[IO[bytes]]:
    """Open a binary file that replaces `path` when its block has ended without an error.

    A link is followed; what is no file, such as `/dev/stdout`, is written to as it is.

    Args:
        path: the file; its folder exists.
        mode: its permissions; None leaves them to the process's mask.

    Yields:
        The file to write to; the content is on disk before it replaces `path`, except within
        `synced_together`.

    Raises:
        OSError: names `path`; it is as it was.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    partial = _partial(target)
    try:
        handle = _claim(partial, lambda: _open_file(partial, mode))
        with os.fdopen(handle, "wb") as file:
            try:
                file.truncate()
                yield file
                file.flush()
                if not _is_synced_later(target):
                    os.fsync(handle)
                partial.replace(target)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
    except OSError as error:
        if error.filename in (None, str(partial)):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from None
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file; see `replacing`."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, text: str, *, mode: int | None = None) -> None:
    """Replace a file of UTF-8 text; see `replacing`."""
    with replacing(path, mode=mode) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Replace a file of JSON; see `replacing`.

    Args:
        path: the file; its folder exists.
        value: plain data without NaN or infinity, which JSON does not have.
        indent: spaces a level; None writes one line.

    Raises:
        OSError: names `path`; it is as it was.
        ValueError: a number is not finite.
    """
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Open a folder that appears at `path` when its block has ended without an error.

    Yields:
        The temporary folder to fill; nothing, or an empty folder, may be at `path`.

    Raises:
        OSError: it cannot be written, or something is at `path`.
    """
    partial = _partial(path)
    with ExitStack() as held:
        try:
            handle = _claim(partial, lambda: _open_folder(partial))
            held.callback(os.close, handle)
            _empty(partial)
            with synced_together(partial):
                yield partial
            partial.replace(path)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, OSError):
                raise OSError(error.errno, error.strerror or str(error), str(path)) from None
            raise


def reason(error: OSError) -> str:
    """Return why a file could not be read or written, without number and path."""
    return error.strerror or str(error)


@contextmanager
def synced_together(folder: Path) -> Iterator[None]:
    """Put the files that the block writes below a folder on disk together, after the block.

    This is for folders that become visible as a whole: each `fsync` waits for the disk, so one
    after each of hundreds of files takes seconds.
    """
    token = _SYNCED_LATER.set(Path(os.path.realpath(folder)))
    try:
        yield
    finally:
        _SYNCED_LATER.reset(token)
    sync_file_system(folder)


def sync_file_system(folder: Path) -> None:
    """Wait until everything written to the file system of a folder is on disk.

    Raises:
        OSError: data could not be written.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "syncfs"):  # Linux alone has it
        os.sync()
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if libc.syncfs(handle) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path, *, wait: bool = True, shared: bool = False) -> Iterator[None]:
    """Hold a lock that the kernel frees when its holder ends; the file at `path` stays.

    The folder may be untrusted: no link is followed, which would make a file elsewhere, and no
    pipe is waited for.

    Args:
        path: the lock file.
        wait: whether to wait while another process holds the lock.
        shared: whether other readers may hold it too; the file must exist and is only read.

    Raises:
        BlockingIOError: another process holds it, and `wait` is false.
        OSError: the file cannot be made, or it is a link.
    """
    access = os.O_RDONLY if shared else os.O_WRONLY | os.O_CREAT
    try:
        handle = os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            found = f"a symbolic link in place of the lock file {path.name}"
            raise OSError(errno.ELOOP, found, str(path)) from None
        raise
    with os.fdopen(handle, "rb" if shared else "wb"):
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
        yield


def _is_synced_later(target: Path) -> bool:
    folder = _SYNCED_LATER.get()
    return folder is not None and target.is_relative_to(folder)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _claim(partial: Path, open_it: Callable[[], int]) -> int:
    """Return a locked handle of `partial` once no other writer uses it."""
    while True:
        handle = open_it()
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_at(handle, partial):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # the previous writer has renamed it meanwhile


def _open_file(partial: Path, mode: int | None) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(partial, flags, 0o666 if mode is None else mode)
    if mode is not None:
        os.fchmod(handle, mode)  # it may be a crashed writer's
    return handle


def _open_folder(partial: Path) -> int:
    partial.mkdir(parents=True, exist_ok=True)
    return os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _is_at(handle: int, path: Path) -> bool:
    try:
        there = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(handle), there)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
