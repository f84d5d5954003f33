"""The ids that a Deduplicator knows, in files: what was seen before a restart is known after it.

Ids are appended, a line of JSON for each batch, once the batch has been taken further down; so none is on file whose
event could still be lost. There are two files: the one that is written, and the one before it. When the first has lines
of `ttl` seconds, or `max_ids` ids, it takes the place of the second, which nothing needs any more: so no id is written
twice, and the files are bounded.

A line is written at once, but not synced: a process that is killed forgets nothing, a machine that loses power what it
has not put on disk, some seconds. Then duplicates pass; nothing else is lost.

Each partition has files of its own keys, whose names say of how many it is one (`PATH.2-of-4`). Where their number was
another one before, in this run or before a restart, it finds what it needs in the files of then: that an id was seen
stays true. State that moves is written, and synced, before it counts as moved. After `ttl` seconds there is nothing in
the files of another number that anybody needs, and whoever notices that removes them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from polku.clock import Clock
from polku.disk import PRIVATE, make_folder, sync_folders
from polku.errors import PlanError
from polku.log import RepeatedLog
from polku.middleware.partition_key import PartitionOf
from polku.text import line

_LOG = logging.getLogger(__name__)
_REPEATED = RepeatedLog(_LOG)
_HEAD = "polku ids 1"
_LINE_IDS = 10_000  # in one line, where all are written again
_PAUSE_SECONDS = 5.0  # after a file could not be written


class Share(NamedTuple):
    """One of several partitions: its number, from 0, how many there are, and whose a key is."""

    number: int
    partitions: int
    partition_of: PartitionOf


class SeenLog:
    """Write the ids that are seen to files at `path`, or to those of a `share`, and read them again at the start."""

    def __init__(self, path: str, ttl: float, max_ids: int, clock: Clock, share: Share | None = None) -> None:
        self._base = Path(path)
        self._share = share
        self.path = path if share is None else f"{path}.{share.number + 1}-of-{share.partitions}"
        self._path = Path(self.path)
        self._before = Path(f"{self.path}.1")
        self._ttl = ttl
        self._max_ids = max_ids
        self._clock = clock
        self._descriptor = -1
        self._began = 0.0  # Unix time of the first line
        self._ids = 0
        self._stale = False  # whether the files lack what is known: all of it is written with the next ids
        self._rest_until = 0.0

    def read(self) -> list[tuple[float, list[str]]]:
        """Return how long ago ids were seen, in seconds, with the ids, oldest first.

        Those that are too old are left out, and a line that was not written whole. Raises `PlanError` where a file is
        there and cannot be read.
        """
        lines = [*self._lines(self._before), *self._lines(self._path)]
        found = self._young(lines)
        aged = [entry for path in self._others() for entry in self._young(self._lines(path))]
        others = [(age, own) for age, ids in aged if (own := self._own(ids))]
        if others:
            self._stale = True
            found = sorted([*found, *others], key=lambda entry: -entry[0])
        self._remove_old()
        now = self._clock.time_ns() / 1e9
        if lines and lines[-1][0] > now:  # from here on the file has the time that is told now
            with contextlib.suppress(OSError):  # then they count as young again after the next restart
                self._append([], now)
        return found

    def _young(self, lines: Iterable[tuple[float, list[str]]]) -> list[tuple[float, list[str]]]:
        """Return the ages of lines with their ids, without those that are too old.

        Ages add up from line to line, from the last one back: where the machine's time was set back, nobody knows how
        much has passed between two lines, and it counts as nothing.
        """
        age, later = 0.0, self._clock.time_ns() / 1e9
        found = []
        for at, ids in reversed(list(lines)):
            age, later = age + max(0.0, later - at), at
            if age >= self._ttl:
                break
            found.append((age, ids))
        return found[::-1]

    def _own(self, ids: list[str]) -> list[str]:
        if self._share is None:
            return ids
        number, _, partition_of = self._share
        return [event_id for event_id in ids if partition_of(event_id) == number]

    def _others(self) -> list[Path]:
        """Return the files of other numbers of partitions."""
        try:
            names = sorted(os.listdir(self._base.parent))
        except FileNotFoundError:
            return []
        partitions = 1 if self._share is None else self._share.partitions
        form = re.compile(rf"{re.escape(self._base.name)}(?:\.[0-9]+-of-([0-9]+))?(?:\.1)?")
        found = [(name, form.fullmatch(name)) for name in names]
        return [self._base.parent / name for name, match in found if match and int(match[1] or 1) != partitions]

    def _remove_old(self) -> None:
        """Remove the files of other numbers of partitions in which nothing is young enough for anybody."""
        for path in self._others():
            with contextlib.suppress(OSError, PlanError):  # another partition may have done so
                if not self._young(self._lines(path)):
                    path.unlink()

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

    def write(self, seen: Mapping[str, float]) -> None:
        """Put these ids, and no others, on disk for sure; raises `OSError`."""
        self._write_all(seen, self._clock.monotonic())
        sync_folders(self._path.parent, upto=self._path.parent)

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _append(self, ids: list[str], at: float) -> None:
        if self._descriptor >= 0 and os.fstat(self._descriptor).st_nlink == 0:  # somebody took it for an old one
            self.close()
            self._ids = 0
        if self._descriptor < 0:
            self._open()
        self._began = min(self._began, at)  # the machine's time may have been set back
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
        self._remove_old()

    def _write_all(self, seen: Mapping[str, float], now: float) -> None:
        """Write all ids in one file, and have it take the place of both: at no time are there fewer on disk."""
        self.close()
        make_folder(self._path.parent)
        fresh = Path(f"{self.path}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(fresh, flags, PRIVATE)
        try:
            _write(descriptor, f"{_HEAD}\n".encode())
            wall = self._clock.time_ns() / 1e9
            items = iter(seen.items())
            first = 0.0
            while part := list(islice(items, _LINE_IDS)):
                # Of the ids of a line the youngest one's time counts: none is forgotten too early.
                at = wall - (now - part[-1][1])
                first = first or at
                _write(descriptor, _line(at, [event_id for event_id, _ in part]))
            os.fsync(descriptor)  # or its name could be on disk before what is in it
            os.replace(fresh, self._path)
        except OSError:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise
        finally:
            os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            self._before.unlink()
        self._began, self._ids = first, len(seen)
        self._open()
        self._stale = False

    def _lines(self, path: Path) -> Iterator[tuple[float, list[str]]]:
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
