"""One file that is followed: what it is known by, how far it is read, and how far that is in the pipeline."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from polku.contracts import PulledStream
from polku.files.identity import PREFIX, Inode, digest, inode_of, open_file
from polku.files.lines import Grouper, Line, LineSplitter
from polku.files.offsets import Entry

CHUNK_BYTES = 128 * 1024


class TruncatedError(Exception):
    """Say that a file is not what it was: it is shorter than what was read of it, or begins in another way."""


class Flight:
    """Records that were handed in: whether they are in, and up to where they are of the file."""

    __slots__ = ("done", "end")

    def __init__(self, end: int) -> None:
        self.end = end
        self.done = False


class Chunk(NamedTuple):
    """What was read in one go; everything before `reached` is among these records or those before."""

    records: list[Line]
    reached: int


class FollowedFile:
    """Read a file on from where `entry` says; its methods are called in a thread, one at a time, except `settle`."""

    def __init__(
        self, entry: Entry, splitter: Callable[[int], LineSplitter], grouper: Grouper, stream: PulledStream
    ) -> None:
        self.id = entry.id
        self.path = entry.path
        self.inode = Inode(entry.device, entry.inode)
        self.size = entry.size
        self.prefix = entry.prefix
        self.stream = stream
        self.answered = self.reached = entry.offset
        self.read_at = 0.0  # when there was something to read last, or it was opened
        self.left_at: float | None = None  # since when no pattern leads to it
        self.is_gone = False  # nothing leads to it any more, and it was not open
        self.is_over = False  # nothing more can come: its end was handed in
        self._splitter = splitter(entry.offset)
        self._grouper = grouper
        self._descriptor = -1
        self._modified = -1
        self._flights: deque[Flight] = deque()

    @property
    def position(self) -> int:
        """Up to where it is read."""
        return self._splitter.position

    @property
    def is_open(self) -> bool:
        """Whether it is open: one in which nothing happens is closed."""
        return self._descriptor >= 0

    @property
    def is_done(self) -> bool:
        """Whether it can be forgotten."""
        return self.is_over and not self._flights

    @property
    def behind(self) -> int:
        """How many bytes are there that are not in the pipeline."""
        return max(0, self.size - self.answered)

    @property
    def holds_record(self) -> bool:
        """Whether a record of several lines may be complete, since nothing followed."""
        return self._grouper.start is not None

    def entry(self) -> Entry:
        """Return what is stored of it."""
        return Entry(self.id, self.path, *self.inode, self.answered, max(self.size, self.answered), self.prefix)

    def open(self, path: str, now: float) -> None:
        """Open what a path leads to, as this file; raises `OSError`, or `TruncatedError` where that is not what it was.

        Then it is open all the same, for `read` to see, and `path` is what it was.
        """
        self.open_at(open_file(path), now)
        self.path = path

    def open_at(self, descriptor: int, now: float) -> None:
        """Go on with a descriptor, which belongs to this file from now on; raises as `open` does."""
        self.close()
        self._descriptor = descriptor
        self._modified = -1
        self.inode = inode_of(os.fstat(descriptor))
        self.read_at = now
        self.check()
        if not self.prefix[0]:
            self._learn(os.pread(descriptor, PREFIX, 0))

    def close(self) -> None:
        """Close it; it can be opened again."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def check(self) -> None:
        """Raise `TruncatedError` where the file is not what it was; `size` is what is there."""
        self._check(os.fstat(self._descriptor).st_size, os.pread(self._descriptor, PREFIX, 0))

    def descriptor(self) -> int:
        """Return its descriptor, of an open file."""
        return self._descriptor

    def has_news(self) -> bool:
        """Return whether it is open and not what it was at the last look; raises `OSError`."""
        if not self.is_open:
            return False
        status = os.fstat(self._descriptor)
        return status.st_size != self.position or status.st_mtime_ns != self._modified

    def is_unchanged(self, status: os.stat_result) -> bool:
        """Return whether a status shows nothing new of a file that is closed."""
        return status.st_size == self.position and status.st_mtime_ns == self._modified

    def read(self, now: float) -> Chunk:
        """Return what comes next; raises `OSError`, or `TruncatedError` where it is no more of this file."""
        position = self.position
        status = os.fstat(self._descriptor)
        data = os.pread(self._descriptor, CHUNK_BYTES, position)
        beginning = os.pread(self._descriptor, PREFIX, 0)  # after the data: they are of the file that it begins
        self._check(os.fstat(self._descriptor).st_size, beginning, position + len(data))
        self._learn(beginning)
        if data:
            self.read_at = now
        self._modified = status.st_mtime_ns
        return self._chunk(self._grouper.add(self._splitter.feed(data)))

    def flush(self) -> Chunk:
        """Return the record that may have been complete: nothing followed for some time."""
        return self._chunk(self._grouper.flush())

    def finish(self) -> Chunk:
        """Return what is left, a line without a line break too: nothing more will come."""
        self.close()
        self.is_over = True
        return self._chunk(self._grouper.add(self._splitter.finish()) + self._grouper.flush())

    def handed_in(self, reached: int, flight: Flight | None) -> None:
        """Know that everything before `reached` is in flight, or was; called in the event loop, as is `settle`."""
        self.reached = reached
        if flight is not None:
            self._flights.append(flight)
        self.settle()

    def settle(self, flight: Flight | None = None) -> None:
        """Move on past what is in the pipeline without a gap."""
        if flight is not None:
            flight.done = True
        while self._flights and self._flights[0].done:
            self.answered = self._flights.popleft().end
        if not self._flights:
            self.answered = self.reached

    def _check(self, size: int, beginning: bytes, reached: int = 0) -> None:
        length, known = self.prefix
        if size < max(self.position, reached) or len(beginning) < length or digest(beginning[:length]) != known:
            raise TruncatedError(self.path)
        self.size = size

    def _learn(self, beginning: bytes) -> None:
        if len(beginning) > self.prefix[0]:
            self.prefix = (len(beginning), digest(beginning))

    def _chunk(self, records: list[Line]) -> Chunk:
        start = self._grouper.start
        return Chunk(records, self._splitter.start if start is None else start)
