"""A journal as it is read: by its writer, and next to it by who only looks."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from polku.batch.batch import Batch
from polku.buffer.journal_file import TAKEN_OVER, files_of, open_file
from polku.buffer.journal_rows import batch_of, read_answers, read_cursors, read_numbers
from polku.buffer.journal_totals import JournalStatistics, held, oldest, total
from polku.buffer.owner import Owner, current
from polku.buffer.positions import LogSlot, OutletState
from polku.buffer.remembered import StoredAnswer
from polku.errors import JournalCorruptError, JournalError, JournalLockedError
from polku.sqlite import as_journal_error


class JournalReader:
    """Read a journal; every method blocks, and is called by one thread at a time."""

    def __init__(self, path: str | Path) -> None:
        """Open a journal that is there.

        Raises `JournalCorruptError` where the file cannot be read as one, and `JournalError` where it cannot be used.
        """
        self.path = Path(os.path.realpath(path))
        self._bits: dict[str, int] = {}
        self._cursors: dict[str, int] = {}
        with self._told(), contextlib.ExitStack() as undo:
            if not self.path.exists():
                raise JournalError(self.path, "there is no such file")
            self._db = open_file(self.path, writable=False)
            undo.callback(self._db.close)
            self._know_outlets()
            undo.pop_all()

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    def cursors(self) -> list[tuple[str, int, int]]:
        """Return the name, bit and cursor of each outlet."""
        with self._understood():
            return read_cursors(self._db)

    def owner(self) -> Owner | None:
        """Return who has taken the journal and not closed it."""
        return current(self._db)

    def read(self, position: int) -> Batch:
        """Return the batch at a position; raises `JournalCorruptError` if it is damaged, `KeyError` if it has gone."""
        with self._told():
            found = self._db.execute("SELECT * FROM batch WHERE position=?", (position,)).fetchone()
            if found is None:
                raise KeyError(position)
            return batch_of(self.path, found)

    def slots(self, outlet: str, after: int, upto: int, limit: int) -> list[LogSlot]:
        """Return where the next batches of an outlet lie, in order, up to a position."""
        query = (
            "SELECT position, events, size, coalesce(enqueued_ns, 0) FROM batch "
            "WHERE position>? AND position<=? AND takers & ? ORDER BY position LIMIT ?"
        )
        with self._understood():
            rows = self._db.execute(query, (after, upto, 1 << self._bits[outlet], limit))
            return [LogSlot(*read_numbers("a batch's place", row)) for row in rows]

    def takers(self, first: int, last: int) -> list[tuple[int, int, tuple[str, ...]]]:
        """Return the positions between two that hold a batch, its number of events, and the outlets that await it."""
        query = "SELECT position, events, takers FROM batch WHERE position BETWEEN ? AND ?"
        cursors = self.cursors()
        with self._understood():
            rows = [read_numbers("a batch's outlets", row) for row in self._db.execute(query, (first, last))]
        return [
            (position, events, tuple(name for name, bit, cursor in cursors if mask >> bit & 1 and cursor < position))
            for position, events, mask in rows
        ]

    def answers(self) -> list[StoredAnswer]:
        """Return the answers that are remembered, oldest first."""
        with self._understood():
            return read_answers(self._db)

    def outlets(self) -> list[OutletState]:
        """Return how far each outlet is, also those that the pipeline no longer has."""
        with self._told():
            served = {name for (name,) in self._db.execute("SELECT name FROM outlet WHERE served")}
            states = []
            for name, bit, cursor in sorted(self.cursors()):
                waits = ("WHERE position>? AND takers & ?", cursor, 1 << bit)
                sums = (*total(self._db, *waits), oldest(self._db, *waits))
                states.append(OutletState(name, cursor, *sums, name not in served))
            return states

    def statistics(self) -> JournalStatistics:
        """Describe the journal."""
        with self._told():
            (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
            (page,) = self._db.execute("PRAGMA page_size").fetchone()
            lost = self._db.execute("SELECT value FROM counter WHERE name='lost_batches'").fetchone() or (0,)
            size = sum(file.stat().st_size for file in files_of(self.path) if file.exists())
            return JournalStatistics(*held(self._db, self.cursors()), size, free * page, lost[0], tuple(self.outlets()))

    @property
    def last_position(self) -> int:
        """The highest position that was ever given, as far as is known."""
        query = (
            "SELECT max(coalesce((SELECT max(position) FROM batch), 0), coalesce((SELECT max(cursor) FROM outlet), 0), "
            "coalesce((SELECT max(last) FROM answered), 0))"
        )
        with self._told():
            return int(self._db.execute(query).fetchone()[0])

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Have whatever goes wrong with the file raised as a `JournalError`."""
        try:
            yield
        except (OSError, sqlite3.Error, ValueError, OverflowError) as error:
            if str(error) == TAKEN_OVER:
                raise self._taken_over() from error
            raise as_journal_error(self.path, error) from error

    @contextlib.contextmanager
    def _understood(self) -> Iterator[None]:
        """Have a value that makes no sense raised as damage: what has no seal may be read from a damaged page."""
        with self._told():
            try:
                yield
            except ValueError as error:
                raise JournalCorruptError(self.path, str(error)) from error

    def _taken_over(self) -> JournalLockedError:
        owner = self.owner()
        if owner is None:
            return JournalLockedError(self.path, "unknown", host="another host")
        return JournalLockedError(self.path, str(owner.pid), host=owner.host)

    def _know_outlets(self) -> None:
        known = self.cursors()
        self._bits = {name: bit for name, bit, _ in known}
        self._cursors = {name: cursor for name, _, cursor in known}
