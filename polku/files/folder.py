"""All files of some patterns: which there are, which were moved, truncated or copied, and which are new.

A file is followed wherever it is moved within its folder. What was not read of a truncated file is read from its copy,
if there is one. A file that no pattern leads to any more is read to its end, and forgotten when nothing was written
to it for `rotate_seconds`.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from polku.files.followed import Chunk, FollowedFile, TruncatedError
from polku.files.identity import Inode, digest, find_copy, find_inode, inode_of, is_copy, open_file
from polku.files.offsets import Entry
from polku.ids import new_id

IDLE_SECONDS = 60.0
"""After this time without anything new a file is closed; it is looked at by name."""
_NOTHING = (0, digest(b""))


class _Found(NamedTuple):
    path: str
    status: os.stat_result


class Counts(NamedTuple):
    """What happened to files: truncations, files that were gone before their end, and how many bytes they had left."""

    truncated: int = 0
    gone: int = 0
    lost_bytes: int = 0


class Folder:
    """Follow the files of some patterns; every method may wait for the disk, and is called in a thread."""

    def __init__(
        self,
        patterns: Sequence[str],
        exclude: Sequence[str],
        make: Callable[[Entry], FollowedFile],
        *,
        from_end: bool,
        rotate_seconds: float,
    ) -> None:
        self.files: list[FollowedFile] = []
        self.faults: dict[str, str] = {}
        self.counts = Counts()
        self.has_new = False  # a file whose id is not stored yet
        self._patterns = patterns
        self._exclude = exclude
        self._make = make
        self._from_end = from_end  # what is there at the first look is not read
        self._rotate_seconds = rotate_seconds
        self._twins: dict[Inode, tuple[float, int]] = {}  # copies of files, since when, and their sizes

    def begin(self, entries: Sequence[Entry]) -> None:
        """Know files from before."""
        self.files += map(self._make, entries)

    def close(self) -> None:
        """Close all files."""
        for file in self.files:
            file.close()

    def scan(self, now: float) -> None:
        """See what has become of the files, and which are new."""
        self.faults.clear()
        found = self._matching()
        for file in list(self.files):
            if not file.is_over and not file.is_gone:
                try:
                    self._follow(file, found, now)
                except OSError as error:
                    self._fault(file.path, error)
        known = self._known()
        for inode, (path, status) in found.items():
            if inode not in known:
                try:
                    self._discover(inode, path, status, now)
                except OSError as error:
                    self._fault(path, error)
        self._twins = {inode: twin for inode, twin in self._twins.items() if inode in found}
        self._from_end = False

    def news(self, now: float, group_seconds: float) -> list[FollowedFile]:
        """Return the files of which there is something to hand in; one that was moved goes before that in its place."""
        found: list[FollowedFile] = []
        moved: set[str] = set()
        for file in sorted(self.files, key=lambda file: file.left_at is None):
            if file.is_over or file.path in moved:
                continue
            try:
                news = file.has_news()
            except OSError as error:
                self._fault(file.path, error)
                continue
            if file.left_at is not None and news:
                moved.add(file.path)
            quiet = now - file.read_at
            if news or self._is_left(file, now) or (file.holds_record and quiet >= group_seconds):
                found.append(file)
            elif quiet >= IDLE_SECONDS and file.left_at is None:
                file.close()
        return found

    def read(self, file: FollowedFile, now: float) -> Chunk:
        """Return what comes next of a file; raises `OSError`, and then opens it again at the next scan."""
        try:
            if file.has_news():
                return file.read(now)
            return file.finish() if self._is_left(file, now) else file.flush()
        except TruncatedError:
            return self._begin_again(file, now)
        except OSError as error:
            file.close()
            self._fault(file.path, error)
            raise

    def forget_done(self) -> None:
        """Forget the files whose end is in the pipeline."""
        self.files = [file for file in self.files if not file.is_done]

    def _matching(self) -> dict[Inode, _Found]:
        """Return the files that the patterns lead to; one with several names counts once."""
        found: dict[Inode, _Found] = {}
        for path in self._paths():
            if self._is_excluded(path):
                continue
            try:
                status = os.stat(path)
            except FileNotFoundError:  # it was moved since
                continue
            except OSError as error:
                self._fault(path, error)
                continue
            if stat.S_ISREG(status.st_mode):
                found.setdefault(inode_of(status), _Found(path, status))
        return found

    def unmatched(self) -> list[str]:
        """Return the patterns that lead to no file that is followed."""
        return [pattern for pattern in self._patterns if not any(map(self._is_meant, _expanded(pattern)))]

    def _is_meant(self, path: str) -> bool:
        return os.path.isfile(path) and not self._is_excluded(path)

    def _is_excluded(self, path: str) -> bool:
        return any(fnmatch.fnmatch(os.path.basename(path), pattern) for pattern in self._exclude)

    def _paths(self) -> Iterator[str]:
        for pattern in self._patterns:
            yield from _expanded(pattern)

    def _is_left(self, file: FollowedFile, now: float) -> bool:
        """Return whether nothing more is written to a file that no pattern leads to."""
        if file.left_at is None:
            return False
        return file.is_gone or now - max(file.read_at, file.left_at) >= self._rotate_seconds

    def _follow(self, file: FollowedFile, found: dict[Inode, _Found], now: float) -> None:
        """See where a file is now; whether it still is what it was is seen where it is read."""
        at = found.get(file.inode)
        if at is None:
            if file.is_open or self._find(file, found, now):
                file.left_at = now if file.left_at is None else file.left_at
            return
        file.left_at = None
        if file.is_open:
            file.path = at.path
        elif not file.is_unchanged(at.status):
            with contextlib.suppress(TruncatedError):
                file.open(at.path, now)

    def _find(self, file: FollowedFile, found: dict[Inode, _Found], now: float) -> bool:
        """Open a file that no pattern leads to any more, wherever it is in its folder; return whether it is there."""
        inode, known = file.inode, self._known()
        # Devices may have other numbers after a start of the machine.
        same = (at for other, (at, _) in found.items() if (other.inode, at) == (inode.inode, file.path))
        for path in filter(None, (find_inode(os.path.dirname(file.path), inode), *same)):
            if inode_of(os.stat(path)) not in known - {inode}:
                try:
                    file.open(path, now)
                    return True
                except TruncatedError:  # it is gone, and another one has its inode
                    file.close()
                    file.inode = inode
        lost = max(0, file.size - file.position)
        self.counts = self.counts._replace(gone=self.counts.gone + 1, lost_bytes=self.counts.lost_bytes + lost)
        file.left_at, file.is_gone = now, True
        return False

    def _begin_again(self, file: FollowedFile, now: float) -> Chunk:
        """Follow what was truncated as a new file, and the old content in its copy; return what was left of that."""
        self.counts = self.counts._replace(truncated=self.counts.truncated + 1)
        fresh = self._add(file.path, file.inode, 0)
        fresh.left_at = file.left_at
        fresh.open_at(os.dup(file.descriptor()), now)
        copy = find_copy(file.path, file.prefix, file.position, self._known()) if file.prefix[0] else ""
        file.left_at = now
        if copy:
            try:
                file.open(copy, now)
                self._twins.pop(file.inode, None)
                return file.read(now)
            except (OSError, TruncatedError):
                pass
        lost = max(0, file.size - file.position)
        self.counts = self.counts._replace(lost_bytes=self.counts.lost_bytes + lost)
        return file.finish()

    def _discover(self, inode: Inode, path: str, status: os.stat_result, now: float) -> None:
        """Follow a new file, unless it may be the copy of one that is about to be truncated."""
        if (whole := self._original(path, status.st_size, now)) is not None:
            since, size = self._twins.get(inode, (now, status.st_size))
            self._twins[inode] = (since if size == status.st_size else now, status.st_size)
            if not whole or now - since < self._rotate_seconds or size != status.st_size:
                return
        offset = status.st_size if self._from_end else 0
        self._add(path, inode, offset).open(path, now)

    def _original(self, path: str, size: int, now: float) -> bool | None:
        """Return whether the file is whole whose name another one continues, and whose copy that may be; else None.

        One that is not was truncated, and its copy is looked for when it is read next.
        """
        folder, name = os.path.split(path)
        for file in self.files:
            other_folder, other = os.path.split(file.path)
            if folder == other_folder and name != other and name.startswith(other) and file.prefix[0]:
                if not file.is_open:
                    with contextlib.suppress(TruncatedError, OSError):
                        file.open(file.path, now)
                if file.is_open and self._looks_alike(path, size, file):
                    return _is_whole(file)
        return None

    def _looks_alike(self, path: str, size: int, file: FollowedFile) -> bool:
        descriptor = open_file(path)
        try:
            other = file.descriptor() if _is_whole(file) else None
            return is_copy(descriptor, size, file.prefix, file.position, other)
        finally:
            os.close(descriptor)

    def _add(self, path: str, inode: Inode, offset: int) -> FollowedFile:
        file = self._make(Entry(new_id(), path, *inode, offset, offset, _NOTHING))
        self.files.append(file)
        self.has_new = True
        return file

    def _known(self) -> set[Inode]:
        return {file.inode for file in self.files if not file.is_over}

    def _fault(self, path: str, error: OSError) -> None:
        self.faults[path] = f"{path}: {error.strerror or error}"


def _expanded(pattern: str) -> Iterator[str]:
    if glob.has_magic(pattern):
        yield from sorted(glob.iglob(pattern, recursive=True))
    else:
        yield pattern


def _is_whole(file: FollowedFile) -> bool:
    try:
        file.check()
    except TruncatedError:
        return False
    return True
