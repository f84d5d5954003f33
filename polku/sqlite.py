"""SQLite files: connections, descriptors of the same files that SQLite knows nothing of, and what its errors mean.

SQLite locks a file with POSIX locks, and a process loses all of those that it has on a file as soon as it closes any
descriptor of it: other processes would no longer see that a database is open here, and delete its write-ahead log. So
what opens such a file otherwise, to lock or to look at it, closes its descriptor here, which waits for the last
connection that this process has to the file.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from polku.errors import JournalCorruptError, JournalError

APPLICATION = 0x504F4C4A
"""`POLJ`, the application id of journals; files of format 1 have none."""

DEAD_LETTERS = 0x504F4C44
"""`POLD`, the application id of files of dead letters."""

_NO_TEXT = "Could not decode to UTF-8"  # Python's own, without a code
_DAMAGED = {
    sqlite3.SQLITE_IOERR_READ,
    sqlite3.SQLITE_IOERR_SHORT_READ,
    sqlite3.SQLITE_IOERR_CORRUPTFS,
}


class FileId(NamedTuple):
    """Which file it is, whatever it is called."""

    device: int
    inode: int


_MUTEX = threading.Lock()
_connections: dict[FileId, int] = {}
_waiting: dict[FileId, list[int]] = {}


class CountedConnection(sqlite3.Connection):
    """A connection that is counted until it is closed."""

    file: FileId | None = None

    def close(self) -> None:
        """Close it, and then the descriptors that waited for that."""
        with _MUTEX:
            super().close()
            file, self.file = self.file, None
            if file is None:
                return
            _connections[file] -= 1
            if not _connections[file]:
                del _connections[file]
                for descriptor in _waiting.pop(file, ()):
                    os.close(descriptor)


def connect(target: str, path: Path) -> sqlite3.Connection:
    """Connect to the database at `path` by the URI `target`; raises SQLite's errors."""
    with _MUTEX:
        db = sqlite3.connect(
            target, uri=True, isolation_level=None, check_same_thread=False, timeout=5.0, factory=CountedConnection
        )
        try:
            db.file = file_id(path.stat())
        except OSError:  # it was moved away just now
            return db
        _connections[db.file] = _connections.get(db.file, 0) + 1
        return db


def file_id(status: os.stat_result) -> FileId:
    """Return the identity of a file from what `stat` says."""
    return FileId(status.st_dev, status.st_ino)


def close_descriptor(descriptor: int) -> None:
    """Close a descriptor of a database file as soon as that costs no connection of this process its locks."""
    with _MUTEX:
        file = file_id(os.fstat(descriptor))
        if file in _connections:
            _waiting.setdefault(file, []).append(descriptor)
        else:
            os.close(descriptor)


@contextmanager
def descriptor_of(path: Path) -> Iterator[int]:
    """Open a file that may be a database for reading; raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield descriptor
    finally:
        close_descriptor(descriptor)


def as_journal_error(path: Path, error: Exception) -> JournalError:
    """Say what SQLite or the file system says, with the path; tell damage from what passes."""
    if isinstance(error, JournalError):
        return error
    extended = getattr(error, "sqlite_errorcode", 0)
    code = extended & 0xFF
    is_no_text = str(error).startswith(_NO_TEXT)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or extended in _DAMAGED or is_no_text:
        return JournalCorruptError(path, str(error))
    if code == sqlite3.SQLITE_FULL:
        return JournalError(path, "the disk is full")
    if isinstance(error, OSError) and error.errno is not None:
        return JournalError(path, os.strerror(error.errno))
    return JournalError(path, str(error))
