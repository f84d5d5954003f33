"""One process at a time: a lock that goes with the process that holds it, and names it."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

from polku.errors import JournalLockedError


class FileLock:
    """Hold `PATH.lock` until `release`; raises `JournalLockedError` naming the process that has it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            # Who only asks for the holder has the lock for a moment, and a new holder has not written its pid yet.
            for attempt in range(5):
                time.sleep(0.02 * attempt)
                if _try_lock(self._file):
                    break
            else:
                raise JournalLockedError(path, _read_pid(self._file) or "unknown")
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let go."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def holder(path: Path) -> str:
    """Return the pid of the process that has `path` open, or an empty string."""
    try:
        file = os.open(f"{path}.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return "" if _try_lock(file) else _read_pid(file)
    finally:
        os.close(file)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _read_pid(file: int) -> str:
    return os.pread(file, 32, 0).decode(errors="replace").strip()
