"""Dead letters in a SQLite file: every part of a pipeline on a node writes it, and `polku dlq` reads and marks it.

One row for each event and emitter: the same event dying there again counts its attempts up. A letter that is to be
replayed carries a number, which names the replay for good: a crash between delivery and removal doubles nothing.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from polku.buffer.journal_file import DEAD_LETTERS, as_journal_error
from polku.disk import make_folder, sync_folders
from polku.errors import JournalError
from polku.event.v1.event_pb2 import Event

VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS letter(
    id INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL, emitter TEXT NOT NULL, code TEXT NOT NULL,
    reason TEXT NOT NULL, detail TEXT NOT NULL, attempts INTEGER NOT NULL, first_ns INTEGER NOT NULL,
    last_ns INTEGER NOT NULL, type TEXT NOT NULL, source TEXT NOT NULL, replay INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL, event BLOB NOT NULL, UNIQUE(event_id, emitter));
CREATE INDEX IF NOT EXISTS replays ON letter(replay) WHERE replay > 0;
CREATE TABLE IF NOT EXISTS counter(name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT OR IGNORE INTO counter VALUES ('letters', 0), ('bytes', 0), ('forgotten', 0), ('total', 0), ('replays', 0);
CREATE TRIGGER IF NOT EXISTS added AFTER INSERT ON letter BEGIN
    UPDATE counter SET value = value + 1 WHERE name = 'letters';
    UPDATE counter SET value = value + new.size WHERE name = 'bytes'; END;
CREATE TRIGGER IF NOT EXISTS removed AFTER DELETE ON letter BEGIN
    UPDATE counter SET value = value - 1 WHERE name = 'letters';
    UPDATE counter SET value = value - old.size WHERE name = 'bytes'; END;
CREATE TRIGGER IF NOT EXISTS changed AFTER UPDATE OF size ON letter BEGIN
    UPDATE counter SET value = value + new.size - old.size WHERE name = 'bytes'; END;
"""
_UPSERT = """
INSERT INTO letter(event_id, emitter, code, reason, detail, attempts, first_ns, last_ns, type, source, size, event)
VALUES(?,?,?,?,?,?,?,?,?,?,?,?)
ON CONFLICT(event_id, emitter) DO UPDATE SET code=excluded.code, reason=excluded.reason, detail=excluded.detail,
    attempts=attempts+excluded.attempts, last_ns=excluded.last_ns, replay=0, size=excluded.size, event=excluded.event
"""
_COLUMNS = "id, event_id, emitter, code, reason, detail, attempts, first_ns, last_ns, type, source, replay, event"


class Letter(NamedTuple):
    """A stored dead letter: the event serialised, Unix times in nanoseconds, `replay` above 0 once it was asked for."""

    id: int
    event_id: str
    emitter: str
    code: str
    reason: str
    detail: str
    attempts: int
    first_ns: int
    last_ns: int
    type: str
    source: str
    replay: int
    event: bytes


class Selection(NamedTuple):
    """Choose letters: by id, emitter, code, or time of death (Unix nanoseconds); all where nothing is said."""

    ids: tuple[int, ...] = ()
    emitter: str | None = None
    code: str | None = None
    since_ns: int = 0

    def where(self) -> tuple[str, list[object]]:
        """Return the condition and its values."""
        terms: list[tuple[str, object]] = [("last_ns>=?", self.since_ns)]
        if self.emitter is not None:
            terms.append(("emitter=?", self.emitter))
        if self.code is not None:
            terms.append(("code=?", self.code))
        condition, values = " AND ".join(term for term, _ in terms), [value for _, value in terms]
        if self.ids:
            condition += f" AND id IN ({','.join('?' * len(self.ids))})"
            values += self.ids
        return condition, values


class DeadLetterStore:
    """Read and write a file of dead letters; every method blocks and raises `JournalError`."""

    def __init__(self, path: str | Path, *, max_events: int = 0, max_bytes: int = 0, create: bool = True) -> None:
        """Open the file, making it where there is none; without bounds nothing is pushed out by this one."""
        self.path = Path(path)
        self._max_events, self._max_bytes = max_events, max_bytes
        with self._errors():
            if create:
                make_folder(self.path.parent)
            elif not self.path.exists():
                raise JournalError(self.path, "there is no such file")
            self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=10.0)
            try:
                self._prepare()
                if create:
                    sync_folders(self.path.parent)
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    def add(self, letters: Sequence[Letter]) -> int:
        """Store letters (their `id` and `replay` are given here); return how many old ones had to go for them."""
        with self._errors(), self._transaction():
            for letter in letters:
                size = len(letter.event) + len(letter.reason) + len(letter.detail)
                self._db.execute(_UPSERT, (*letter[1:11], size, letter.event))
            self._db.execute("UPDATE counter SET value = value + ? WHERE name = 'total'", (len(letters),))
            return self._push_out()

    def select(self, selection: Selection, limit: int = -1) -> Iterator[Letter]:
        """Yield letters, the latest first."""
        condition, values = selection.where()
        query = f"SELECT {_COLUMNS} FROM letter WHERE {condition} ORDER BY last_ns DESC, id DESC LIMIT ?"
        with self._errors():
            for row in self._db.execute(query, [*values, limit]):
                yield Letter(*row)

    def names(self, column: Literal["emitter", "code"]) -> list[str]:
        """Return the emitters, or the codes, that there are letters of."""
        with self._errors():
            return [name for (name,) in self._db.execute(f"SELECT DISTINCT {column} FROM letter ORDER BY {column}")]

    def mark(self, selection: Selection) -> int:
        """Ask for the replay of letters; return how many."""
        condition, values = selection.where()
        with self._errors(), self._transaction():
            ids = self._db.execute(f"SELECT id FROM letter WHERE {condition} ORDER BY id", values).fetchall()
            (number,) = self._db.execute("SELECT value FROM counter WHERE name='replays'").fetchone()
            for offset, (letter_id,) in enumerate(ids, 1):
                self._db.execute("UPDATE letter SET replay=? WHERE id=?", (number + offset, letter_id))
            self._db.execute("UPDATE counter SET value=? WHERE name='replays'", (number + len(ids),))
            return len(ids)

    def drop(self, selection: Selection) -> int:
        """Remove letters; return how many."""
        condition, values = selection.where()
        with self._errors(), self._transaction():
            return self._db.execute(f"DELETE FROM letter WHERE {condition}", values).rowcount

    def replays(self, *, emitters: bool, limit: int = 256) -> list[Letter]:
        """Return letters whose replay was asked for, in that order: those of emitters, or those that got to none."""
        kind = "emitter<>''" if emitters else "emitter=''"
        query = f"SELECT {_COLUMNS} FROM letter WHERE replay>0 AND {kind} ORDER BY replay LIMIT ?"
        with self._errors():
            return [Letter(*row) for row in self._db.execute(query, (limit,))]

    def replayed(self, letters: Sequence[Letter]) -> None:
        """Remove letters that are on their way again, unless they have died again meanwhile."""
        with self._errors(), self._transaction():
            self._db.executemany("DELETE FROM letter WHERE id=? AND replay=?", [(x.id, x.replay) for x in letters])

    def changes(self) -> int:
        """Return a number that changes when another connection has written."""
        with self._errors():
            return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def counters(self) -> dict[str, int]:
        """Return the letters and bytes now, the total ever, and how many were forgotten."""
        with self._errors():
            return dict(self._db.execute("SELECT name, value FROM counter"))

    @property
    def birth(self) -> int:
        """A number that only this file has."""
        with self._errors():
            return int(self._db.execute("SELECT value FROM counter WHERE name='birth'").fetchone()[0])

    def _prepare(self) -> None:
        (mark,) = self._db.execute("PRAGMA application_id").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and mark != DEAD_LETTERS:
            raise JournalError(self.path, "is no file of dead letters")
        if version not in (0, VERSION):
            raise JournalError(self.path, f"was written by another version of POLKU (format {version})")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        if not tables:
            self._db.execute("PRAGMA auto_vacuum=INCREMENTAL")
            self._db.execute(f"PRAGMA application_id={DEAD_LETTERS}")
            self._db.execute(f"PRAGMA user_version={VERSION}")
        self._db.executescript(_SCHEMA)
        self._db.execute("INSERT OR IGNORE INTO counter VALUES('birth', abs(random()) >> 1)")

    def _push_out(self) -> int:
        counters = self.counters()
        over = counters["letters"] - self._max_events if self._max_events else 0
        gone = self._drop_oldest(over) if over > 0 else 0
        while self._max_bytes and self.counters()["bytes"] > self._max_bytes:
            gone += self._drop_oldest(max(1, self.counters()["letters"] // 100))
        if gone:
            self._db.execute("UPDATE counter SET value = value + ? WHERE name = 'forgotten'", (gone,))
        return gone

    def _drop_oldest(self, count: int) -> int:
        query = "DELETE FROM letter WHERE id IN (SELECT id FROM letter ORDER BY id LIMIT ?)"
        return self._db.execute(query, (count,)).rowcount

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise as_journal_error(self.path, error) from error


def as_event(letter: Letter) -> Event:
    """Return the event of a letter."""
    return Event.FromString(letter.event)
