"""One process at a time: a lock that goes with the process that holds it, and names it."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from polku.errors import JournalLockedError


class FileLock:
    """Hold `PATH.lock` until `release`; raises `JournalLockedError` naming the process that has it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._file, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise JournalLockedError(path, holder) from None
            raise
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let go."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def holder(path: Path) -> str:
    """Return the pid of the process that has `path` open, or an empty string."""
    try:
        file = os.open(f"{path}.lock", os.O_RDWR)
    except OSError:
        return ""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return os.pread(file, 32, 0).decode(errors="replace").strip()
    finally:
        os.close(file)
    return ""
