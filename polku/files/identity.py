"""Which file is which: by device and inode while it is moved, and by its beginning when an inode is used again.

A file is known by its first bytes, up to `PREFIX` of them. Where they are not what they were, somebody truncated the
file and wrote again, or another file got its inode. A copy that was made before a truncation has the same beginning.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Container, Iterator
from typing import NamedTuple

PREFIX = 1024
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # a name that became a pipe does not hold us up


class Inode(NamedTuple):
    """A file of the system, as long as it is there."""

    device: int
    inode: int


def inode_of(status: os.stat_result) -> Inode:
    """Return which file a status is about."""
    return Inode(status.st_dev, status.st_ino)


def open_file(path: str) -> int:
    """Open an ordinary file to read; raises `OSError`."""
    descriptor = os.open(path, _OPEN)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(0, "is no ordinary file", path)
    return descriptor


def digest(prefix: bytes) -> str:
    """Return what stands for a beginning."""
    return hashlib.blake2b(prefix, digest_size=16).hexdigest()


def has_prefix(descriptor: int, prefix: tuple[int, str]) -> bool:
    """Return whether a file begins with what is known by its length and digest."""
    length, known = prefix
    content = os.pread(descriptor, length, 0)
    return len(content) == length and digest(content) == known


def find_inode(folder: str, inode: Inode) -> str:
    """Return the path of a file in a folder, whatever it is called now; an empty text where it is not there."""
    for entry in _scan(folder):
        if entry.inode() == inode.inode:
            with contextlib.suppress(OSError):
                if inode_of(entry.stat()) == inode:
                    return entry.path
    return ""


def find_copy(path: str, prefix: tuple[int, str], offset: int, known: Container[Inode]) -> str:
    """Return the copy of what a file held before it was truncated: the newest that reaches `offset`.

    A copy stands beside it, has its name and more (`app.log.1`, `app.log-20260102`), and the same beginning. Files
    that are `known` are none. An empty text: there is no copy.
    """
    folder, name = os.path.split(path)
    found: list[tuple[float, str]] = []
    for entry in _scan(folder):
        if entry.name == name or not entry.name.startswith(name):
            continue
        try:
            status = entry.stat()
            if not stat.S_ISREG(status.st_mode) or status.st_size < offset or inode_of(status) in known:
                continue
            descriptor = open_file(entry.path)
        except OSError:
            continue
        try:
            if has_prefix(descriptor, prefix):
                found.append((status.st_mtime, entry.path))
        finally:
            os.close(descriptor)
    return max(found)[1] if found else ""


def is_copy(descriptor: int, size: int, prefix: tuple[int, str], offset: int, original: int | None) -> bool:
    """Return whether a file may be the copy of another one, as far as it goes, of which `offset` bytes were read.

    A copy of an `original` that is still whole may be in the making; of one that was truncated it has the beginning.
    """
    length, known = prefix
    content = os.pread(descriptor, length, 0)
    if original is None:
        return size >= offset and len(content) == length and digest(content) == known
    if content != os.pread(original, len(content), 0):
        return False
    return size < offset or _same_before(descriptor, original, offset)


def _same_before(one: int, other: int, offset: int) -> bool:
    """Return whether two files have the same bytes just before an offset."""
    start = max(0, offset - PREFIX)
    content = os.pread(one, offset - start, start)
    return len(content) == offset - start and content == os.pread(other, offset - start, start)


def _scan(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from sorted(entries, key=lambda entry: entry.name)
    except OSError:  # it is gone, or not ours to read
        return
