"""The ids that a Deduplicator knows, in files: what was seen before a restart is known after it.

Ids are appended, a line of JSON for each batch, once the batch has been taken further down; so none is on file whose
event could still be lost. There are two files: the one that is written, and the one before it. When the first has lines
of `ttl` seconds, or `max_ids` ids, it takes the place of the second, which nothing needs any more: so no id is written
twice, and the files are bounded.

A line is written at once, but not synced: a process that is killed forgets nothing, a machine that loses power what it
has not put on disk, some seconds. Then duplicates pass; nothing else is lost.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from polku.clock import Clock
from polku.disk import PRIVATE, make_folder
from polku.errors import PlanError
from polku.log import RepeatedLog
from polku.text import line

_LOG = logging.getLogger(__name__)
_REPEATED = RepeatedLog(_LOG)
_HEAD = "polku ids 1"
_LINE_IDS = 10_000  # in one line, where all are written again
_PAUSE_SECONDS = 5.0  # after a file could not be written


class SeenLog:
    """Write the ids that are seen to `path`, and read them again at the start."""

    def __init__(self, path: str, ttl: float, max_ids: int, clock: Clock) -> None:
        self.path = path
        self._path = Path(path)
        self._before = Path(f"{path}.1")
        self._ttl = ttl
        self._max_ids = max_ids
        self._clock = clock
        self._descriptor = -1
        self._began = 0.0  # Unix time of the first line
        self._ids = 0
        self._stale = False  # whether the files lack what is known: all of it is written with the next ids
        self._rest_until = 0.0

    def read(self) -> Iterator[tuple[float, list[str]]]:
        """Yield how long ago ids were seen, in seconds, with the ids, oldest first.

        Those that are too old are left out, and a line that was not written whole. Raises `PlanError` where a file is
        there and cannot be read.
        """
        now = self._clock.time_ns() / 1e9
        for path in (self._before, self._path):
            for at, ids in self._lines(path):
                age = max(0.0, now - at)  # the machine's time may have been set back
                if age < self._ttl:
                    yield age, ids

    def add(self, ids: list[str], seen: Mapping[str, float]) -> None:
        """Append ids that were seen now; `seen` are all that are known, with the monotonic time of each.

        Where a file cannot be written the log says so, and all of them are written once it can.
        """
        now = self._clock.monotonic()
        if now < self._rest_until:
            self._stale = True
            return
        try:
            if self._stale:
                self._write_all(seen, now)
            else:
                self._append(ids, self._clock.time_ns() / 1e9)
        except OSError as error:
            self._stale, self._rest_until = True, now + _PAUSE_SECONDS
            text = "ids are not kept in %s (%s): after a restart duplicates of them pass"
            _REPEATED.error((str(self._path), "ids"), text, self._path, error.strerror or error)

    def renew(self) -> None:
        """Write all ids with the next ones: they are others than those in the files."""
        self._stale = True

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _append(self, ids: list[str], at: float) -> None:
        if self._descriptor < 0:
            self._open()
        if self._ids and (self._ids >= self._max_ids or at - self._began >= self._ttl):
            self._turn()
        if not self._ids:
            self._began = at
        _write(self._descriptor, _line(at, ids))
        self._ids += len(ids)

    def _open(self) -> None:
        make_folder(self._path.parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self._path, flags, PRIVATE)
        if os.fstat(self._descriptor).st_size == 0:
            _write(self._descriptor, f"{_HEAD}\n".encode())
        else:  # the last line may be half of one
            _write(self._descriptor, b"\n")

    def _turn(self) -> None:
        """Begin a new file; the one before is needed no longer."""
        self.close()
        os.replace(self._path, self._before)
        self._ids = 0
        self._open()

    def _write_all(self, seen: Mapping[str, float], now: float) -> None:
        self.close()
        for path in (self._before, self._path):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        self._ids = 0
        wall = self._clock.time_ns() / 1e9
        items = iter(seen.items())
        while part := list(islice(items, _LINE_IDS)):
            # Of the ids of a line the youngest one's time counts: none is forgotten too early.
            self._append([event_id for event_id, _ in part], wall - (now - part[-1][1]))
        self._stale = False

    def _lines(self, path: Path) -> Iterable[tuple[float, list[str]]]:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise PlanError(f"durable: {path} cannot be read ({error.strerror})", where="Deduplicator") from None
        head, *lines = content.split(b"\n")
        if head != _HEAD.encode():
            raise PlanError(
                f"durable: {path} holds no ids (it begins {line(repr(head[:40]))}); name another", where="Deduplicator"
            )
        first = 0.0
        count = 0
        for text in lines:
            try:
                at, ids = json.loads(text)
            except ValueError:
                continue  # empty, or half of a line
            first, count = first or at, count + len(ids)
            yield at, ids
        if path == self._path:
            self._began, self._ids = first, count


def _line(at: float, ids: list[str]) -> bytes:
    return f"{json.dumps([round(at, 3), ids], separators=(',', ':'))}\n".encode()


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
