"""Folders for Unix sockets, which nobody is left to remove where a process is killed: the next one to start does.

Each has a lock that its process holds for as long as it lives; the kernel releases it with the process, also where
processes that share the folder for temporary files cannot see each other, as in containers.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

_LOCK = "lock"
_YOUNG_SECONDS = 60.0  # a folder without a lock may be about to get it


class SocketFolder:
    """A new folder that only this user may look into, under the name `polku-KIND-…`; raises `OSError`."""

    def __init__(self, kind: str) -> None:
        remove_left(kind)
        self.path = Path(tempfile.mkdtemp(prefix=f"polku-{kind}-"))
        try:
            self._lock = _locked(self.path)
        except OSError:
            self._remove()
            raise

    def close(self) -> None:
        """Remove it, with all that is in it."""
        self._remove()
        os.close(self._lock)

    def _remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def _locked(folder: Path) -> int:
    """Put a lock into a folder, and return its file: it gets its name once it is held, so nobody else can hold it."""
    unnamed = folder / f"{_LOCK}-new"
    lock = os.open(unnamed, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    unnamed.rename(folder / _LOCK)
    return lock


def remove_left(kind: str) -> None:
    """Remove the folders of this user whose processes are dead."""
    for folder in Path(tempfile.gettempdir()).glob(f"polku-{kind}-*"):
        with contextlib.suppress(OSError):  # another process removes it, or it is another user's
            if _is_left(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_left(folder: Path) -> bool:
    status = folder.lstat()
    if status.st_uid != os.getuid() or folder.is_symlink():
        return False
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        return time.time() - status.st_mtime > _YOUNG_SECONDS
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
