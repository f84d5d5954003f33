"""The SQLite file of a journal: how it is opened, what a row is, and what its errors mean.

WAL with `synchronous=FULL`: what was committed survives the loss of power. Every row of `batch` carries a checksum over
all of its columns, so that no damaged one is ever served.

Measured for rows of 130 kB, written, passed and deleted: pages of 32 KiB cost 0.41 ms CPU a commit, of 4 KiB 0.58 ms;
for rows of 300 bytes 0.21 and 0.19 ms. Freed pages are given back to the file system a few at a time.
"""

from __future__ import annotations

import sqlite3
import zlib
from pathlib import Path

from polku.buffer.schema import VERSION, is_journal, read_as_present, upgrade
from polku.disk import make_private
from polku.errors import JournalPathError
from polku.sqlite import DEAD_LETTERS, connect

PAGE = 32 * 1024
_CHECKPOINT_PAGES = 4 * 1024 * 1024 // PAGE
ENTRY = 13
"""The number of columns of `entry`, the view through which one statement writes all that a commit holds."""

BATCH, ANSWER, CURSOR, OWNER = range(4)
"""What an entry is: the columns after this one are those of the table, and then nothing.

`OWNER` writes nothing: with another token than that of the journal's owner, nothing of its transaction is done.
"""

TAKEN_OVER = "another owner has taken the journal over"

_COLUMNS = [f"c{number}" for number in range(1, ENTRY)]
_ENTRY = f"""
PRAGMA temp_store=MEMORY;
CREATE TEMP VIEW entry AS SELECT 0 AS kind, {", ".join(f"0 AS {column}" for column in _COLUMNS)};
CREATE TEMP TRIGGER write_batch INSTEAD OF INSERT ON entry WHEN NEW.kind={BATCH} BEGIN
    INSERT INTO batch VALUES({", ".join(f"NEW.{column}" for column in _COLUMNS)});
END;
CREATE TEMP TRIGGER write_answer INSTEAD OF INSERT ON entry WHEN NEW.kind={ANSWER} BEGIN
    INSERT OR REPLACE INTO answered VALUES({", ".join(f"NEW.{column}" for column in _COLUMNS[:7])});
END;
CREATE TEMP TRIGGER write_cursor INSTEAD OF INSERT ON entry WHEN NEW.kind={CURSOR} BEGIN
    UPDATE outlet SET cursor=NEW.c2 WHERE name=NEW.c1;
END;
CREATE TEMP TRIGGER check_owner INSTEAD OF INSERT ON entry WHEN NEW.kind={OWNER} BEGIN
    SELECT RAISE(ABORT, '{TAKEN_OVER}') WHERE NOT EXISTS (SELECT 1 FROM owner WHERE token=NEW.c1);
END;
"""


def open_file(path: Path, *, writable: bool) -> sqlite3.Connection:
    """Connect to a journal, making it where it is missing and `writable`; raises SQLite's errors and `JournalError`."""
    if writable:
        make_private(path)
    mode = "rwc" if writable else "ro"
    target = f"file:{_escape(path)}?mode={mode}"
    db = connect(target, path)
    try:
        if writable:
            db.execute(f"PRAGMA page_size={PAGE}")
            db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        db.create_function("seal", -1, seal, deterministic=True)
        _check_made_by_us(db, path, writable=writable)
        if writable:
            _prepare(db, path)
        else:
            read_as_present(db)
    except BaseException:
        db.close()
        raise
    return db


def seal(*columns: object) -> int:
    """Return the checksum of a row's columns but the last."""
    *head, payload = columns
    return zlib.crc32(payload if isinstance(payload, bytes) else b"", zlib.crc32(repr(head).encode(errors="replace")))


def weigh(size: int) -> int:
    """Return what a payload of so many bytes takes on disk: small rows share a page, large ones fill theirs."""
    return size + 64 if size < PAGE - 256 else (size // PAGE + 2) * PAGE


def files_of(path: Path) -> list[Path]:
    """Return the files that a journal consists of."""
    return [Path(f"{path}{suffix}") for suffix in ("", "-wal", "-shm")]


def _check_made_by_us(db: sqlite3.Connection, path: Path, *, writable: bool) -> None:
    """Raise `JournalError` where this is another program's database, or not one that this version can use."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    if application == DEAD_LETTERS:
        raise JournalPathError(path, "is a file of dead letters, not a journal; `polku dlq list` shows it")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    is_empty = not (application or version or db.execute("SELECT 1 FROM sqlite_master").fetchone())
    if is_empty and writable:
        return
    if is_empty or not is_journal(db):
        raise JournalPathError(path, "is not a journal; choose another path")
    if version > VERSION:
        raise JournalPathError(path, f"was written by a newer version of POLKU (format {version}, ours {VERSION})")


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("PRAGMA secure_delete=OFF")  # some builds overwrite what is deleted: all that was written, once more
    db.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
    db.execute(f"PRAGMA journal_size_limit={_CHECKPOINT_PAGES * PAGE}")
    upgrade(db, path)
    db.executescript(_ENTRY)


def _escape(path: Path) -> str:
    return str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
