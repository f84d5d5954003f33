"""Find what is damaged in a journal, and make it whole again from what can be read of it.

The new file is written beside the old one, and only when it is complete (and on disk) takes its place; a repair that is
interrupted is finished, or begun again, when the journal is opened the next time. The old file stays, under another
name.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from polku.buffer.journal import Journal
from polku.buffer.journal_file import files_of, open_file
from polku.buffer.journal_rows import Transaction, batch_of, read_answers, read_cursors
from polku.buffer.lock import FileLock
from polku.buffer.owner import Owner
from polku.buffer.place import check_ours, check_place
from polku.disk import sync_folders
from polku.errors import JournalError
from polku.sqlite import as_journal_error

T = TypeVar("T")

OnRead = Callable[[int, int], None]
_AT_ONCE = 256  # rows copied in one transaction


class Damage(NamedTuple):
    """One fault: what it is, and how many batches it costs at most."""

    text: str
    batches: int


class Salvage(NamedTuple):
    """What a repair achieved: batches kept, batches lost (at most), the faults found, where the old file is."""

    path: str
    kept: int
    lost: int
    faults: tuple[str, ...]
    old: str

    def __str__(self) -> str:
        faults = "; ".join(self.faults[:5]) or "none"
        more = f" and {len(self.faults) - 5} more" if len(self.faults) > 5 else ""
        return (
            f"journal {self.path}: {self.kept} batches kept, {self.lost} lost at most, faults: {faults}{more}; "
            f"the old file is {self.old}"
        )


def salvage(path: str | Path, *, owner: Owner | None = None) -> Salvage:
    """Write a journal again with every batch, cursor and answer that can be read.

    With an `owner` the caller has its lock, and the new one is that owner's too.

    Raises `JournalLockedError` where a process has it open, and `JournalError` where the new one cannot be written:
    then the old one is as it was.
    """
    path = _real(path)
    with contextlib.nullcontext() if owner else _locked(path), _errors(path):
        if not path.exists():
            raise JournalError(path, "there is no such file")
        return _salvage(path, owner)


def mend(path: str | Path, on_read: OnRead | None = None) -> Salvage | None:
    """Salvage a journal that has faults; return None where it has none and is left as it is. Raises like `salvage`."""
    path = _real(path)
    with _locked(path), _errors(path):
        return _salvage(path) if next(faults(path, on_read), "") else None


def finish_salvage(path: str | Path) -> str:
    """Put a repaired journal in its place, if there is one; return where the old file is then, or an empty string."""
    path = _real(path)
    new = Path(f"{path}.repaired")
    if not new.exists():
        return ""
    sync_folders(path.parent)  # before the old one goes the new one is there, also after a loss of power
    stem = f"{path}.damaged-{time.time_ns()}"
    for file in files_of(path)[1:]:
        if file.exists():
            file.rename(f"{stem}{file.name.removeprefix(path.name)}")
    if path.exists():
        path.rename(stem)
    new.rename(path)
    sync_folders(path.parent)
    return stem


def faults(path: str | Path, on_read: OnRead | None = None) -> Iterator[str]:
    """Yield a sentence for each fault of a journal, which may be open elsewhere; raises `JournalError`.

    `on_read` is told how many batches have been read, and of how many.
    """
    path = _real(path)
    if not path.exists():
        raise JournalError(path, "there is no such file")
    try:
        db = open_file(path, writable=False)
    except sqlite3.Error as error:
        yield f"the file: {error}"
        return
    found: list[Damage] = []
    with contextlib.closing(db):
        try:
            yield from (text for (text,) in db.execute("PRAGMA integrity_check(20)") if text != "ok")
        except sqlite3.Error as error:
            yield f"the file: {error}"
        total = _count(db) if on_read is not None else 0
        for read, _ in enumerate(_rows(db, path, found), 1):
            if on_read is not None:
                on_read(read, total)
        _read(lambda: read_cursors(db), "the cursors", found)
        _read(lambda: read_answers(db), "the answers", found)
    yield from (damage.text for damage in found)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with _errors(path):
        check_place(path)
        lock = FileLock(path)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise as_journal_error(path, error) from error


def _real(path: str | Path) -> Path:
    """Follow links, so that a journal's own files are moved."""
    return Path(os.path.realpath(path))


def _salvage(path: Path, owner: Owner | None = None) -> Salvage:
    check_ours(path)
    with contextlib.suppress(sqlite3.Error):
        open_file(path, writable=False).close()  # of another program, or another version: not ours to repair
    new = Path(f"{path}.repairing")
    for file in files_of(new):
        file.unlink(missing_ok=True)
    found: list[Damage] = []
    journal = Journal(new, lock=False, owner=owner)
    try:
        kept = _copy(path, journal, found)
        lost = sum(damage.batches for damage in found)
        if lost:
            journal.write(Transaction(lost=lost))
        journal.checkpoint()
    except sqlite3.Error as error:
        raise as_journal_error(path, error) from error
    finally:
        journal.close(leave=owner is None)
    new.rename(f"{path}.repaired")
    old = finish_salvage(path)
    return Salvage(str(path), kept, lost, tuple(damage.text for damage in found), old)


def _copy(path: Path, journal: Journal, found: list[Damage]) -> int:
    try:
        db = open_file(path, writable=False)
    except sqlite3.Error as error:
        found.append(Damage(f"the file: {error}", 0))
        return 0
    with contextlib.closing(db):
        cursors = _read(lambda: read_cursors(db), "the cursors", found)
        journal.adopt(cursors)
        kept, rows = 0, []
        for row in _rows(db, path, found):
            rows.append(row)
            kept += 1
            if len(rows) == _AT_ONCE:
                journal.restore(rows)
                rows = []
        journal.restore(rows)
        journal.write(Transaction(answers=_read(lambda: read_answers(db), "the answers", found)))
        counted = _read(lambda: db.execute("SELECT value FROM counter WHERE name='lost_batches'").fetchall(), "", [])
        if counted:
            journal.write(Transaction(lost=counted[0][0]))
    return kept


def _read(query: Callable[[], list[T]], what: str, found: list[Damage]) -> list[T]:
    try:
        return query()
    except (sqlite3.Error, JournalError, ValueError) as error:
        found.append(Damage(f"{what}: {getattr(error, 'reason', error)}", 0))
        return []


def _rows(db: sqlite3.Connection, path: Path, found: list[Damage]) -> Iterator[tuple[object, ...]]:
    """Yield the rows that are whole; what is not is found."""
    for position in _positions(db, found):
        try:
            row = db.execute("SELECT * FROM batch WHERE position=?", (position,)).fetchone()
            if row is None:
                continue
            batch_of(path, row)
        except (sqlite3.Error, JournalError, ValueError) as error:
            reason = getattr(error, "reason", f"the batch at position {position}: {error}")
            found.append(Damage(reason, 1))
        else:
            yield row


def _positions(db: sqlite3.Connection, found: list[Damage]) -> Iterator[int]:
    """Yield the positions of the batches, passing over pages that cannot be read."""
    position = 0
    while True:
        try:
            row = _seek(db, position)
        except sqlite3.Error as error:
            readable = _next_readable(db, position)
            if readable is None:
                lost = max(_last_known(db) - position, 0)
                found.append(Damage(f"after position {position}: nothing can be read ({error})", lost))
                return
            text = f"positions {position + 1} to {readable}: cannot be read ({error})"
            found.append(Damage(text, readable - position))
            position = readable
            continue
        if row is None:
            return
        yield row[0]
        position = row[0]


def _count(db: sqlite3.Connection) -> int:
    try:
        return int(db.execute("SELECT count(*) FROM batch").fetchone()[0])
    except sqlite3.Error:
        return 0


def _seek(db: sqlite3.Connection, after: int) -> tuple[int] | None:
    found: tuple[int] | None = db.execute(
        "SELECT position FROM batch WHERE position>? ORDER BY position LIMIT 1", (after,)
    ).fetchone()
    return found


def _next_readable(db: sqlite3.Connection, position: int) -> int | None:
    """Return a position past damaged pages from where the search works again: by doubling steps, then by halving."""
    damaged, step = position, 1
    while not _works(db, damaged + step):
        damaged, step = damaged + step, step * 2
        if step > 1 << 40:
            return None
    readable = damaged + step
    while readable - damaged > 1:
        middle = (damaged + readable) // 2
        if _works(db, middle):
            readable = middle
        else:
            damaged = middle
    return readable


def _works(db: sqlite3.Connection, position: int) -> bool:
    try:
        _seek(db, position)
    except sqlite3.Error:
        return False
    return True


def _last_known(db: sqlite3.Connection) -> int:
    last = 0
    for query in ("SELECT max(cursor) FROM outlet", "SELECT max(last) FROM answered"):
        with contextlib.suppress(sqlite3.Error):
            last = max(last, db.execute(query).fetchone()[0] or 0)
    return last
