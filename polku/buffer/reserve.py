"""Room on the disk that is kept for the moment when there is none left.

On a full disk a journal could not even be made smaller: also what deletes is first written to the write-ahead log. So a
file beside it takes as much room as a checkpoint needs, and is given up then. Batches are only taken while it is there.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from polku.disk import PRIVATE, sync
from polku.errors import JournalError

SIZE = 6 * 1024 * 1024  # one write-ahead log up to its checkpoint (4 MB), and some


class Reserve:
    """Hold `PATH.reserve`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = Path(f"{path}.reserve")
        self._held = False

    def take(self) -> None:
        """Set the room aside, if it is not; raises `JournalError` where there is none."""
        if self._held:
            return
        try:
            file = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
            try:
                _allocate(file)
                os.fsync(file)
            finally:
                os.close(file)
            sync(self._file.parent)
        except OSError as error:
            self.give_up()
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            raise JournalError(self._path, "the disk is full" if full else os.strerror(error.errno or 0)) from error
        self._held = True

    def give_up(self) -> None:
        """Let the journal have the room."""
        self._held = False
        self._file.unlink(missing_ok=True)


def _allocate(file: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, SIZE)
        return
    for _ in range(SIZE // (1024 * 1024) - os.fstat(file).st_size // (1024 * 1024)):  # macOS
        os.lseek(file, 0, os.SEEK_END)
        os.write(file, bytes(1024 * 1024))
