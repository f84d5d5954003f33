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
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from polku.batch.batch import Batch, Header, Identity, derived_from
from polku.batch.receipt import Refusal
from polku.buffer.answers import LIVES, Answer, read_answer, read_refusals, write_pieces, write_refusals
from polku.buffer.journal_file import (
    ANSWER,
    BATCH,
    CURSOR,
    ENTRY,
    OWNER,
    TAKEN_OVER,
    files_of,
    open_file,
    seal,
    weigh,
)
from polku.buffer.lock import FileLock
from polku.buffer.owner import Owner, current, new_owner, take
from polku.buffer.owner import leave as leave_to_others
from polku.buffer.place import check_place
from polku.buffer.positions import OutletState, Slot
from polku.buffer.strategy import MAX_DURABLE_OUTLETS
from polku.buffer.succession import change_takers, take_place
from polku.disk import make_folder, sync_folders
from polku.errors import JournalCorruptError, JournalError, JournalLockedError
from polku.sqlite import as_journal_error

_LOG = logging.getLogger(__name__)
KEPT_ANSWERS = 256  # for each life of a sender: far more than a window
_SWEEP_COMMITS = 8
_SWEEP_BYTES = 4 * 1024 * 1024
_AT_ONCE = 64  # entries in one statement
_AT_ONCE_BYTES = 1024 * 1024  # of payload: what one statement writes is copied once
_PLACES = "(" + ",".join("?" * ENTRY) + ")"
# Answers to a sender's batches and to what was derived from them: old ones of one life, and all those of lives that are
# over. The epoch of such a life may be the higher one: clocks go back.
_FROM_OLD = (
    "FROM answered WHERE (origin=? OR (origin>? AND origin<?)) "
    f"AND (epoch=? AND seq<=? OR epoch NOT IN ({','.join('?' * LIVES)})) ORDER BY epoch, seq LIMIT ?"
)
_OLD_ANSWERS = f"SELECT origin, epoch, seq {_FROM_OLD}"
_OLD_ANSWERS_PLACES = f"SELECT origin, epoch, seq, first, last {_FROM_OLD}"


class Row(NamedTuple):
    """A batch to be written: its position, the names of the outlets that it goes to, and itself."""

    position: int
    takers: tuple[str, ...]
    header: Header
    payload: bytes


class Work(NamedTuple):
    """What one transaction does.

    `refused` are refusals that came after the answers of their batches were written; `lost` is a number of batches that
    turned out to be damaged.
    """

    rows: Sequence[Row] = ()
    answers: Sequence[Answer] = ()
    cursors: Mapping[str, int] = {}
    refused: Sequence[tuple[Identity, Sequence[Refusal]]] = ()
    lost: int = 0


class _Unswept(NamedTuple):
    """Count what was written since the latest sweep.

    `latest` is the last number of each sender's life; the life that was heard last stands last.
    """

    commits: int = 0
    bytes: int = 0
    answers: int = 0
    latest: Mapping[tuple[str, int], int] = {}

    def plus(self, work: Work) -> _Unswept:
        """Count one commit more."""
        size = sum(len(row.payload) for row in work.rows)
        wholes = [answer.identity.whole for answer in work.answers]
        latest = {(whole.origin, whole.epoch): whole.seq for whole in wholes}
        counts = (self.commits + 1, self.bytes + size, self.answers + len(work.answers))
        earlier = {life: seq for life, seq in self.latest.items() if life not in latest}
        return _Unswept(*counts, {**earlier, **latest})


class JournalStatistics(NamedTuple):
    """Describe a journal: what it holds, its file, and what could not be read since it was made."""

    batches: int
    events: int
    bytes: int
    file_bytes: int
    free_bytes: int
    lost_batches: int
    outlets: tuple[OutletState, ...]


class Journal:
    """Read and write a journal; every method blocks, and is called by one thread at a time."""

    def __init__(
        self,
        path: str | Path,
        *,
        writable: bool = True,
        lock: bool = True,
        final: bool = True,
        owner: Owner | None = None,
    ) -> None:
        """Open a journal, making it where there is none; with `final` answers are final when they are written.

        A writer takes it over as `owner`, a new one if none is given; without `lock` the caller holds its lock. Raises
        `JournalLockedError` where another process has it, `JournalCorruptError` where the file cannot be read as one,
        `JournalPathError` where there cannot be one, and `JournalError` where the path cannot be used now.
        """
        self.path = Path(os.path.realpath(path))
        self._owner = (owner or new_owner(Path(path))) if writable else None
        self._final = final
        self._bits: dict[str, int] = {}
        self._cursors: dict[str, int] = {}
        self._swept: dict[str, int] = {}  # where the cursors were at the latest sweep; missing: at the start
        self._unswept = _Unswept()
        self._lives: dict[str, dict[int, None]] = {}  # the epochs of each sender's latest lives, the latest last
        self._lock: FileLock | None = None
        with self._told(), contextlib.ExitStack() as undo:
            undo.callback(self._unlock)
            if not writable and not self.path.exists():
                raise JournalError(self.path, "there is no such file")
            if writable and lock:
                check_place(self.path)
                make_folder(self.path.parent)
                self._lock = FileLock(Path(path))
            self._db = open_file(self.path, writable=writable)
            undo.callback(self._db.close)
            if self._lock is not None:
                self._lock.hold_file()
                self._lock.confirm()
            if self._owner is not None:
                self._take_over(self._owner)
                sync_folders(self.path.parent)  # it may be new
            self._know_outlets()
            undo.pop_all()

    def close(self, *, leave: bool = True) -> None:
        """Close the file and release it; its owner stays in it without `leave`, as of one who opens it again."""
        if self._owner is not None and leave:
            leave_to_others(self._db, self._owner)
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        self._unlock()

    def register(self, outlets: Sequence[str], formerly: Mapping[str, str] | None = None) -> None:
        """Give each outlet that is new a cursor at the end of the log, or all that waits for what it was `formerly`.

        In a journal whose outlets could not be read any more every batch goes to all of these.
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
            self._sweep({}, self._cursors)  # what the latest process that wrote here did not come to
            if unowned:
                change_takers(self._db, str(sum(1 << self._bits[name] for name in outlets)))
        self._swept = dict(self._cursors)
        for answer in sorted(self.answers(), key=lambda answer: (answer.last, answer.identity.epoch)):
            self._live(*answer.identity.whole[:2])

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

    def cursors(self) -> list[tuple[str, int, int]]:
        """Return the name, bit and cursor of each outlet."""
        with self._understood():
            return read_cursors(self._db)

    def owner(self) -> Owner | None:
        """Return who has taken the journal and not closed it."""
        return current(self._db)

    def forget(self, outlet: str) -> int:
        """Take an outlet out, and what only it waits for; return the number of events that go."""
        with self._told(), self._transaction():
            cursors = {**self._cursors, outlet: self.last_position}
            self._sweep(self._swept, self._cursors)
            freed, _ = self._sweep(self._cursors, cursors)
            self._db.execute("DELETE FROM outlet WHERE name=?", (outlet,))
            change_takers(self._db, f"(takers & {~(1 << self._bits[outlet])})")
        for known in (self._bits, self._cursors, self._swept):
            known.pop(outlet, None)
        return freed

    def write(self, work: Work) -> tuple[int, int]:
        """Do it all in one transaction that is on disk at the return; return the events and bytes that went.

        Raises `JournalError`, and then nothing of it was done. What went is swept out after some commits, or at once
        where no batch waits for the disk. After each statement this thread has to wait for the interpreter, which the
        pipeline keeps busy: mostly there is one (0.8 of the rate of a buffer in memory, where ten gave 0.65).
        """
        cursors = {name: max(at, work.cursors.get(name, 0)) for name, at in self._cursors.items()}
        unswept = self._unswept.plus(work)
        sweeps = not work.rows or unswept.commits >= _SWEEP_COMMITS or unswept.bytes >= _SWEEP_BYTES
        statements = list(_statements(self._entries(work, cursors)))
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
                self._forget_answers(unswept)
        self._cursors, self._unswept = cursors, unswept
        if sweeps:
            self._swept, self._unswept = dict(cursors), _Unswept()
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

    def read(self, position: int) -> Batch:
        """Return the batch at a position; raises `JournalCorruptError` if it is damaged, `KeyError` if it has gone."""
        with self._told():
            found = self._db.execute("SELECT * FROM batch WHERE position=?", (position,)).fetchone()
            if found is None:
                raise KeyError(position)
            return batch_of(self.path, found)

    def slots(self, outlet: str, after: int, upto: int, limit: int) -> list[Slot]:
        """Return where the next batches of an outlet lie, in order, up to a position."""
        query = (
            "SELECT position, events, size, coalesce(enqueued_ns, 0) FROM batch "
            "WHERE position>? AND position<=? AND takers & ? ORDER BY position LIMIT ?"
        )
        with self._understood():
            rows = self._db.execute(query, (after, upto, 1 << self._bits[outlet], limit))
            return [Slot(*_numbers("a batch's place", row)) for row in rows]

    def takers(self, first: int, last: int) -> list[tuple[int, tuple[str, ...]]]:
        """Return the positions between two that hold a batch, with the names of the outlets that have not passed it."""
        query = "SELECT position, takers FROM batch WHERE position BETWEEN ? AND ?"
        cursors = self.cursors()
        with self._understood():
            rows = [_numbers("a batch's outlets", row) for row in self._db.execute(query, (first, last))]
        return [
            (position, tuple(name for name, bit, cursor in cursors if mask >> bit & 1 and cursor < position))
            for position, mask in rows
        ]

    def answers(self) -> list[Answer]:
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
                states.append(OutletState(name, cursor, *self._sum(*waits), self._oldest(*waits), name not in served))
            return states

    def statistics(self) -> JournalStatistics:
        """Describe the journal."""
        with self._told():
            (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
            (page,) = self._db.execute("PRAGMA page_size").fetchone()
            lost = self._db.execute("SELECT value FROM counter WHERE name='lost_batches'").fetchone() or (0,)
            size = sum(file.stat().st_size for file in files_of(self.path) if file.exists())
            return JournalStatistics(*self._held(), size, free * page, lost[0], tuple(self.outlets()))

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

    def _take_over(self, owner: Owner) -> None:
        """Make this the only one that can write, and have that stand in the file, where other names find it."""
        with self._transaction(checked=False):
            before = self.owner()
            take(self._db, owner)
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        if before is not None and before.host != owner.host:
            _LOG.warning("journal %s: is taken over from %s, which did not close it", self.path, before)

    def _taken_over(self) -> JournalLockedError:
        owner = self.owner()
        if owner is None:
            return JournalLockedError(self.path, "unknown", host="another host")
        return JournalLockedError(self.path, str(owner.pid), host=owner.host)

    def _free_bit(self) -> int:
        taken = set(self._bits.values())
        free = [bit for bit in range(MAX_DURABLE_OUTLETS) if bit not in taken]
        if not free:
            reason = f"has no place for another emitter beside its {len(taken)}; release those that are no more"
            raise JournalError(self.path, f"{reason} (`polku journal repair {self.path} --forget NAME`)")
        return free[0]

    def _count(self, name: str, number: int) -> None:
        query = "INSERT INTO counter VALUES(?,?) ON CONFLICT(name) DO UPDATE SET value=value+?"
        self._db.execute(query, (name, number, number))

    @contextlib.contextmanager
    def _transaction(self, *, checked: bool = True) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            if checked and self._owner is not None:
                self._db.execute("INSERT INTO entry(kind, c1) VALUES(?,?)", (OWNER, self._owner.token))
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def _entries(self, work: Work, cursors: Mapping[str, int]) -> Iterator[tuple[object, ...]]:
        if self._owner is not None:
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

    def _forget_answers(self, unswept: _Unswept) -> None:
        count = 2 * unswept.answers  # two go for one that came, so old ones are caught up with
        for life in unswept.latest:  # all of them, before any is taken for over
            self._live(*life)
        for (origin, epoch), seq in unswept.latest.items():
            lives = self._lives[origin]
            epochs = (*lives, *[epoch] * (LIVES - len(lives)))
            old = (origin, *derived_from(origin), epoch, seq - KEPT_ANSWERS, *epochs, count)
            if self._final:
                self._db.execute(f"DELETE FROM answered WHERE (origin, epoch, seq) IN ({_OLD_ANSWERS})", old)
                continue
            for *key, first, last in self._db.execute(_OLD_ANSWERS_PLACES, old).fetchall():
                if not self._holds(first, last):  # those whose batches still wait may be asked for
                    self._db.execute("DELETE FROM answered WHERE origin=? AND epoch=? AND seq=?", key)

    def _live(self, origin: str, epoch: int) -> None:
        """Learn which life of a sender was heard last: the answers to the latest ones are kept.

        A sender that hears of another of its name takes a higher epoch, and may have to send again what it sent before.
        """
        lives = self._lives.setdefault(origin, {})
        lives.pop(epoch, None)
        lives[epoch] = None
        while len(lives) > LIVES:
            del lives[next(iter(lives))]

    def _holds(self, first: int, last: int) -> bool:
        query = "SELECT 1 FROM batch WHERE position BETWEEN ? AND ? LIMIT 1"
        return self._db.execute(query, (first, last)).fetchone() is not None

    def _amend(self, identity: Identity, refused: Sequence[Refusal]) -> None:
        key = "origin=? AND epoch=? AND seq=?"
        found = self._db.execute(f"SELECT refused FROM answered WHERE {key}", identity).fetchone()
        if found is not None:
            text = write_refusals((*read_refusals(found[0]), *refused))
            self._db.execute(f"UPDATE answered SET refused=? WHERE {key}", (text, *identity))

    def _sweep(self, swept: Mapping[str, int], cursors: Mapping[str, int]) -> tuple[int, int]:
        """Delete what outlets passed between two places and no other waits for; return its events and bytes."""
        moves = [(swept.get(name, 0), cursor) for name, cursor in cursors.items()]
        events = size = 0
        for start, end in pairwise(sorted({place for move in moves for place in move})):
            if not any(before <= start and end <= after for before, after in moves):
                continue
            waiting = sum(1 << self._bits[name] for name, cursor in cursors.items() if cursor <= start)
            span = (start, end, waiting)
            gone = self._sum("WHERE position>? AND position<=? AND NOT takers & ?", *span)
            if gone[0]:
                self._db.execute("DELETE FROM batch WHERE position>? AND position<=? AND NOT takers & ?", span)
            events, size = events + gone[1], size + gone[2]
        return events, size

    def _held(self) -> tuple[int, int, int]:
        """Count the batches, events and bytes that an outlet waits for: not those that are yet to be swept out."""
        cursors = self.cursors()
        if not cursors:  # a repair could not read them: nothing is known to be passed
            return self._sum("")
        places = sorted({cursor for _, _, cursor in cursors})
        sums = []
        for start, end in pairwise([*places, sys.maxsize]):
            waiting = sum(1 << bit for _, bit, cursor in cursors if cursor <= start)
            sums.append(self._sum("WHERE position>? AND position<=? AND takers & ?", start, end, waiting))
        batches, events, size = zip(*sums, strict=True)
        return sum(batches), sum(events), sum(size)

    def _sum(self, where: str, *values: int) -> tuple[int, int, int]:
        query = f"SELECT count(*), coalesce(sum(events), 0), coalesce(sum(size), 0) FROM batch {where}"
        batches, events, size = self._db.execute(query, values).fetchone()
        return batches, events, size

    def _oldest(self, where: str, *values: int) -> int:
        query = f"SELECT coalesce(min(nullif(enqueued_ns, 0)), 0) FROM batch {where}"
        return int(self._db.execute(query, values).fetchone()[0])

    def _know_outlets(self) -> None:
        known = self.cursors()
        self._bits = {name: bit for name, bit, _ in known}
        self._cursors = {name: cursor for name, _, cursor in known}

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _statements(entries: Iterable[tuple[object, ...]]) -> Iterator[tuple[str, list[object]]]:
    """Yield places and values of statements that write the entries: so many in each as are worth copying at once."""
    values: list[object] = []
    count = size = 0
    for entry in entries:
        payload = entry[ENTRY - 2] if entry[0] == BATCH else b""
        weight = len(payload) if isinstance(payload, bytes) else 0
        if count == _AT_ONCE or (count and size + weight > _AT_ONCE_BYTES):
            yield ",".join([_PLACES] * count), values
            values, count, size = [], 0, 0
        values += entry
        values += [None] * (ENTRY - len(entry))
        count, size = count + 1, size + weight
    if count:
        yield ",".join([_PLACES] * count), values


def batch_of(path: Path, found: Sequence[object]) -> Batch:
    """Make a batch of a row; raises `JournalCorruptError` where its seal is broken."""
    *columns, sealed = found
    position, _, events, _, origin, epoch, seq, routes, enqueued_ns, trace, payload = columns
    if seal(*columns) != sealed or not isinstance(payload, bytes):
        reason = f"the batch at position {position} ({events} events of {origin}) is damaged"
        raise JournalCorruptError(path, reason)
    identity = None if origin is None else Identity(str(origin), int(str(epoch)), int(str(seq)))
    known = None if routes is None else tuple(json.loads(str(routes)))
    return Batch.from_wire(Header(int(str(events)), identity, known, int(str(enqueued_ns)), str(trace)), payload)


def read_answers(db: sqlite3.Connection) -> list[Answer]:
    """Return the answers that are remembered, oldest first; raises `ValueError` where one makes no sense.

    Which life of a sender is the older one is told by where its batches lie.
    """
    sender = "substr(origin, 1, instr(origin || '#', '#') - 1)"
    query = (
        "SELECT origin, epoch, seq, first, last, refused, pieces FROM answered "
        f"ORDER BY {sender}, max(last) OVER (PARTITION BY {sender}, epoch), epoch, seq"
    )
    answers = []
    for origin, *numbers, refused, pieces in db.execute(query):
        epoch, seq, first, last = _numbers("an answer", numbers)
        try:
            answers.append(read_answer(Identity(origin, epoch, seq), first, last, refused, pieces))
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"an answer makes no sense: {error}") from error
    return answers


def read_cursors(db: sqlite3.Connection) -> list[tuple[str, int, int]]:
    """Return the name, bit and cursor of each outlet; raises `ValueError` where they make no sense."""
    cursors = db.execute("SELECT name, bit, cursor FROM outlet").fetchall()
    for name, bit, cursor in cursors:
        bit, _ = _numbers(f"the cursor of {name!r}", (bit, cursor))
        if not isinstance(name, str) or not 0 <= bit < MAX_DURABLE_OUTLETS:
            raise ValueError(f"the outlet {name!r} (bit {bit}) makes no sense")
    return cursors


def _numbers(what: str, values: Sequence[object]) -> list[int]:
    numbers = [value for value in values if isinstance(value, int)]
    if len(numbers) < len(values):
        raise ValueError(f"{what} makes no sense: {values}")
    return numbers
