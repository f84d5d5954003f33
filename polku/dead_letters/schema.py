"""The tables of a file of dead letters, and how a file of an earlier version becomes one of this.

Version 1 had one row for each event id and emitter, and the later event of an id took the place of the earlier one.
In version 2 a row is one event: the same source, id and content at the same emitter. In version 3 it has its principal,
and there is a row in `kind` for each principal.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sqlite3
from pathlib import Path

from google.protobuf.message import DecodeError

from polku.errors import JournalError
from polku.event.v1.event_pb2 import Event
from polku.sqlite import DEAD_LETTERS

_LOG = logging.getLogger(__name__)
VERSION = 3
_OLD = "id, event_id, emitter, code, reason, detail, attempts, first_ns, last_ns, type, source, replay, event"
COLUMNS = f"{_OLD}, principal"
_LETTERS = """
CREATE TABLE letter(
    id INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL, emitter TEXT NOT NULL, code TEXT NOT NULL,
    reason TEXT NOT NULL, detail TEXT NOT NULL, attempts INTEGER NOT NULL, first_ns INTEGER NOT NULL,
    last_ns INTEGER NOT NULL, type TEXT NOT NULL, source TEXT NOT NULL, replay INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL, digest BLOB NOT NULL, event BLOB NOT NULL, principal TEXT NOT NULL DEFAULT '',
    UNIQUE(event_id, source, emitter, digest));
CREATE INDEX replays ON letter(emitter, replay) WHERE replay > 0;
"""
_HAS = "emitter={0}.emitter AND code={0}.code AND principal={0}.principal"
_OLD_IS, _NEW_IS = _HAS.format("old"), _HAS.format("new")
_LESS = f"UPDATE kind SET letters=letters-1, bytes=bytes-old.size WHERE {_OLD_IS};"
_MORE = f"""INSERT INTO kind(emitter, code, principal) SELECT new.emitter, new.code, new.principal
        WHERE NOT EXISTS (SELECT 1 FROM kind WHERE {_NEW_IS});
    UPDATE kind SET letters=letters+1, bytes=bytes+new.size WHERE {_NEW_IS};"""
_KINDS = f"""
CREATE INDEX of_kind ON letter(emitter, code, principal, id);
CREATE TABLE kind(
    emitter TEXT NOT NULL, code TEXT NOT NULL, principal TEXT NOT NULL, letters INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0, forgotten INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY(emitter, code, principal)) WITHOUT ROWID;
CREATE TRIGGER added AFTER INSERT ON letter BEGIN {_MORE} END;
CREATE TRIGGER removed AFTER DELETE ON letter BEGIN {_LESS} END;
CREATE TRIGGER changed AFTER UPDATE OF code, size, principal ON letter BEGIN {_LESS} {_MORE} END;
"""
_COUNTERS = """
CREATE TABLE IF NOT EXISTS counter(name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT OR IGNORE INTO counter VALUES ('forgotten', 0), ('total', 0), ('replays', 0), ('birth', abs(random()) >> 1);
DELETE FROM counter WHERE name IN ('letters', 'bytes');
"""
_WITHOUT_TRIGGERS = """
DROP TRIGGER IF EXISTS added; DROP TRIGGER IF EXISTS removed; DROP TRIGGER IF EXISTS changed;
"""
_FROM_VERSION_1 = f"""
{_WITHOUT_TRIGGERS}
DROP INDEX IF EXISTS replays;
ALTER TABLE letter RENAME TO letter_1;
{_LETTERS}
{_KINDS}
INSERT INTO letter({_OLD}, size, digest) SELECT {_OLD}, size, digest(event) FROM letter_1 ORDER BY id;
UPDATE sqlite_sequence SET seq = (SELECT max(seq) FROM sqlite_sequence WHERE name IN ('letter', 'letter_1'))
    WHERE name = 'letter';
INSERT INTO sqlite_sequence SELECT 'letter', seq FROM sqlite_sequence WHERE name = 'letter_1'
    AND NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'letter');
DROP TABLE letter_1;
"""
_FROM_VERSION_2 = f"""
{_WITHOUT_TRIGGERS}
DROP INDEX of_kind;
ALTER TABLE letter ADD COLUMN principal TEXT NOT NULL DEFAULT '';
ALTER TABLE kind RENAME TO kind_2;
{_KINDS}
INSERT INTO kind SELECT emitter, code, '', letters, bytes, forgotten FROM kind_2;
DROP TABLE kind_2;
"""


def prepare(db: sqlite3.Connection, path: Path) -> None:
    """Make the tables of a new file, or bring those of an older version up to this one, in one transaction."""
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (mark,) = db.execute("PRAGMA application_id").fetchone()  # after them: they come with it, maybe just now
    if tables and mark != DEAD_LETTERS:
        raise JournalError(path, f"is no file of dead letters{beside(path)}")
    db.execute("PRAGMA auto_vacuum=INCREMENTAL")
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.create_function("digest", 1, digest, deterministic=True)
    if _version(db, path) == VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        version = _version(db, path)  # another process may have done it meanwhile
        if version < VERSION:
            is_new = db.execute("SELECT 1 FROM sqlite_master WHERE name='letter'").fetchone() is None
            _run(db, _LETTERS + _KINDS if is_new else _FROM_VERSION_2 if version == 2 else _FROM_VERSION_1)
            _run(db, _COUNTERS)
            db.execute(f"PRAGMA application_id={DEAD_LETTERS}")
            db.execute(f"PRAGMA user_version={VERSION}")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise
    if 0 < version < VERSION:
        _LOG.info("dead letters %s: format %d is %d now, which an older POLKU cannot open", path, version, VERSION)


def digest(event: bytes) -> bytes:
    """Return what tells the content of a serialised event from that of others, in whatever order its map stands."""
    with contextlib.suppress(DecodeError):  # the bytes as they are serve as well
        event = Event.FromString(event).SerializeToString(deterministic=True)
    return hashlib.blake2b(event, digest_size=16).digest()


def beside(path: Path) -> str:
    """Return where a journal's dead letters are, for somebody who named the journal."""
    letters = Path(f"{path}.dead")
    return f"; those of a journal are beside it, in {letters}" if letters.exists() else ""


def _version(db: sqlite3.Connection, path: Path) -> int:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version not in range(VERSION + 1):
        raise JournalError(path, f"was written by another version of POLKU (format {version}, ours {VERSION})")
    return int(version)


def _run(db: sqlite3.Connection, script: str) -> None:
    """Run statements within the transaction: `executescript` would commit it first."""
    statement = ""
    for part in script.split(";"):
        statement += f"{part};"
        if sqlite3.complete_statement(statement):
            db.execute(statement)
            statement = ""
