"""Store how far files are read, in a small file beside the journal that is replaced as a whole at each write.

It is JSON for people to read: `{"format": 1, "files": [{"id": …, "path": …, "device": …, "inode": …, "offset": …,
"size": …, "prefix": [bytes, digest]}]}`. `PATH.lock` keeps a second pipeline from the same files.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from polku.disk import PRIVATE, make_folder, sync
from polku.errors import PlanError

_FORMAT = 1


class Entry(NamedTuple):
    """One file: `id` is the name of what it holds, from its creation (or truncation) on, wherever it is moved.

    Everything before byte `offset` is in the pipeline, of `size` bytes that were seen. `prefix` is how many bytes its
    beginning is known by, and their digest.
    """

    id: str
    path: str
    device: int
    inode: int
    offset: int
    size: int
    prefix: tuple[int, str]


class Offsets:
    """Keep the entries at `path`; without one (`""`) they are gone with the process."""

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None
        self._lock = -1
        self._latest: list[Entry] = []
        self.is_new = True

    def hold(self) -> None:
        """Let nobody else use the file until `release`; raises `PlanError` where somebody does, or `OSError`."""
        if self._path is None:
            return
        make_folder(self._path.parent)
        self._lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.release()
            reason = "another pipeline uses it; end that one, or name another file with offsets="
            raise PlanError(reason, where=f"offsets {self._path}") from None

    def release(self) -> None:
        """Let others use the file."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def load(self) -> list[Entry]:
        """Return what is stored; raises `PlanError` for what is no file of offsets, or `OSError`."""
        if self._path is None:
            return self._latest
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return []
        try:
            entries = _entries(json.loads(content))
        except (ValueError, TypeError, KeyError) as error:
            reason = f"it cannot be read ({error}); move it away to read all files from their beginning"
            raise PlanError(reason, where=f"offsets {self._path}") from None
        self.is_new = False
        return entries

    def save(self, entries: Iterable[Entry]) -> None:
        """Write all entries in place of those before; they are on disk at the return. Raises `OSError`."""
        entries = list(entries)
        if self._path is None:
            self._latest, self.is_new = entries, False
            return
        files = [entry._asdict() for entry in entries]
        content = json.dumps({"format": _FORMAT, "files": files}, indent=1).encode()
        new = f"{self._path}.new"
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.replace(new, self._path)
        sync(self._path.parent)
        self.is_new = False


def _entries(content: object) -> list[Entry]:
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"it has not format {_FORMAT}")
    return [_entry(**fields) for fields in content["files"]]


def _entry(*, id: str, path: str, device: int, inode: int, offset: int, size: int, prefix: tuple[int, str]) -> Entry:
    length, digest = prefix
    numbers = (device, inode, offset, size, length)
    if not all(isinstance(text, str) for text in (id, path, digest)):
        raise TypeError("an id, a path or a digest is no text")
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise TypeError("a device, an inode, an offset or a size is no number")
    return Entry(id, path, device, inode, offset, size, (length, digest))
