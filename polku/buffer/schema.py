"""The tables of a journal, and the steps that bring a file of an older format to the present one.

A format is a number (`PRAGMA user_version`), and each has one step here: the statements that make a file of the format
before it one of this format. A writer takes all steps that a file lacks in one transaction; a reader changes nothing
and sees an older file through temporary views that have what it lacks. To change the tables, add a step at the end.
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import NamedTuple

from polku.sqlite import APPLICATION

_LOG = logging.getLogger(__name__)


class FormatStep(NamedTuple):
    """What a format adds: `upgrade` changes the file, `reading` shows a file without it as if it had it.

    `reading` may make `TEMP` views and tables only, whose names stand in front of those in the file (`main.batch`).
    The function `seal` is there for both.
    """

    upgrade: tuple[str, ...]
    reading: tuple[str, ...] = ()


_TABLES = FormatStep(
    (
        "CREATE TABLE batch("
        "position INTEGER PRIMARY KEY, takers INTEGER NOT NULL, events INTEGER NOT NULL, size INTEGER NOT NULL, "
        "origin TEXT, epoch INTEGER, seq INTEGER, routes TEXT, enqueued_ns INTEGER, trace TEXT, "
        "payload BLOB NOT NULL, seal INTEGER NOT NULL)",
        "CREATE TABLE outlet(name TEXT PRIMARY KEY, bit INTEGER NOT NULL UNIQUE, cursor INTEGER NOT NULL)",
        "CREATE TABLE answered("
        "origin TEXT, epoch INTEGER, seq INTEGER, first INTEGER, last INTEGER, refused TEXT, "
        "PRIMARY KEY(origin, epoch, seq)) WITHOUT ROWID",
        "CREATE TABLE counter(name TEXT PRIMARY KEY, value INTEGER NOT NULL)",
    )
)
_OWNER_COLUMNS = "token TEXT, pid INTEGER, host TEXT, boot TEXT, path TEXT, since_ns INTEGER"
_OWNER = FormatStep(
    (f"CREATE TABLE owner({_OWNER_COLUMNS})", f"PRAGMA application_id={APPLICATION}"),
    reading=(f"CREATE TEMP TABLE owner({_OWNER_COLUMNS})",),
)
_PIECES = FormatStep(
    ("ALTER TABLE answered ADD COLUMN pieces TEXT NOT NULL DEFAULT ''",),
    reading=("CREATE TEMP VIEW answered AS SELECT *, '' AS pieces FROM main.answered",),
)
_SERVED = FormatStep(
    ("ALTER TABLE outlet ADD COLUMN served INTEGER NOT NULL DEFAULT 1",),  # whether the latest pipeline has it
    reading=("CREATE TEMP VIEW outlet AS SELECT *, 1 AS served FROM main.outlet",),
)
STEPS = (_TABLES, _OWNER, _PIECES, _SERVED)
VERSION = len(STEPS)


def upgrade(db: sqlite3.Connection, path: Path) -> None:
    """Take the steps that a file lacks, all of them or none, and log that it is of another format now; raises SQLite's
    errors.
    """
    if _version(db) == VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        version = _version(db)
        for step in STEPS[version:]:
            for statement in step.upgrade:
                db.execute(statement)
        db.execute(f"PRAGMA user_version={VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    if version:
        _LOG.info("journal %s: format %d is %d now, which an older POLKU cannot open", path, version, VERSION)


def read_as_present(db: sqlite3.Connection) -> None:
    """Show an older file in the present format on this connection, without changing it; raises SQLite's errors."""
    for step in STEPS[_version(db) :]:
        for statement in step.reading:
            db.execute(statement)


def is_journal(db: sqlite3.Connection) -> bool:
    """Return whether a database that is not empty was made by POLKU as a journal; raises SQLite's errors."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    if application:
        return bool(application == APPLICATION)
    if _version(db) != 1:
        return False
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    return tables >= {"batch", "outlet", "answered", "counter"}


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])
