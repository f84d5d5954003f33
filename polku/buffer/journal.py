"""The journal of a durable buffer: one SQLite file, written by one process.

Tables: `batch` is the log, one row a batch, with the set of outlets that it goes to; `outlet` has one cursor an outlet
(it is done with everything up to there); `answered` keeps the identities and answers of the latest batches of each
sender, written in the same transaction as the batches themselves. A row that every outlet of its set has passed is
swept out a few commits later, and so are old answers.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from polku.batch.batch import Identity
from polku.batch.receipt import Refusal
from polku.buffer.journal_file import (
    ANSWER,
    BATCH,
    CURSOR,
    OWNER,
    open_file,
    seal,
    weigh,
)
from polku.buffer.journal_reader import JournalReader
from polku.buffer.journal_rows import Transaction, to_statements
from polku.buffer.journal_sweep import OldAnswers, Unswept, sweep
from polku.buffer.lock import FileLock
from polku.buffer.owner import Owner, new_owner, take
from polku.buffer.owner import leave as leave_to_others
from polku.buffer.place import check_place
from polku.buffer.remembered import read_refusals, write_pieces, write_refusals
from polku.buffer.strategy import MAX_DURABLE_OUTLETS
from polku.buffer.succession import change_takers, take_place
from polku.disk import make_folder, sync_folders
from polku.errors import JournalError

_LOG = logging.getLogger(__name__)


class Journal(JournalReader):
    """Write a journal, and read it; every method blocks, and is called by one thread at a time."""

    def __init__(
        self,
        path: str | Path,
        *,
        lock: bool = True,
        final: bool = True,
        owner: Owner | None = None,
    ) -> None:
        """Open a journal, making it where there is none; with `final` answers are final when they are written.

        This takes it over as `owner`, a new one if none is given; without `lock` the caller holds its lock. Raises
        `JournalLockedError` where another process has it, `JournalCorruptError` where the file cannot be read as one,
        `JournalPathError` where there cannot be one, and `JournalError` where the path cannot be used now.
        """
        self.path = Path(os.path.realpath(path))
        self._owner = owner or new_owner(Path(path))
        self._bits: dict[str, int] = {}
        self._cursors: dict[str, int] = {}
        self._swept: dict[str, int] = {}  # where the cursors were at the latest sweep; missing: at the start
        self._unswept = Unswept()
        self._old_answers = OldAnswers(final=final)
        self._lock: FileLock | None = None
        with self._told(), contextlib.ExitStack() as undo:
            undo.callback(self._unlock)
            if lock:
                check_place(self.path)
                make_folder(self.path.parent)
                self._lock = FileLock(Path(path))
            self._db = open_file(self.path, writable=True)
            undo.callback(self._db.close)
            if self._lock is not None:
                self._lock.hold_file()
                self._lock.confirm()
            self._take_over(self._owner)
            sync_folders(self.path.parent)  # it may be new
            self._know_outlets()
            undo.pop_all()

    def close(self, *, leave: bool = True) -> None:
        """Close the file and release it; its owner stays in it without `leave`, as of one who opens it again."""
        if leave:
            leave_to_others(self._db, self._owner)
        super().close()
        self._unlock()

    def register(self, outlets: Sequence[str], formerly: Mapping[str, str] | None = None) -> tuple[int, int]:
        """Give each outlet that is new a cursor at the end of the log, or all that waits for what it was `formerly`.

        Return the events and bytes that left the journal, which every outlet had passed before. In a journal whose
        outlets could not be read any more every batch goes to all of these.
        """
        with self._told(), self._transaction():
            for new, old in (formerly or {}).items():
                if old in self._bits and old not in outlets:
                    self._succeed(old, new)
            unowned = self._db.execute("DELETE FROM counter WHERE name='unowned'").rowcount > 0
            start = 0 if unowned else self.last_position
            for name in outlets:
                if name not in self._bits:
                    self._db.execute(
                        "INSERT INTO outlet(name, bit, cursor) VALUES(?,?,?)", (name, self._free_bit(), start)
                    )
                    self._know_outlets()
            self._db.execute("UPDATE outlet SET served=0")
            self._db.executemany("UPDATE outlet SET served=1 WHERE name=?", [(name,) for name in outlets])
            freed = self._sweep({}, self._cursors)  # what the latest process that wrote here did not come to
            if unowned:
                change_takers(self._db, str(sum(1 << self._bits[name] for name in outlets)))
        self._swept = dict(self._cursors)
        for answer in sorted(self.answers(), key=lambda answer: (answer.last, answer.identity.epoch)):
            self._old_answers.hear_of(*answer.identity.whole[:2])
        return freed

    def rename(self, old: str, new: str) -> None:
        """Give all that waits for one outlet to another, which may be there already."""
        with self._told(), self._transaction():
            self._succeed(old, new)
            self._sweep({}, self._cursors)
        self._swept = dict(self._cursors)

    def _succeed(self, old: str, new: str) -> None:
        take_place(self._db, old, new)
        self._know_outlets()
        _LOG.info("journal %s: what waited for %r waits for %r now", self.path, old, new)

    def adopt(self, cursors: Sequence[tuple[str, int, int]]) -> None:
        """Take over another journal's outlets (name, bit, cursor); none means that they are not known."""
        with self._told(), self._transaction():
            self._db.executemany("INSERT INTO outlet(name, bit, cursor) VALUES(?,?,?)", cursors)
            if not cursors:
                self._db.execute("INSERT OR REPLACE INTO counter VALUES('unowned', 1)")
        self._know_outlets()

    def restore(self, rows: Iterable[Sequence[object]]) -> None:
        """Put rows of another journal in as they are."""
        with self._told(), self._transaction():
            self._db.executemany("INSERT INTO batch VALUES(?,?,?,?,?,?,?,?,?,?,?,?)", rows)

    def forget(self, outlet: str) -> int:
        """Take an outlet out, and what only it waits for; return the number of events that go."""
        waiting, _ = self.retire(outlet)
        return waiting[0]

    def retire(self, outlet: str) -> tuple[tuple[int, int], tuple[int, int]]:
        """Take an outlet out, and what only it waits for.

        Return the events and bytes that go with it, and those that every outlet had passed before.
        """
        with self._told(), self._transaction():
            cursors = {**self._cursors, outlet: self.last_position}
            passed = self._sweep(self._swept, self._cursors)
            waiting = self._sweep(self._cursors, cursors)
            self._db.execute("DELETE FROM outlet WHERE name=?", (outlet,))
            change_takers(self._db, f"(takers & {~(1 << self._bits[outlet])})")
        for known in (self._bits, self._cursors, self._swept):
            known.pop(outlet, None)
        self._swept = dict(self._cursors)
        return waiting, passed

    def write(self, work: Transaction) -> tuple[int, int]:
        """Write a transaction and `fsync` it; return the number of events and bytes that left the journal.

        Raises `JournalError`, and then nothing of it was done. What went is swept out after some commits, or at once
        where no batch waits for the disk. After each statement this thread has to wait for the interpreter, which the
        pipeline keeps busy: mostly there is one (0.8 of the rate of a buffer in memory, where ten gave 0.65).
        """
        cursors = {name: max(at, work.cursors.get(name, 0)) for name, at in self._cursors.items()}
        unswept = self._unswept.plus(work)
        sweeps = not work.rows or unswept.is_due
        statements = list(to_statements(self._entries(work, cursors)))
        alone = len(statements) == 1 and not (sweeps or work.refused or work.lost)
        freed = (0, 0)
        with self._told(), contextlib.nullcontext() if alone else self._transaction(checked=False):
            for places, values in statements:
                self._db.execute(f"INSERT INTO entry VALUES{places}", values)
            for identity, refused in work.refused:
                self._amend(identity, refused)
            if work.lost:
                self._count("lost_batches", work.lost)
            if sweeps:
                freed = self._sweep(self._swept, cursors)
                self._old_answers.forget(self._db, unswept)
        self._cursors, self._unswept = cursors, unswept
        if sweeps:
            self._swept, self._unswept = dict(cursors), Unswept()
        return freed

    def probe(self) -> None:
        """Write something of no meaning; raises `JournalError` where that is not possible."""
        with self._told(), self._transaction():
            self._count("probes", 1)

    def checkpoint(self) -> None:
        """Bring what the write-ahead log holds into the file, and begin the log again."""
        with self._told():
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def shrink(self, pages: int = 64) -> bool:
        """Give a few free pages back to the file system; return whether there are more."""
        with self._told():
            (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
            if free > pages:
                self._db.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
                if free <= 2 * pages:
                    self.checkpoint()
            return bool(free > 2 * pages)

    def _take_over(self, owner: Owner) -> None:
        """Make this the only one that can write, and have that stand in the file, where other names find it."""
        with self._transaction(checked=False):
            before = self.owner()
            take(self._db, owner)
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        if before is not None and before.host != owner.host:
            _LOG.warning("journal %s: is taken over from %s, which did not close it", self.path, before)

    def _free_bit(self) -> int:
        taken = set(self._bits.values())
        free = [bit for bit in range(MAX_DURABLE_OUTLETS) if bit not in taken]
        if not free:
            reason = f"has {len(taken)} emitters, and no place for another one; remove those that no longer exist"
            raise JournalError(self.path, f"{reason} (`polku journal repair {self.path} --forget NAME`)")
        return free[0]

    def _count(self, name: str, number: int) -> None:
        query = "INSERT INTO counter VALUES(?,?) ON CONFLICT(name) DO UPDATE SET value=value+?"
        self._db.execute(query, (name, number, number))

    @contextlib.contextmanager
    def _transaction(self, *, checked: bool = True) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            if checked:
                self._db.execute("INSERT INTO entry(kind, c1) VALUES(?,?)", (OWNER, self._owner.token))
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def _entries(self, work: Transaction, cursors: Mapping[str, int]) -> Iterator[tuple[object, ...]]:
        yield OWNER, self._owner.token
        now = time.time_ns()
        for row in work.rows:
            header = row.header
            routes = None if header.routes is None else json.dumps(header.routes)
            takers = sum(1 << self._bits[name] for name in row.takers)
            place = (row.position, takers, header.events, weigh(len(row.payload)))
            identity = header.identity or (None, None, None)
            values = (*place, *identity, routes, header.enqueued_ns or now, header.trace, row.payload)
            yield BATCH, *values, seal(*values)
        for answer in work.answers:
            yield (
                ANSWER,
                *answer.identity,
                answer.first,
                answer.last,
                write_refusals(answer.refused),
                write_pieces(answer),
            )
        for name, cursor in cursors.items():
            if cursor > self._cursors[name]:
                yield CURSOR, name, cursor

    def _amend(self, identity: Identity, refused: Sequence[Refusal]) -> None:
        key = "origin=? AND epoch=? AND seq=?"
        found = self._db.execute(f"SELECT refused FROM answered WHERE {key}", identity).fetchone()
        if found is not None:
            text = write_refusals((*read_refusals(found[0]), *refused))
            self._db.execute(f"UPDATE answered SET refused=? WHERE {key}", (text, *identity))

    def _sweep(self, swept: Mapping[str, int], cursors: Mapping[str, int]) -> tuple[int, int]:
        """Delete what outlets passed between two places and no other waits for; return its events and bytes."""
        return sweep(self._db, self._bits, swept, cursors)

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None
