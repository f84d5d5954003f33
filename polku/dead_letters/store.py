"""Dead letters in a SQLite file: every part of a pipeline on a node writes it, and `polku dlq` reads and marks it.

One row for each event and emitter, where an event is its source, its id and its content: the same event dying there
again counts its attempts up, another event of the same id is a row of its own. Where there is no room, `kinds` says
which letters go. A letter that is to be replayed carries a number, which names this attempt: a crash between delivery
and removal doubles nothing, and what was refused gets another number before it is tried again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from polku.dead_letters.kinds import Cut, Kind, PrincipalLetters, next_cut
from polku.dead_letters.schema import COLUMNS, beside, digest, prepare
from polku.disk import make_folder, make_private, sync_folders
from polku.errors import JournalError
from polku.event.v1.event_pb2 import Event
from polku.log import RepeatedLog
from polku.sqlite import as_journal_error
from polku.text import as_id, block, line

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_INSERT = """
INSERT INTO letter(event_id, emitter, code, reason, detail, attempts, first_ns, last_ns, type, source, size, digest,
    event, principal) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?)
ON CONFLICT(event_id, source, emitter, digest) DO UPDATE SET code=excluded.code, reason=excluded.reason,
    detail=excluded.detail, attempts=min(attempts+excluded.attempts, 1<<40), last_ns=excluded.last_ns,
    replay=0, size=excluded.size, event=excluded.event
"""
_REASON = 2_000
_MOST = 2**63 - 1
_ATTEMPTS = 2**40


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
    principal: str = ""

    @property
    def part(self) -> PrincipalLetters:
        """Which letters it competes with for room."""
        return PrincipalLetters(self.emitter, self.code, self.principal)


class Selection(NamedTuple):
    """Choose letters: by id, emitter, code, time of death (Unix nanoseconds), or the event's id.

    All are chosen where nothing is said.
    """

    ids: tuple[int, ...] = ()
    emitter: str | None = None
    code: str | None = None
    since_ns: int = 0
    event_id: str | None = None

    def where(self) -> tuple[str, list[object]]:
        """Return the condition and its values."""
        terms: list[tuple[str, object]] = [("last_ns>=?", self.since_ns)]
        if self.emitter is not None:
            terms.append(("emitter=?", self.emitter))
        if self.code is not None:
            terms.append(("code=?", self.code))
        if self.event_id is not None:
            terms.append(("event_id=?", self.event_id))
        condition, values = " AND ".join(term for term, _ in terms), [value for _, value in terms]
        if self.ids:
            condition += f" AND id IN ({','.join('?' * len(self.ids))})"
            values += self.ids
        return condition, values


class KindCount(NamedTuple):
    """Count the letters of one kind: those that are there, their bytes, and those that were forgotten."""

    kind: Kind
    letters: int
    bytes: int
    forgotten: int


class DeadLetterStore:
    """Read and write a file of dead letters; every method blocks and raises `JournalError`."""

    def __init__(self, path: str | Path, *, max_events: int = 0, max_bytes: int = 0, create: bool = True) -> None:
        """Open the file, making it where there is none; without bounds nothing is pushed out by this one."""
        self.path = Path(path)
        self._max_events, self._max_bytes = max_events, max_bytes
        with self._errors():
            if create:
                make_folder(self.path.parent)
                make_private(Path(os.path.realpath(self.path)))
            elif not self.path.exists():
                raise JournalError(self.path, f"there is no such file{beside(self.path)}")
            self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=10.0)
            try:
                prepare(self._db, self.path)
                if create:
                    sync_folders(self.path.parent)
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    def add(self, letters: Sequence[Letter]) -> Mapping[Kind, int]:
        """Store letters (their `id` and `replay` are given here); return how many old ones of each kind had to go.

        Whatever a letter holds, it is stored, and the others with it: what the file cannot hold is left out of it.
        """
        with self._errors(), self._transaction():
            grown = {self._add(letter) for letter in letters}
            self._db.execute("UPDATE counter SET value = value + ? WHERE name = 'total'", (len(letters),))
            return self._push_out(grown)

    def select(self, selection: Selection, limit: int = -1) -> Iterator[Letter]:
        """Yield letters, the latest first."""
        condition, values = selection.where()
        query = f"SELECT {COLUMNS} FROM letter WHERE {condition} ORDER BY last_ns DESC, id DESC LIMIT ?"
        with self._errors():
            for row in self._db.execute(query, [*values, limit]):
                yield Letter(*row)

    def names(self, column: Literal["emitter", "code"]) -> list[str]:
        """Return the emitters, or the codes, that there are letters of."""
        query = f"SELECT DISTINCT {column} FROM kind WHERE letters > 0 ORDER BY {column}"
        with self._errors():
            return [name for (name,) in self._db.execute(query)]

    def kinds(self) -> list[KindCount]:
        """Return what there is, and was forgotten, of each kind."""
        sums = "sum(letters), sum(bytes), sum(forgotten)"
        query = f"SELECT emitter, code, {sums} FROM kind GROUP BY emitter, code ORDER BY emitter, code"
        with self._errors():
            return [KindCount(Kind(emitter, code), *counts) for emitter, code, *counts in self._db.execute(query)]

    def mark(self, selection: Selection) -> int:
        """Ask for the replay of letters; return how many. Those that it was asked for already keep their numbers."""
        condition, values = selection.where()
        with self._errors(), self._transaction():
            found = self._db.execute(f"SELECT id, replay FROM letter WHERE {condition} ORDER BY id", values).fetchall()
            self._number([letter_id for letter_id, replay in found if not replay])
            return len(found)

    def drop(self, selection: Selection) -> int:
        """Remove letters; return how many."""
        condition, values = selection.where()
        with self._errors(), self._transaction():
            return self._db.execute(f"DELETE FROM letter WHERE {condition}", values).rowcount

    def waiting(self) -> dict[str, int]:
        """Return how many letters are to be replayed, by emitter; those that got to none are under an empty name."""
        with self._errors():
            return dict(self._db.execute("SELECT emitter, count(*) FROM letter WHERE replay>0 GROUP BY emitter"))

    def replays(self, emitter: str, limit: int) -> list[Letter]:
        """Return letters of an emitter whose replay was asked for, in that order."""
        query = f"SELECT {COLUMNS} FROM letter WHERE replay>0 AND emitter=? ORDER BY replay LIMIT ?"
        with self._errors():
            return [Letter(*row) for row in self._db.execute(query, (emitter, limit))]

    def replayed(self, letters: Sequence[Letter]) -> None:
        """Remove letters whose events are elsewhere: in the pipeline, or other letters. One that died again stays."""
        with self._errors(), self._transaction():
            self._db.executemany("DELETE FROM letter WHERE id=? AND replay=?", [(x.id, x.replay) for x in letters])

    def try_again(self, letters: Sequence[Letter]) -> None:
        """Give letters whose replay found no room another number: the next attempt is one of its own."""
        with self._errors(), self._transaction():
            marked = "SELECT id FROM letter WHERE id=? AND replay=?"
            self._number([x.id for x in letters if self._db.execute(marked, (x.id, x.replay)).fetchone()])

    def refused(self, letter: Letter, reason: str) -> None:
        """Note that a replay was refused: the letter says why, and is no longer marked."""
        text = line(f"its replay was refused: {reason}", _REASON)
        with self._errors(), self._transaction():
            change = "UPDATE letter SET replay=0, reason=? WHERE id=? AND replay=?"
            self._db.execute(change, (text, letter.id, letter.replay))

    def counters(self) -> dict[str, int]:
        """Return the letters and bytes now, the total ever, and how many were forgotten."""
        with self._errors():
            counters = dict(self._db.execute("SELECT name, value FROM counter"))
            sums = self._db.execute("SELECT coalesce(sum(letters), 0), coalesce(sum(bytes), 0) FROM kind").fetchone()
            return counters | dict(zip(("letters", "bytes"), sums, strict=True))

    @property
    def birth(self) -> int:
        """A number that only this file has."""
        with self._errors():
            return int(self._db.execute("SELECT value FROM counter WHERE name='birth'").fetchone()[0])

    def _number(self, ids: Sequence[int]) -> None:
        (number,) = self._db.execute("SELECT value FROM counter WHERE name='replays'").fetchone()
        numbered = [(number + offset, letter_id) for offset, letter_id in enumerate(ids, 1)]
        self._db.executemany("UPDATE letter SET replay=? WHERE id=?", numbered)
        self._db.execute("UPDATE counter SET value=? WHERE name='replays'", (number + len(ids),))

    def _add(self, letter: Letter) -> PrincipalLetters:
        letter = _fit(letter)
        size = len(letter.event) + len(letter.reason) + len(letter.detail)
        try:
            self._db.execute(_INSERT, (*letter[1:11], size, digest(letter.event), letter.event, letter.principal))
        except (sqlite3.DataError, OverflowError, ValueError) as error:  # larger than a row may be
            _REPEATED.error(
                "row", "dead letters: event %s cannot be stored whole: %s", line(letter.event_id), line(error)
            )
            return self._add(_without_content(letter, error)) if letter.event else letter.part
        return letter.part

    def _push_out(self, grown: set[PrincipalLetters]) -> Mapping[Kind, int]:
        forgotten: Counter[PrincipalLetters] = Counter()
        for column, weight, room in (("letters", "1", self._max_events), ("bytes", "size", self._max_bytes)):
            while room and (cut := next_cut(self._sizes(column), grown, room)) is not None:
                forgotten[cut.part] += self._drop_oldest(cut, weight)
        note = "UPDATE kind SET forgotten = forgotten + ? WHERE emitter=? AND code=? AND principal=?"
        self._db.executemany(note, [(count, *part) for part, count in forgotten.items()])
        self._db.execute("UPDATE counter SET value = value + ? WHERE name = 'forgotten'", (forgotten.total(),))
        kinds: Counter[Kind] = Counter()
        for part, count in forgotten.items():
            kinds[part.kind] += count
        return kinds

    def _sizes(self, column: str) -> dict[PrincipalLetters, int]:
        query = f"SELECT emitter, code, principal, {column} FROM kind WHERE letters > 0"
        return {PrincipalLetters(*part): size for *part, size in self._db.execute(query)}

    def _drop_oldest(self, cut: Cut, weight: str) -> int:
        which = "emitter=? AND code=? AND principal=?"
        query = f"SELECT id, {weight} FROM letter WHERE {which} ORDER BY id"
        last, left = 0, cut.amount
        for letter_id, size in self._db.execute(query, cut.part):
            last, left = letter_id, left - size
            if left <= 0:
                break
        return self._db.execute(f"DELETE FROM letter WHERE {which} AND id<=?", (*cut.part, last)).rowcount

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
            try:
                yield
            except (OSError, sqlite3.Error) as error:
                raise as_journal_error(self.path, error) from error
        except JournalError as error:
            error.what = "dead letters"
            raise


def as_event(letter: Letter) -> Event:
    """Return the event of a letter."""
    return Event.FromString(letter.event)


def _fit(letter: Letter) -> Letter:
    """Return a letter with values that a row can hold."""
    return letter._replace(
        event_id=as_id(letter.event_id),
        emitter=as_id(letter.emitter),
        code=line(letter.code),
        reason=line(letter.reason, _REASON),
        detail=block(letter.detail),
        attempts=min(_whole(letter.attempts), _ATTEMPTS),
        first_ns=_whole(letter.first_ns),
        last_ns=_whole(letter.last_ns),
        type=as_id(letter.type),
        source=as_id(letter.source),
        principal=as_id(letter.principal),
    )


def _whole(value: object) -> int:
    return min(max(value, 0), _MOST) if isinstance(value, int) else 1


def _without_content(letter: Letter, error: Exception) -> Letter:
    reason = f"{letter.reason} (of {len(letter.event)} bytes, which cannot be stored: {line(error)})"
    return letter._replace(event_id=line(letter.event_id), type=line(letter.type), reason=reason, event=b"")
