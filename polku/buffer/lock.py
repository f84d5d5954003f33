"""One process at a time has a journal, whatever the name that it opens it under.

Two locks, which end with their process: one on `PATH.lock`, where symbolic links are followed, also while there is no
file at the path yet; and one on the file itself, which hard links and mounts of a file lead to as well. Hosts that
share a volume do not see each other's locks: of those the journal's owner row lets only the latest write.

`PATH.lock` has three lines: the process, the name that it uses, and `journal` once there was one at the path.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from pathlib import Path

from polku.aio.forks import let_go_in_forks
from polku.disk import PRIVATE
from polku.errors import JournalLockedError
from polku.sqlite import FileId, close_descriptor, file_id

_MARK = "journal"
_MUTEX = threading.Lock()
_held: dict[FileId, Path] = {}  # the files that this process has locked, and the names that it uses
os.register_at_fork(after_in_child=_held.clear)


class FileLock:
    """Hold a journal's path and its file until `release`; raises `JournalLockedError` naming the process that has it.

    `path` is the name that is used, which may be a link.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._real = Path(os.path.realpath(path))
        self._file: FileId | None = None
        self._descriptor = self._beside = -1
        let_go_in_forks(self, FileLock._descriptors)
        self._beside = os.open(f"{self._real}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
        try:
            if not _lock_patiently(self._beside):
                pid, name, _ = _read(self._beside)
                raise JournalLockedError(path, pid or "unknown", other=_other(path, name))
            self.hold_file()
            self._write(_read(self._beside)[2])
        except BaseException:
            self.release()
            raise

    def hold_file(self) -> None:
        """Lock the file that is at the path now, if there is one: it may be new, or have taken another one's place."""
        while (now := _status(self._real)) and file_id(now) != self._file:
            self._lock_file()

    def confirm(self) -> None:
        """Note beside it that the file at the path is a journal, so that it counts as one also when it is damaged."""
        if not _read(self._beside)[2]:
            self._write(_MARK)
            os.fsync(self._beside)

    def release(self) -> None:
        """Give the journal up; connections to it must be closed."""
        self._release_file()
        if self._beside >= 0:
            fcntl.flock(self._beside, fcntl.LOCK_UN)
            os.close(self._beside)
            self._beside = -1

    def _descriptors(self) -> tuple[int, int]:
        return self._descriptor, self._beside

    def _lock_file(self) -> None:
        """Lock what is at the path; another file may be there afterwards."""
        try:
            descriptor = os.open(self._real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return
        file = file_id(os.fstat(descriptor))
        with _MUTEX:
            name = _held.get(file)
            if name is None and _lock_patiently(descriptor):
                _held[file] = self._path
            else:
                close_descriptor(descriptor)
                raise self._taken(name)
        self._release_file()
        self._file, self._descriptor = file, descriptor

    def _release_file(self) -> None:
        if self._file is None:
            return
        with _MUTEX:
            _held.pop(self._file, None)
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            close_descriptor(self._descriptor)
        self._file, self._descriptor = None, -1

    def _taken(self, name: Path | None) -> JournalLockedError:
        if name is not None:
            return JournalLockedError(self._path, str(os.getpid()), other=_other(self._path, str(name)))
        from polku.buffer.owner import peek

        owner = peek(self._real)
        if owner is None:
            return JournalLockedError(self._path, "unknown", other="another name (a link or a mount of the file)")
        return JournalLockedError(self._path, str(owner.pid), other=_other(self._path, owner.path))

    def _write(self, mark: str) -> None:
        text = f"{os.getpid()}\n{self._path}\n{mark}\n".encode(errors="surrogateescape")
        os.pwrite(self._beside, text, 0)
        os.ftruncate(self._beside, len(text))


def holder(path: Path) -> str:
    """Return the pid of the process that has `path` open, or an empty string."""
    try:
        beside = os.open(f"{os.path.realpath(path)}.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return "" if _try_lock(beside) else _read(beside)[0]
    finally:
        os.close(beside)


def was_journal(path: Path) -> bool:
    """Return whether it is noted beside a path that there was a journal."""
    try:
        beside = os.open(f"{os.path.realpath(path)}.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return bool(_read(beside)[2])
    finally:
        os.close(beside)


def _lock_patiently(descriptor: int) -> bool:
    # Who only asks for the holder has the lock for a moment, and a new holder has not written its pid yet.
    for attempt in range(5):
        time.sleep(0.02 * attempt)
        if _try_lock(descriptor):
            return True
    return False


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _read(beside: int) -> tuple[str, str, str]:
    """Return the pid, the name and the mark that stand in a lock's file; versions before had the pid alone."""
    lines = os.pread(beside, 8192, 0).decode(errors="surrogateescape").splitlines()
    pid, name, mark, *_ = (*lines, "", "", "")
    return pid.strip(), name, mark


def _other(path: Path, name: str) -> str:
    return name if name and name != str(path) else ""


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
